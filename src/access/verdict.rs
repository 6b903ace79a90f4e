//! May this user run this command? Without an allocation, but for what has very many keys.

use super::catalog::{Catalog, Command, CommandId, Found};
use super::channels::Channels;
use super::dialect::Dialect;
use super::keys::KeyRefs;
use super::log::Reason;
use super::selector::Selector;
use super::user::User;
use super::users::one_line;

/// A command that somebody wants to run.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Which one, as [`Catalog::find`] tells.
    pub command: CommandId,
    /// All arguments, from the name on.
    pub args: &'a [&'a [u8]],
    /// The database of the connection.
    pub db: u32,
    /// How many the upstream has.
    pub databases: u32,
}

/// What is not allowed. Of several that different sets of rights find, the greatest is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum What {
    /// A database.
    Database,
    /// The command.
    Command,
    /// A key.
    Key,
    /// A channel.
    Channel,
}

/// Why not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Denied {
    /// What is not allowed.
    pub what: What,
    /// The command that was judged: within another one, the inner one.
    pub command: CommandId,
    /// The place of the key, channel or database among all arguments, or of the command itself.
    pub at: usize,
    /// Where the command that was judged begins.
    pub from: usize,
}

/// Whether `user` may do what is asked for. One of the user's sets of rights must allow all of it.
pub fn judge(user: &User, catalog: &Catalog, request: Request<'_>) -> Result<(), Denied> {
    judge_one(user, catalog, request)?;
    let Some(inner_at) = catalog.command(request.command).inner_at else { return Ok(()) };
    let args = request.args.get(inner_at..).unwrap_or_default();
    let Found::Command(command) = catalog.find(args) else {
        let denied = Denied { what: What::Command, command: request.command, at: inner_at, from: inner_at };
        return if may_all(user) { Ok(()) } else { Err(denied) };
    };
    // A guard within a guard is refused for what it is.
    if catalog.command(command).inner_at.is_some() {
        return Ok(());
    }
    judge_one(user, catalog, Request { command, args, ..request }).map_err(|denied| Denied {
        at: denied.at + inner_at,
        from: inner_at,
        ..denied
    })
}

/// Whether `user` may do whatever there is, in one set of rights: who may not, runs nothing that the upstream has not told of. It may know more
/// commands by now, and nobody could say what they reach.
pub fn may_all(user: &User) -> bool {
    user.selectors
        .iter()
        .any(|selector| selector.commands.all && selector.all_keys && selector.all_channels && selector.all_databases)
}

fn judge_one(user: &User, catalog: &Catalog, request: Request<'_>) -> Result<(), Denied> {
    let command = catalog.command(request.command);
    let mut keys = None;
    let mut worst = (What::Database, 0);
    for selector in &user.selectors {
        match denied_by(selector, command, &request, &mut keys) {
            None => return Ok(()),
            Some(denied) => worst = worst.max(denied),
        }
    }
    let (what, at) = worst;
    Err(Denied { what, command: request.command, at, from: 0 })
}

/// What one set of rights does not allow, and where; `None` if it allows all. The keys are looked for once for all sets.
fn denied_by(
    selector: &Selector,
    command: &Command,
    request: &Request<'_>,
    keys: &mut Option<KeyRefs>,
) -> Option<(What, usize)> {
    let args = request.args;
    if !selector.all_databases {
        let allowed = |db| selector.allows_database(db);
        if let Some(at) = command.reach.first_denied(args, request.db, request.databases, allowed) {
            return Some((What::Database, at));
        }
    }
    if !command.is_free && !selector.commands.allows(request.command, args) {
        return Some((What::Command, 0));
    }
    if !selector.all_keys && command.is_opaque {
        return Some((What::Key, 0));
    }
    if !selector.all_keys && command.keys.has_keys() {
        let keys = keys.get_or_insert_with(|| command.keys.find(args));
        let denied = |at: usize, touch| args.get(at).is_none_or(|key| !selector.allows_key(key, touch));
        if let Some(key) = keys.as_slice().iter().find(|key| denied(key.at, key.touch)) {
            return Some((What::Key, key.at));
        }
    }
    let channels = command.channels.filter(|_| !selector.all_channels)?;
    let is_denied = |at: &usize| match channels {
        Channels::Patterns => !selector.allows_channel_pattern(args[*at]),
        Channels::Published | Channels::Subscribed => !selector.allows_channel(args[*at]),
    };
    channels.places(args.len()).find(is_denied).map(|at| (What::Channel, at))
}

