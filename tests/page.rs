//! The page of the admin server in headless Chromium; the stories are in `tests/clients/node/page.mjs`.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Admin, Lockgate, RedisServer, tools};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Plays a story to its end.
#[track_caller]
fn plays(story: &str) {
    let folder = tools::source_dir().join("tests/clients/node");
    assert!(folder.join("node_modules").exists(), "run scripts/setup-tests.sh first (or npm ci in {folder:?})");
    assert!(
        Command::new("chromium").arg("--version").output().is_ok(),
        "run scripts/setup-tests.sh first: no chromium"
    );
    let server = RedisServer::start();
    let lockgate =
        Lockgate::serve(&["--upstream", &server.url(), "--admin", "127.0.0.1:0"], Some("admin_token = 's3cret'\n"));
    let admin = Admin::of(&lockgate).0.to_string();
    let mut child = Command::new("node")
        .arg(folder.join("page.mjs"))
        .args([&lockgate.port().to_string(), story, &admin, "s3cret"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ended = common::within(Duration::from_secs(180), || child.try_wait().unwrap());
    if ended.is_none() {
        let _ = child.kill();
    }
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("seen"), "{story}: {said}");
    println!("{story}: {said}");
}

#[test]
fn what_would_like_to_be_markup_is_text_and_a_lock_is_taken_away_with_the_token_only() {
    plays("hostile");
}

#[test]
fn a_change_is_seen_within_half_a_second() {
    plays("quick");
}

#[test]
fn ten_thousand_locks_are_listed_and_filtered_without_a_stutter() {
    plays("many");
}
