//! `docs/openapi.json` against the running server: each operation is asked, and its answer is one that the file declares, field by field.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::admin::Answer;
use common::{Admin, Lockgate, RedisServer, Reply, Wire, eventually, tools};
use serde_json::{Value, json};
use std::collections::BTreeSet;

struct File(Value);

impl File {
    fn read() -> File {
        let text = std::fs::read_to_string(tools::source_dir().join("docs/openapi.json")).unwrap();
        File(serde_json::from_str(&text).unwrap())
    }

    /// All operations: method and path.
    fn operations(&self) -> BTreeSet<(String, String)> {
        let paths = self.0["paths"].as_object().unwrap();
        let each = paths.iter().flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path.clone()))
        });
        each.collect()
    }

    /// The answer is one of those that are declared.
    #[track_caller]
    fn allows(&self, method: &str, path: &str, answer: &Answer) {
        let what = format!("{method} {path}: {} {}", answer.status, answer.body);
        let operation = &self.0["paths"][path][method.to_lowercase()];
        let declared = &operation["responses"][answer.status.to_string()];
        assert!(declared.is_object(), "not declared: {what}");
        let Some(content) = declared["content"].as_object() else {
            return assert!(answer.body.is_empty(), "a body was not declared: {what}");
        };
        let (kind, body) = content.iter().next().unwrap();
        let header = answer.head.lines().find(|line| line.starts_with("content-type: ")).unwrap_or_default();
        // The lock info is Terraform's own text.
        if path != "/api/terraform/{key}" {
            assert!(header.contains(kind.as_str()), "{header} instead of {kind}: {what}");
        }
        if kind == "application/json" && body["schema"]["type"] != "string" {
            self.fits(&answer.json(), &body["schema"], &what);
        }
    }

    /// As much of JSON Schema as the file uses.
    #[track_caller]
    fn fits(&self, value: &Value, schema: &Value, at: &str) {
        if let Some(wrong) = self.misfit(value, schema, at) {
            panic!("{wrong}");
        }
    }

    fn misfit(&self, value: &Value, schema: &Value, at: &str) -> Option<String> {
        if let Some(name) = schema["$ref"].as_str() {
            let schema = self.0.pointer(name.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{name} is missing"));
            return self.misfit(value, schema, at);
        }
        if let Some(either) = schema["oneOf"].as_array() {
            let wrong: Vec<_> = either.iter().map(|schema| self.misfit(value, schema, at)).collect();
            return wrong.iter().all(Option::is_some).then(|| format!("{wrong:?}"));
        }
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let kinds: Vec<&str> = match &schema["type"] {
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            kind => kind.as_str().into_iter().collect(),
        };
        let is_whole_number = kind == "integer" && kinds.contains(&"number");
        if !is_whole_number && !kinds.contains(&kind) {
            return Some(format!("{at}: {value} is no {kinds:?}"));
        }
        if let Some(words) = schema["enum"].as_array()
            && !words.contains(value)
            && !value.is_null()
        {
            return Some(format!("{at}: {value} is none of {words:?}"));
        }
        match value {
            Value::Array(items) => items
                .iter()
                .enumerate()
                .find_map(|(number, item)| self.misfit(item, &schema["items"], &format!("{at}[{number}]"))),
            Value::Object(fields) => self.object_misfit(fields, schema, at),
            _ => None,
        }
    }

    fn object_misfit(&self, fields: &serde_json::Map<String, Value>, schema: &Value, at: &str) -> Option<String> {
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        if let Some(missing) = required.into_iter().find(|name| !fields.contains_key(*name)) {
            return Some(format!("{at}: {missing} is missing"));
        }
        fields.iter().find_map(|(name, value)| {
            let at = format!("{at}.{name}");
            match (&schema["properties"][name], &schema["additionalProperties"]) {
                (known @ Value::Object(_), _) => self.misfit(value, known, &at),
                (_, other @ Value::Object(_)) => self.misfit(value, other, &at),
                _ => Some(format!("{at} is not declared")),
            }
        })
    }
}

fn waits(lockgate: &Lockgate, owner: &str) -> Wire {
    let mut wire = lockgate.wire();
    wire.ask_line(&format!("LOCK.ACQUIRE orders:1 {owner} WAIT 60000 TTL 60000"));
    let mut look = lockgate.wire();
    eventually("it waits", || match look.run(&format!("LOCK.POSITION orders:1 {owner}")) {
        Reply::Int(place) if place > 0 => Some(()),
        _ => None,
    });
    wire
}

