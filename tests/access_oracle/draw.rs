//! Random rules, files and arguments, from a seed.

use lockgate::access::{Catalog, Command, Dialect};

pub struct Draw {
    dice: fastrand::Rng,
    /// Comparisons made with it.
    pub cases: u64,
}

const KEYS: &[&str] = &["app:1", "app:", "locks:a", "locks:b:c", "x", "ab", "a[b", "", "a*", "\u{fc}"];
const PATTERNS: &[&str] =
    &["app:*", "locks:*", "*", "a?", "[ab]*", "x", "", "a\\*", "[^a-c]*", "*:*", "a[b", "[z-a]", "ab*b", "\u{fc}*"];
const NUMBERS: &[&str] = &["0", "1", "2", "3", "4", "-1", "01", "+1", " 2", "2x", "99"];
const WORDS: &[&str] = &[
    "STORE",
    "storedist",
    "GET",
    "get",
    "BY",
    "LIMIT",
    "STREAMS",
    "KEYS",
    "AUTH",
    "AUTH2",
    "COPY",
    "REPLACE",
    "DB",
    "db",
    "BLOCK",
    "COUNT",
    "GROUP",
    "NOACK",
    "SET",
    "INCRBY",
    "OVERFLOW",
    "NX",
    "ASC",
    "*",
    "$",
    "u8",
    "YES",
    "ON",
];
const PLAIN_RULES: &[&str] = &[
    "on",
    "OFF",
    "nopass",
    "resetpass",
    "reset",
    "clearselectors",
    "allkeys",
    "resetkeys",
    "allchannels",
    "resetchannels",
    "allcommands",
    "nocommands",
    "+@all",
    "-@all",
    "sanitize-payload",
    "skip-sanitize-payload",
    "",
    "~*",
    "&*",
    ">x",
    ">y",
    "<x",
    "<y",
    "#zz",
    "#2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
    "!2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
    "nosuch",
    "+",
    "-",
    "+@",
    "-@",
    "+nosuch",
    "-nosuch|x",
    "+@nosuch",
    "%",
    "%~a",
    "%RR~a",
    "%R",
    "%x~a",
    "~a b",
    "&a b",
    "x\r\ny",
    ")",
    "(",
    "()",
    "( )",
    "(on)",
    "(+get ~x",
    "(\"+get\" '~a')",
    "(+get \"~x)",
    "+|",
    "+get|",
    "+get|x|y",
    "+config|get|x",
    "-get|x",
    "~a\u{0}b",
    "on\u{0}x",
];
const DATABASES: &[&str] = &[
    "alldbs",
    "resetdbs",
    "ALLDBS",
    "db=0",
    "db=1",
    "db=0,1",
    "db=1,2,3",
    "DB=3,0",
    "db=",
    "db=x",
    "db=-1",
    "db=99",
    "db=0,",
    "db=01",
    "db= 1",
    "db=1 ",
    "db=+2",
    "db=2147483647",
    "db=2147483648",
    "db=99999999999999999999",
    "db=0,-1",
    "db=1,x",
    "db=- 1",
    "db=0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
];

