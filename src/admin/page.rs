//! The page that shows it all to people: a few files, which are part of the binary. It loads nothing from elsewhere.

use axum::Router as Routes;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

use super::desk::Shared;

/// What the page may load and run: these files. No script or style stands in the markup, so that none which came with a key's name would run.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
#[derive(Clone, Copy)]
struct File {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

macro_rules! file {
    ($path:literal, $kind:expr, $name:literal) => {
        File { path: $path, kind: $kind, text: include_str!(concat!("page/", $name)) }
    };
    ($name:literal, $kind:expr) => {
        File { path: concat!("/page/", $name), kind: $kind, text: include_str!(concat!("page/", $name)) }
    };
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

const FILES: [File; 15] = [
    file!("/", "text/html; charset=utf-8", "index.html"),
    file!("page.css", STYLE),
    file!("icon.svg", "image/svg+xml"),
    file!("theme.js", SCRIPT),
    file!("main.js", SCRIPT),
    file!("api.js", SCRIPT),
    file!("charts.js", SCRIPT),
    file!("detail.js", SCRIPT),
    file!("dom.js", SCRIPT),
    file!("graph.js", SCRIPT),
    file!("model.js", SCRIPT),
    file!("panels.js", SCRIPT),
    file!("table.js", SCRIPT),
    file!("uPlot.iife.min.js", SCRIPT),
    file!("uPlot.min.css", STYLE),
];

/// Whether a browser that comes there is asked for the token in its own way.
pub(super) fn is_of(path: &str) -> bool {
    FILES.iter().any(|file| file.path == path)
}

/// The files, where browsers ask for them.
pub(super) fn routes() -> Routes<Shared> {
    FILES.into_iter().fold(Routes::new(), |routes, file| {
        routes.route(
            file.path,
            get(async move || {
                let headers = [
                    (header::CONTENT_TYPE, file.kind),
                    (header::CONTENT_SECURITY_POLICY, POLICY),
                    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
                    (header::X_FRAME_OPTIONS, "DENY"),
                    (header::REFERRER_POLICY, "no-referrer"),
                    // Another version of Lockgate has other files under the same names.
                    (header::CACHE_CONTROL, "no-cache"),
                ];
                (headers, file.text).into_response()
            }),
        )
    })
}