#[test]
fn the_server_answers_as_the_file_says() {
    let file = File::read();
    let mut server = RedisServer::start();
    let config = "admin_token = 's3cret'\nadmin_benchmark = true\n[links]\nhold = '100ms'\n";
    let lockgate = Lockgate::serve(&["--upstream", &server.url(), "--admin", "127.0.0.1:0"], Some(config));
    let admin = Admin::of(&lockgate);
    let mut ann = lockgate.wire();
    ann.run("LOCK.ACQUIRE orders:1 ann TTL 600000 META text");
    ann.call(&["LOCK.ACQUIRE", "bytes\u{0}", "ann", "TTL", "600000"]);
    ann.run("SET lock:old host-1");
    ann.run("SET data text");
    let _waiting = [waits(&lockgate, "bob"), waits(&lockgate, "cat")];
    let info = json!({"ID": "one"}).to_string();
    let other = json!({"ID": "two"}).to_string();
    let token = [("authorization", "Bearer s3cret")];
    let mut asked = BTreeSet::new();
    let mut ask = |method: &str, path: &str, with: &str, body: &str, status: u16| {
        asked.insert((method.to_owned(), path.to_owned()));
        let target =
            format!("{}{with}", path.replace("{key}", if path.contains("terraform") { "prod" } else { "orders:1" }));
        let answer = admin.ask_with(method, &target, &token, body);
        assert_eq!(answer.status, status, "{method} {target}: {}", answer.body);
        file.allows(method, path, &answer);
        if method != "GET" {
            let refused = admin.ask_with(method, &target, &[], body);
            assert_eq!(refused.status, 401, "{method} {target}");
            file.allows(method, path, &refused);
            let foreign = admin.ask_with(method, &target, &[token[0], ("origin", "http://evil.example")], body);
            assert_eq!(foreign.status, 403, "{method} {target}");
            file.allows(method, path, &foreign);
        }
    };
    eventually("the upstream has told of itself", || {
        admin.get("/api/health/detailed")["upstream"]["memory"].is_object().then_some(())
    });
    for path in ["/", "/healthz", "/readyz", "/metrics", "/api/health", "/api/health/detailed", "/api/stats"] {
        ask("GET", path, "", "", 200);
    }
    for path in ["/api/latency", "/api/locks", "/api/locks/{key}", "/api/graph", "/api/deadlocks", "/api/pool-stats"] {
        ask("GET", path, "", "", 200);
    }
    for path in ["/api/cluster/status", "/api/cluster/nodes", "/api/queue-status"] {
        ask("GET", path, "", "", 200);
    }
    ask("GET", "/api/queue-status", "?show=3", "", 200);
    ask("GET", "/api/locks", "?db=x", "", 400);
    ask("POST", "/api/locks/{key}/promote", "?owner=cat&level=high", "", 200);
    ask("POST", "/api/locks/{key}/promote", "?owner=nobody&level=high", "", 404);
    ask("POST", "/api/locks/{key}/promote", "", "", 400);
    ask("DELETE", "/api/locks/{key}", "", "", 200);
    ask("DELETE", "/api/locks/{key}", "?db=3", "", 404);
    ask("POST", "/api/terraform/{key}", "?wait=soon", &info, 400);
    ask("POST", "/api/terraform/{key}", "", &info, 200);
    ask("POST", "/api/terraform/{key}", "", &other, 423);
    ask("DELETE", "/api/terraform/{key}", "", &other, 409);
    ask("DELETE", "/api/terraform/{key}", "", &info, 200);
    ask("POST", "/api/cleanup", "", "", 200);
    ask("POST", "/api/connections/warmup", "", "", 200);
    ask("POST", "/api/cluster/leader/election", "", "", 200);
    ask("POST", "/api/benchmark", "?duration=50ms", "", 200);
    ask("POST", "/api/benchmark", "?duration=1h", "", 400);
    server.kill();
    eventually("the upstream is away", || (admin.ask("GET", "/readyz").status == 503).then_some(()));
    eventually("and that is known", || (admin.ask("GET", "/api/health").status == 503).then_some(()));
    for path in ["/readyz", "/api/health", "/api/health/detailed", "/api/locks/{key}", "/api/locks"] {
        ask("GET", path, "", "", 503);
    }
    // A stream does not end.
    asked.insert(("GET".to_owned(), "/api/events".to_owned()));
    assert_eq!(file.operations(), asked, "each operation is asked, and none that the file does not know");
}

#[test]
fn the_file_the_page_of_docs_and_the_routes_name_the_same_paths() {
    let read = |path: &str| std::fs::read_to_string(tools::source_dir().join(path)).unwrap();
    let docs = read("docs/http-api.md");
    let in_docs: BTreeSet<String> = docs
        .lines()
        .filter_map(|line| line.strip_prefix("| `/")?.split('`').next().map(|path| format!("/{path}")))
        .collect();
    let in_file: BTreeSet<String> = File::read().operations().into_iter().map(|(_, path)| path).collect();
    assert_eq!(in_docs, in_file);
    let routes = read("src/admin/mod.rs");
    let in_routes: BTreeSet<String> = routes
        .split(".route(\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(|path| path.replace("{*key}", "{key}"))
        .collect();
    // The page's own path, and what stands behind a key, are found otherwise.
    let known: BTreeSet<String> =
        in_file.into_iter().filter(|path| path != "/" && path != "/api/locks/{key}/promote").collect();
    assert_eq!(in_routes, known);
}

#[test]
fn promtool_finds_nothing_to_complain_of() {
    use std::io::Write;
    let server = RedisServer::start();
    let lockgate = Lockgate::serve(&["--upstream", &server.url(), "--admin", "127.0.0.1:0"], None);
    let mut ann = lockgate.wire();
    ann.run("LOCK.ACQUIRE orders:1 ann TTL 600000");
    ann.run("PING");
    let _bob = waits(&lockgate, "bob");
    let answer = Admin::of(&lockgate).ask("GET", "/metrics");
    for line in ["lockgate_commands_total{path=\"shared\"} ", "lockgate_commands_total{path=\"single\"} "] {
        let count =
            answer.body.lines().find_map(|told| told.strip_prefix(line)).unwrap_or_else(|| panic!("{}", answer.body));
        assert!(count.parse::<u64>().unwrap() >= 1, "{line}{count}");
    }
    let mut promtool = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("run scripts/setup-tests.sh first: no promtool");
    promtool.stdin.take().unwrap().write_all(answer.body.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
