//! What sessions say: templates of commands by topic. `%k` is a key, `%l` a lock key, `%q` a list, `%v` a value, `%n` a
//! number, `%d` a database, `%u` a user with its password, `%w` a user's name, `%c` a channel, `%N` a name for a
//! connection, `%s` a session's id, `%a` its address.

/// What a command is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Topic {
    Data,
    LockKeys,
    Transaction,
    Watch,
    Itself,
    Others,
    Flags,
    Reply,
    Tracking,
    Pause,
    Mistakes,
    Pubsub,
    Connection,
    Scripts,
    Blocking,
    Rights,
    Monitor,
    Locks,
    Odd,
    /// Bytes that are no whole command, in front of the next one.
    Half,
}

pub use Topic::*;

impl Topic {
    pub const ALL: [(Topic, u32); 20] = [
        (Data, 20),
        (LockKeys, 8),
        (Transaction, 14),
        (Watch, 4),
        (Itself, 9),
        (Others, 7),
        (Flags, 3),
        (Reply, 4),
        (Tracking, 7),
        (Pause, 2),
        (Mistakes, 3),
        (Pubsub, 8),
        (Connection, 12),
        (Scripts, 4),
        (Blocking, 5),
        (Rights, 3),
        (Monitor, 1),
        (Locks, 3),
        (Odd, 3),
        (Half, 0),
    ];

    /// What is known to differ still, and is left out unless `DIFF_WITHOUT` is set.
    pub const OPEN: &[&str] = &[
        // A client that has no link of its own yet and is named in a transaction is refused.
        "CLIENT TRACKING ON REDIRECT %s",
        "CLIENT TRACKING ON REDIRECT %s NOLOOP",
        "CLIENT TRACKING ON REDIRECT %s BCAST",
        // RESET behind it is answered.
        "CLIENT REPLY SKIP",
    ];

    pub fn templates(self) -> &'static [&'static str] {
        match self {
            Data => DATA,
            LockKeys => LOCK_KEYS,
            Transaction => TRANSACTION,
            Watch => WATCH,
            Itself => ITSELF,
            Others => OTHERS,
            Flags => FLAGS,
            Reply => REPLY,
            Tracking => TRACKING,
            Pause => PAUSE,
            Mistakes => MISTAKES,
            Pubsub => PUBSUB,
            Connection => CONNECTION,
            Scripts => SCRIPTS,
            Blocking => BLOCKING,
            Rights => RIGHTS,
            Monitor => MONITOR,
            Locks => LOCKS,
            Odd => ODD,
            Half => &[],
        }
    }
}

/// The users: what each may do. All have the password `pw`, but for u0, whom nobody has made.
pub const USERS: [(&str, &str); 10] = [
    ("u1", "on >pw ~* &* +@all"),
    ("u2", "on >pw ~* &* +@all -multi -exec -discard"),
    ("u3", "on >pw ~* &* +@all -client"),
    ("u4", "on >pw ~* &* +@read"),
    ("u5", "on >pw ~app:* ~lock:* &ch1 +@all"),
    ("u6", "off >pw ~* &* +@all"),
    ("u7", "on >pw ~* +set +get +del +eval +evalsha"),
    ("u8", "on >pw ~* &* +@all -select -reset -subscribe -hello"),
    ("u9", "on >pw ~* &* +@all -client|kill -client|list -client|setname -client|pause -client|unblock -client|id"),
    ("ua", "on >pw"),
];

pub const KEYS: [&str; 5] = ["k1", "k2", "app:1", "n1", "db"];
pub const LOCK_KEY_NAMES: [&str; 3] = ["lock:a", "lock:b", "job:lock"];
pub const LISTS: [&str; 2] = ["q1", "app:q"];
pub const CHANNELS: [&str; 3] = ["ch1", "ch2", "news"];
pub const DATABASES: [&str; 10] = ["0", "0", "0", "1", "3", "3", "5", "15", "16", "99"];
pub const NAMES: [&str; 7] = ["ann", "bob", "cat:1", "\"\"", "\"two words\"", "\"cr\\r\\nlf\"", "é"];

