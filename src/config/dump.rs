//! The configuration as TOML, for `lockgate config dump`.

use std::fmt::Write;

use super::keys::{KEYS, RULE_KEYS, SCRIPT_KEYS};
use super::{Config, Loaded, Rule, Script};

/// What is in force, each line with the place that said it. Passwords are masked.
pub fn dump(loaded: &Loaded) -> String {
    let said_by = |key: &str| loaded.origins.get(key).map(|origin| format!("  # {origin}")).unwrap_or_default();
    write_all(&loaded.config, &|_| String::new(), &said_by)
}

/// The defaults, each with what it is for: a file to begin with.
pub fn dump_defaults() -> String {
    write_all(&Config::default(), &|says| format!("# {says}\n"), &|_| String::new())
}

fn write_all(config: &Config, above: &dyn Fn(&str) -> String, beside: &dyn Fn(&str) -> String) -> String {
    let mut out = String::new();
    let mut table = "";
    for key in KEYS {
        let (its_table, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
        if its_table != table {
            if table.is_empty() {
                // Rules stand between the plain keys and the tables: after a [table] they would read as part of it.
                out.push_str(&rules(&config.lock_keys, beside("lock_keys")));
                out.push_str(&scripts(&config.lock_scripts, &beside("lock_scripts")));
            }
            table = its_table;
            let _ = write!(out, "\n[{table}]\n");
        }
        let _ = writeln!(out, "{}{name} = {}{}", above(key.says), (key.show)(config), beside(key.name));
    }
    out
}

fn rules(rules: &[Rule], beside: String) -> String {
    let mut out = String::new();
    let unset = Rule::matching("");
    for rule in rules {
        let _ = write!(out, "\n[[lock_keys]]{beside}\n");
        for key in RULE_KEYS.iter().filter(|key| !(key.same)(rule, &unset)) {
            let _ = writeln!(out, "{} = {}", key.name, (key.show)(rule));
        }
    }
    if rules.is_empty() { format!("\nlock_keys = []{beside}\n") } else { out }
}

fn scripts(scripts: &[Script], beside: &str) -> String {
    let mut out = String::new();
    for script in scripts {
        let _ = write!(out, "\n[[lock_scripts]]{beside}\n");
        for key in SCRIPT_KEYS {
            let _ = writeln!(out, "{} = {}", key.name, (key.show)(script));
        }
    }
    out
}