impl Draw {
    pub fn new(seed: u64) -> Self {
        Draw { dice: fastrand::Rng::with_seed(seed), cases: 0 }
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.dice.usize(..end)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn one_in(&mut self, number: usize) -> bool {
        self.below(number) == 0
    }

    /// So many rules of any kind, some of them wrong.
    pub fn rules(&mut self, catalog: &Catalog, dialect: Dialect, count: usize) -> Vec<Vec<u8>> {
        let mut rules = Vec::new();
        for _ in 0..count {
            if self.one_in(6) {
                let count = self.below(5);
                let inner: Vec<Vec<u8>> = (0..count).map(|_| self.right(catalog, dialect)).collect();
                let mut bracket = [&b"("[..], &inner.join(&b' '), b")"].concat();
                if self.one_in(2) {
                    rules.extend(bracket.split(|byte| *byte == b' ').map(<[u8]>::to_vec));
                } else {
                    if self.one_in(4) {
                        bracket.insert(1, b' ');
                    }
                    rules.push(bracket);
                }
            } else if self.one_in(5) {
                rules.push(self.pick(PLAIN_RULES).as_bytes().to_vec());
            } else {
                rules.push(self.right(catalog, dialect));
            }
        }
        rules
    }

    fn command<'c>(&mut self, catalog: &'c Catalog) -> &'c str {
        let at = self.below(catalog.len());
        let (_, command) = catalog.iter().nth(at).expect("there are so many");
        &command.name
    }

    /// A rule for rights that is well formed, though it may contradict others.
    fn right(&mut self, catalog: &Catalog, dialect: Dialect) -> Vec<u8> {
        let sign = self.pick(&["+", "+", "-"]);
        let text = match self.below(12) {
            0 | 1 => format!("~{}", self.pick(PATTERNS)),
            2 => format!("%{}~{}", self.pick(&["R", "W", "RW", "r", "wr"]), self.pick(PATTERNS)),
            3 => format!("&{}", self.pick(PATTERNS)),
            4..=6 => {
                let names: Vec<&str> =
                    catalog.categories().iter().map(|(name, _)| name).filter(|name| *name != "lock").collect();
                let name = self.pick(&names);
                let name = if self.one_in(4) { name.to_uppercase() } else { name.to_owned() };
                format!("{sign}@{name}")
            }
            7 => self.pick(&["+@all", "-@all", "allkeys", "resetkeys", "resetchannels", "allchannels"]).to_owned(),
            8 if dialect.has_databases => self.pick(DATABASES).to_owned(),
            9 => format!("+{}|{}", self.command(catalog), self.pick(&["get", "SET", "x", "help", "0", "app:1"])),
            _ => {
                let name = self.command(catalog);
                let name = if self.one_in(5) { name.to_uppercase() } else { name.to_owned() };
                format!("{sign}{name}")
            }
        };
        text.into_bytes()
    }

    /// An ACL file with some lines that are wrong.
    pub fn file(&mut self, catalog: &Catalog, dialect: Dialect) -> Vec<u8> {
        // The default user stays, or the test would be shut out.
        let mut lines: Vec<Vec<u8>> = vec![b"user default on nopass ~* &* +@all".to_vec()];
        for _ in 0..self.below(5) {
            let name = self.pick(&["u", "v", "w", "w", "default", "u\tx", "", "y"]);
            let mut line = format!("user {name}").into_bytes();
            for _ in 0..self.below(5) {
                line.extend_from_slice(b" ");
                match self.below(8) {
                    0 => line.extend_from_slice(
                        self.pick(&["on", "nosuch", "", "~a", "+nosuch", "#zz", "nopass", "&x", "+get\t", "-@nosuch"])
                            .as_bytes(),
                    ),
                    1 => line.extend_from_slice(b"(+get ~x)"),
                    2 => line.extend_from_slice(b"( %R~x +@read )"),
                    _ => {
                        let right = self.right(catalog, dialect);
                        line.extend_from_slice(&right);
                    }
                }
            }
            if self.one_in(12) {
                // A bracket that stays open is looked for only where nothing stands before it: servers die of others.
                line = format!("user {name} (+get ~x").into_bytes();
            }
            if self.one_in(12) {
                line = self
                    .pick(&["", "   ", "users x on", "user", "# remark", "USER x on", "user  on"])
                    .as_bytes()
                    .to_vec();
            }
            if self.one_in(8) {
                line.extend_from_slice(b" \r");
            }
            lines.push(line);
        }
        let mut file = lines.join(&b'\n');
        if self.one_in(2) {
            file.push(b'\n');
        }
        file
    }

    /// The command's own words, and as many arguments as it takes, of any kind.
    pub fn arguments(&mut self, command: &Command) -> Vec<Vec<u8>> {
        let mut args: Vec<Vec<u8>> = command.name.split('|').map(|word| word.as_bytes().to_vec()).collect();
        let least = usize::try_from(command.arity.unsigned_abs()).expect("few");
        let count = if command.arity < 0 { least + self.below(7) } else { least };
        while args.len() < count {
            let pool = self.pick(&[KEYS, KEYS, KEYS, NUMBERS, WORDS]);
            args.push(self.pick(pool).as_bytes().to_vec());
        }
        // Where a count stands it is a good one more often than not.
        for place in 1..3.min(args.len()) {
            if self.one_in(3) && args.len() > place + 1 && !command.name.contains('|') {
                args[place] = (1 + self.below(args.len() - place - 1)).to_string().into_bytes();
            }
        }
        args
    }
}