const DATA: &[&str] = &[
    "SET %k %v",
    "SET %k %v",
    "GET %k",
    "GET %k",
    "GET db",
    "GET db",
    "INCR n1",
    "APPEND %k %v",
    "DEL %k",
    "EXISTS %k %k",
    "MGET %k %k %l",
    "SET %k %v NX",
    "SETNX %k %v",
    "SET %k %v XX GET",
    "STRLEN %k",
    "LPUSH %q %v",
    "RPUSH %q %v",
    "LRANGE %q 0 -1",
    "LPOP %q",
    "HSET h f %v",
    "TYPE %k",
    "PERSIST %k",
    "EXPIRE %k 1000",
    "RENAME %k %k",
    "MOVE %k %d",
    "GETDEL %k",
    "SET big {big}",
    "GET big",
    "PING",
    "PING %v",
    "ECHO %v",
    "SORT q1 ALPHA",
    "GET q1",
    "INCR k1",
];

const LOCK_KEYS: &[&str] = &[
    "SET %l %v NX",
    "SET %l %v NX PX 100000",
    "SET %l %v PX 100000 NX",
    "SET %l %v NX EX 100",
    "SET %l %v NX PX 0",
    "SET %l %v NX PX x",
    "SET %l %v NX GET",
    "SET %l %v NX XX",
    "SET %l %v",
    "SETNX %l %v",
    "SETNX %l",
    "DEL %l",
    "DEL %l",
    "GET %l",
    "UNLINK %l",
    "LPUSH lock:b x",
    "EVAL \"if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) end return 0\" 1 %l %v",
];

const TRANSACTION: &[&str] =
    &["MULTI", "MULTI", "MULTI", "EXEC", "EXEC", "EXEC", "EXEC", "DISCARD", "MULTI x", "EXEC x"];

const WATCH: &[&str] = &["WATCH %k", "WATCH %k %l", "UNWATCH", "WATCH"];

const ITSELF: &[&str] = &[
    "CLIENT ID",
    "CLIENT GETNAME",
    "CLIENT GETNAME",
    "CLIENT SETNAME %N",
    "CLIENT SETNAME %N",
    "CLIENT INFO",
    "CLIENT SETINFO LIB-NAME %N",
    "CLIENT SETINFO lib-ver %N",
    "CLIENT SETINFO %N x",
    "ACL WHOAMI",
    "ACL WHOAMI",
];

const OTHERS: &[&str] = &[
    "CLIENT LIST",
    "CLIENT LIST ID %s %s",
    "CLIENT LIST TYPE normal",
    "CLIENT LIST TYPE pubsub",
    "CLIENT LIST TYPE replica",
    "CLIENT LIST TYPE %N",
    "CLIENT LIST USER u1",
    "CLIENT LIST NAME ann",
    "CLIENT LIST FLAGS P",
    "CLIENT LIST DB 3",
    "CLIENT LIST ID %s SKIPME yes",
    "CLIENT LIST LIB-NAME ann",
    "CLIENT KILL ID %s",
    "CLIENT KILL ID %s",
    "CLIENT KILL ID %s SKIPME no",
    "CLIENT KILL %a",
    "CLIENT KILL ADDR %a",
    "CLIENT KILL USER %w",
    "CLIENT KILL USER nobody",
    "CLIENT KILL TYPE pubsub",
    "CLIENT KILL TYPE %N",
    "CLIENT KILL TYPE normal ID %s",
    "CLIENT KILL ID %s USER u1",
    "CLIENT KILL ID %s MAXAGE 1000",
    "CLIENT KILL NAME ann",
    "CLIENT KILL FLAGS P",
    "CLIENT KILL DB 3 ID %s",
    "CLIENT KILL ID x",
    "CLIENT KILL ID 0",
    "CLIENT KILL nobody:1",
    "CLIENT KILL ID %s SKIPME maybe",
    "CLIENT KILL LADDR 1.2.3.4:5",
    "CLIENT UNBLOCK %s",
    "CLIENT UNBLOCK %s",
    "CLIENT UNBLOCK %s TIMEOUT",
    "CLIENT UNBLOCK %s ERROR",
    "CLIENT UNBLOCK %s MAYBE",
    "CLIENT UNBLOCK x",
];

const FLAGS: &[&str] = &[
    "CLIENT NO-EVICT ON",
    "CLIENT NO-EVICT OFF",
    "CLIENT NO-EVICT",
    "CLIENT NO-TOUCH ON",
    "CLIENT NO-TOUCH OFF",
    "CLIENT NO-TOUCH MAYBE",
    "CLIENT IMPORT-SOURCE ON",
    "READONLY",
    "READWRITE",
    "ASKING",
];