impl Denied {
    /// What a client is answered that wanted to run it: an error's text from its first word on.
    pub fn noperm(&self, user: &User, catalog: &Catalog, dialect: Dialect) -> Vec<u8> {
        let name = catalog.command(self.command).name.as_bytes();
        // A refused EXEC ends the transaction.
        let ends: &[u8] = if name == b"exec" { b"EXECABORT Transaction discarded because of: " } else { b"" };
        let says = self.refusal(name, user, dialect);
        one_line([ends, &says].concat())
    }

    fn refusal(&self, name: &[u8], user: &User, dialect: Dialect) -> Vec<u8> {
        match (self.what, dialect.names_the_user) {
            (What::Command, true) => {
                [b"NOPERM User ", user.name(), b" has no permissions to run the '", name, b"' command"].concat()
            }
            (What::Command, false) => {
                [b"NOPERM this user has no permissions to run the '", name, b"' command"].concat()
            }
            (What::Key, true) => b"NOPERM No permissions to access a key".to_vec(),
            (What::Channel, true) => b"NOPERM No permissions to access a channel".to_vec(),
            (What::Key, false) => {
                b"NOPERM this user has no permissions to access one of the keys used as arguments".to_vec()
            }
            (What::Channel, false) => {
                b"NOPERM this user has no permissions to access one of the channels used as arguments".to_vec()
            }
            (What::Database, _) => b"NOPERM No permissions to access database".to_vec(),
        }
    }

    /// What is answered for a command that was queued while it was allowed, and is not any more at `EXEC`.
    pub fn at_exec(&self) -> String {
        let reason = match self.what {
            What::Command => "no permission to execute the command or subcommand",
            What::Key => "no permission to touch the specified keys",
            What::Channel => "no permission to access one of the channels used as arguments",
            What::Database => "no permission",
        };
        format!(
            "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This command is no longer allowed \
             for the following reason: {reason}"
        )
    }

    /// What `ACL DRYRUN` answers, a string and no error.
    pub fn dry_run(&self, user: &User, catalog: &Catalog, dialect: Dialect, args: &[&[u8]]) -> Vec<u8> {
        let who: &[u8] = if dialect.names_the_user { b"User " } else { b"This user" };
        let name: &[u8] = if dialect.names_the_user { user.name() } else { b"" };
        let command = catalog.command(self.command).name.as_bytes();
        let object = args.get(self.at).copied().unwrap_or_default();
        match self.what {
            What::Command => [who, name, b" has no permissions to run the '", command, b"' command"].concat(),
            What::Key => [who, name, b" has no permissions to access the '", object, b"' key"].concat(),
            What::Channel => [who, name, b" has no permissions to access the '", object, b"' channel"].concat(),
            What::Database => [who, name, b" has no permissions to access database ", object].concat(),
        }
    }

    /// Its reason in `ACL LOG`.
    pub fn reason(&self) -> Reason {
        match self.what {
            What::Database => Reason::Database,
            What::Command => Reason::Command,
            What::Key => Reason::Key,
            What::Channel => Reason::Channel,
        }
    }

    /// Its object in `ACL LOG`: the command's name, or the key, channel or database.
    pub fn object<'a>(&self, catalog: &'a Catalog, args: &[&'a [u8]]) -> &'a [u8] {
        match self.what {
            What::Command => catalog.command(self.command).name.as_bytes(),
            What::Database if self.at == self.from => catalog.command(self.command).name.as_bytes(),
            _ => args.get(self.at).copied().unwrap_or_default(),
        }
    }
}
