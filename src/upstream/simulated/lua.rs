//! The scripts run as they are, in the Lua that Redis embeds.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use mlua::{Function, Lua, MultiValue, Value};

use super::reply::Reply;

thread_local! {
    /// Scripts keep nothing in it, so that all simulations of a thread share one.
    static ENGINE: Rc<Engine> = Rc::default();
}

#[derive(Default)]
struct Engine {
    lua: Lua,
    compiled: RefCell<HashMap<String, Function>>,
}

/// Runs `text`, whose digest is `digest`, with these KEYS and ARGV; `call` carries out the commands that it gives.
pub fn run(
    digest: &str,
    text: &[u8],
    (keys, args): (&[&[u8]], &[&[u8]]),
    call: &mut dyn FnMut(&[&[u8]]) -> Reply,
) -> Reply {
    let engine = ENGINE.with(Rc::clone);
    match engine.run(digest, text, (keys, args), call) {
        Ok(reply) => reply,
        Err(error) => {
            let first = error.to_string().lines().next().unwrap_or_default().to_owned();
            let code = first.split(' ').next().unwrap_or_default();
            let has_code = !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_uppercase());
            Reply::Error(if has_code { first } else { format!("ERR {first} script: {digest}") })
        }
    }
}

impl Engine {
    fn run(
        &self,
        digest: &str,
        text: &[u8],
        (keys, args): (&[&[u8]], &[&[u8]]),
        call: &mut dyn FnMut(&[&[u8]]) -> Reply,
    ) -> mlua::Result<Reply> {
        let lua = &self.lua;
        let known = self.compiled.borrow().get(digest).cloned();
        let function = match known {
            Some(function) => function,
            None => {
                let function = lua.load(text).into_function()?;
                self.compiled.borrow_mut().insert(digest.to_owned(), function.clone());
                function
            }
        };
        let strings = |all: &[&[u8]]| {
            let table = lua.create_table_with_capacity(all.len(), 0)?;
            for one in all {
                table.raw_push(lua.create_string(one)?)?;
            }
            Ok::<_, mlua::Error>(table)
        };
        lua.globals().raw_set("KEYS", strings(keys)?)?;
        lua.globals().raw_set("ARGV", strings(args)?)?;
        let call = &RefCell::new(call);
        lua.scope(|scope| {
            let redis = lua.create_table()?;
            for (name, raises) in [("call", true), ("pcall", false)] {
                let carry_out = scope.create_function(move |lua, words: MultiValue| {
                    let words: Vec<Vec<u8>> = words.iter().map(word).collect::<mlua::Result<_>>()?;
                    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
                    match (call.borrow_mut())(&words) {
                        Reply::Error(line) if raises => Err(mlua::Error::runtime(line)),
                        reply => to_lua(lua, &reply),
                    }
                })?;
                redis.raw_set(name, carry_out)?;
            }
            lua.globals().raw_set("redis", redis)?;
            let returned: Value = function.call(())?;
            of_lua(&returned)
        })
    }
}

/// An argument of a command: a string, or a number as Redis writes it.
fn word(value: &Value) -> mlua::Result<Vec<u8>> {
    match value {
        Value::String(text) => Ok(text.as_bytes().to_vec()),
        Value::Integer(number) => Ok(number.to_string().into_bytes()),
        Value::Number(number) if number.fract() == 0.0 && number.abs() < 1e17 => {
            Ok((*number as i64).to_string().into_bytes())
        }
        Value::Number(number) => Ok(number.to_string().into_bytes()),
        _ => Err(mlua::Error::runtime("ERR Lua redis lib command arguments must be strings or integers")),
    }
}

fn to_lua(lua: &Lua, reply: &Reply) -> mlua::Result<Value> {
    let table = |name: &str, text: &str| {
        let table = lua.create_table()?;
        table.raw_set(name, text)?;
        Ok::<_, mlua::Error>(Value::Table(table))
    };
    Ok(match reply {
        Reply::Simple(text) => table("ok", text)?,
        Reply::Error(line) => table("err", line)?,
        Reply::Integer(number) => Value::Number(*number as f64),
        Reply::Bulk(bytes) => Value::String(lua.create_string(bytes)?),
        Reply::Text(text) => Value::String(lua.create_string(text)?),
        Reply::Nil => Value::Boolean(false),
        Reply::Array(items) | Reply::Map(items) => {
            let table = lua.create_table_with_capacity(items.len(), 0)?;
            for item in items {
                table.raw_push(to_lua(lua, item)?)?;
            }
            Value::Table(table)
        }
    })
}

/// What a script returned, by the rules of `EVAL`: numbers lose their fraction, `false` is nothing, a list ends at the first nil.
fn of_lua(value: &Value) -> mlua::Result<Reply> {
    Ok(match value {
        Value::String(text) => Reply::Bulk(text.as_bytes().to_vec()),
        Value::Integer(number) => Reply::Integer(*number),
        Value::Number(number) => Reply::Integer(*number as i64),
        Value::Boolean(true) => Reply::Integer(1),
        Value::Table(table) => {
            if let Value::String(line) = table.raw_get::<Value>("err")? {
                return Ok(Reply::Error(line.to_string_lossy().to_string()));
            }
            if let Value::String(text) = table.raw_get::<Value>("ok")? {
                return Ok(Reply::Simple(text.to_string_lossy().to_string()));
            }
            let mut items = Vec::new();
            for at in 1.. {
                match table.raw_get::<Value>(at)? {
                    Value::Nil => break,
                    item => items.push(of_lua(&item)?),
                }
            }
            Reply::Array(items)
        }
        _ => Reply::Nil,
    })
}