const REPLY: &[&str] = &[
    "CLIENT REPLY ON",
    "CLIENT REPLY ON",
    "CLIENT REPLY ON",
    "CLIENT REPLY OFF",
    "CLIENT REPLY SKIP",
    "CLIENT REPLY SKIP",
    "CLIENT REPLY",
    "CLIENT REPLY MAYBE",
    "CLIENT REPLY OFF extra",
];

const TRACKING: &[&str] = &[
    "CLIENT TRACKING ON",
    "CLIENT TRACKING ON",
    "CLIENT TRACKING ON BCAST",
    "CLIENT TRACKING ON BCAST PREFIX k PREFIX app:",
    "CLIENT TRACKING ON BCAST PREFIX k PREFIX k1",
    "CLIENT TRACKING ON PREFIX k",
    "CLIENT TRACKING ON OPTIN",
    "CLIENT TRACKING ON OPTOUT",
    "CLIENT TRACKING ON OPTIN OPTOUT",
    "CLIENT TRACKING ON NOLOOP",
    "CLIENT TRACKING ON REDIRECT %s",
    "CLIENT TRACKING ON REDIRECT %s NOLOOP",
    "CLIENT TRACKING ON REDIRECT %s BCAST",
    "CLIENT TRACKING ON REDIRECT 999999999",
    "CLIENT TRACKING ON REDIRECT x",
    "CLIENT TRACKING OFF",
    "CLIENT TRACKING OFF",
    "CLIENT TRACKING",
    "CLIENT TRACKING MAYBE",
    "CLIENT CACHING YES",
    "CLIENT CACHING NO",
    "CLIENT CACHING",
    "CLIENT TRACKINGINFO",
    "CLIENT GETREDIR",
    "GET k1",
    "MGET k1 k2",
    "SET k1 %v",
];

const PAUSE: &[&str] = &[
    "CLIENT PAUSE 0",
    "CLIENT PAUSE 3",
    "CLIENT PAUSE 3 ALL",
    "CLIENT PAUSE 0 WRITE",
    "CLIENT PAUSE 100000 WRITE",
    "CLIENT PAUSE 100000 MAYBE",
    "CLIENT PAUSE 100000 WRITE x",
    "CLIENT PAUSE x",
    "CLIENT PAUSE -1",
    "CLIENT PAUSE",
    "CLIENT UNPAUSE",
    "CLIENT UNPAUSE",
    "CLIENT UNPAUSE x",
];

const MISTAKES: &[&str] = &[
    "CLIENT",
    "CLIENT HELP",
    "CLIENT NOSUCH",
    "CLIENT \"cr\\r\\nlf\"",
    "CLIENT ID x",
    "CLIENT GETNAME x",
    "CLIENT SETNAME",
    "CLIENT SETINFO LIB-NAME",
    "CLIENT INFO x",
    "CLIENT LIST ID",
    "CLIENT LIST ID x",
    "CLIENT LIST NOSUCH x",
    "CLIENT LIST \"cr\\r\\nlf\" x",
    "CLIENT KILL",
    "CLIENT KILL NOSUCH x",
    "CLIENT KILL ID",
    "CLIENT UNBLOCK",
    "CLIENT CACHING MAYBE",
    "CLIENT MAINT_NOTIFICATIONS ON",
    "CLIENT CAPA x",
];

const PUBSUB: &[&str] = &[
    "SUBSCRIBE %c",
    "SUBSCRIBE %c %c",
    "SUBSCRIBE __redis__:invalidate",
    "PSUBSCRIBE ch*",
    "SSUBSCRIBE %c",
    "UNSUBSCRIBE",
    "UNSUBSCRIBE %c",
    "UNSUBSCRIBE",
    "PUNSUBSCRIBE",
    "PUNSUBSCRIBE ch*",
    "SUNSUBSCRIBE",
    "SUNSUBSCRIBE %c",
    "SUBSCRIBE",
    "PUBLISH %c %v",
    "PUBLISH %c %v",
    "SPUBLISH %c %v",
    "PUBSUB NUMSUB %c",
    "PUBSUB CHANNELS ch*",
    "PING",
];

const CONNECTION: &[&str] = &[
    "SELECT %d",
    "SELECT %d",
    "SELECT %d",
    "SELECT x",
    "SELECT",
    "AUTH %u pw",
    "AUTH %u pw",
    "AUTH %u wrong",
    "AUTH pw",
    "AUTH default pw",
    "AUTH",
    "HELLO 3",
    "HELLO 3",
    "HELLO 2",
    "HELLO",
    "HELLO 4",
    "HELLO x",
    "HELLO 3 AUTH %u pw",
    "HELLO 3 AUTH %u wrong SETNAME ann",
    "HELLO 2 AUTH %u pw SETNAME %N",
    "HELLO 3 SETNAME %N",
    "HELLO 3 NOSUCH",
    "RESET",
    "RESET",
    "RESET x",
    "QUIT",
];

const SCRIPTS: &[&str] = &[
    "EVAL \"return redis.call('INCR',KEYS[1])\" 1 n1",
    "EVAL \"redis.call('SELECT',3) return redis.call('GET','db')\" 0",
    "EVAL \"redis.setresp(3) return redis.call('HGETALL','h')\" 0",
    "EVAL \"return redis.error_reply('OWN error')\" 0",
    "EVAL \"return redis.call('GET','q1')\" 0",
    "EVAL \"return {1,'a',{2}}\" 0",
    "EVAL \"return redis.call('SET',KEYS[1],ARGV[1],'NX')\" 1 %l %v",
    "EVAL \"return redis.call('CLIENT','LIST')\" 0",
    "EVAL \"return redis.call('SET','k1',ARGV[1])\" 0 %v",
    "EVAL_RO \"return redis.call('SET','k1','x')\" 0",
    "EVALSHA 0000000000000000000000000000000000000000 0",
    "EVAL \"local i = 0 while i < 100000 do i = i + 1 end return i\" 0",
    "EVAL \"syntax\" 0",
    "EVAL \"return 1\"",
    "SCRIPT EXISTS 0000000000000000000000000000000000000000",
    "FUNCTION LOAD \"#!lua name=lib\\nredis.register_function('f', function(keys, args) return redis.call('SET', keys[1], args[1]) end)\"",
    "FCALL f 1 k1 %v",
    "FUNCTION DELETE lib",
];

const BLOCKING: &[&str] = &[
    "BLPOP %q 0",
    "BLPOP %q 0",
    "BRPOP %q 0.01",
    "BLMOVE q1 app:q LEFT RIGHT 0",
    "BZPOPMIN z 0",
    "ZADD z 1 m",
    "BLPOP k1 0",
    "BLPOP q1 -1",
    "BLPOP q1 x",
    "XREAD BLOCK 0 STREAMS x $",
    "XADD x 1-* f v",
    "WAIT 0 0",
    "LPUSH %q %v",
    "LPUSH %q %v",
];

const RIGHTS: &[&str] = &[
    "ACL SETUSER u1 -get",
    "ACL SETUSER u1 +get",
    "ACL SETUSER u1 -client",
    "ACL SETUSER u2 +multi +exec",
    "ACL SETUSER u4 +@all",
    "ACL SETUSER u5 &*",
    "ACL SETUSER ub on >pw ~* &* +@all",
    "ACL SETUSER u1 nonsense",
    "ACL DELUSER u2",
    "ACL DELUSER nobody",
    "ACL GETUSER u6",
    "ACL DRYRUN u4 SET k1 x",
    "CONFIG GET requirepass",
];

const MONITOR: &[&str] = &["MONITOR"];

const LOCKS: &[&str] = &[
    "LOCK.ACQUIRE held:1 me TTL 100000",
    "LOCK.ACQUIRE held:2 me TTL 100000 META x",
    "LOCK.ACQUIRE held:1",
    "LOCK.ACQUIRE held:3 \"a b\" TTL 100000 EPHEMERAL",
    "LOCK.RELEASE held:1 me",
    "LOCK.RELEASE held:3 \"a b\"",
    "LOCK.EXTEND held:1 me 100000",
    "LOCK.INFO held:1",
    "LOCK.POSITION held:2 me",
    "LOCK.QUEUE held:1",
    "LOCK.STATS",
    "LOCK.HELP",
    "LOCK.NOSUCH x",
];

const ODD: &[&str] = &[
    "NOSUCH",
    "NOSUCH \"cr\\r\\nlf\" x",
    "GET",
    "GET a b",
    "SET k1",
    "FLUSHDB ASYNC",
    "OBJECT NOSUCH k1",
    "COMMAND INFO get",
    "COMMAND GETKEYS SET k1 v",
    "DEBUG JMAP",
    "SWAPDB 0 3",
    "\"\"",
    "RESTORE k1 0 x",
    "SCRIPT NOSUCH",
];
