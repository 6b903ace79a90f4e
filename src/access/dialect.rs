//! What servers differ in where they keep users. Lockgate plays the one it stands before.

/// Whose server it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Product {
    /// Redis.
    Redis,
    /// Valkey.
    Valkey,
}

/// How a server keeps whether `RESTORE` looks into payloads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Payload {
    /// Shown once it was set.
    WhenSet,
    /// Every user begins with `sanitize-payload`.
    FromTheStart,
    /// The words are taken and forgotten.
    Forgotten,
}

/// How users are kept, shown and refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dialect {
    /// Rules for commands are shown as they were given, but for those that later ones cancel out. Otherwise they are worked out anew.
    pub keeps_rules: bool,
    /// A refusal says which user may not.
    pub names_the_user: bool,
    /// `db=` is known.
    pub has_databases: bool,
    /// Rules for a category leave modules' commands alone.
    pub spares_modules: bool,
    /// A bracket that opens within another one begins again, and what stood before is lost.
    pub brackets_begin_anew: bool,
    /// How `sanitize-payload` is kept.
    pub payload: Payload,
}

impl Dialect {
    /// Redis 7.0 and before.
    pub const REDIS_7_0: Dialect = Dialect {
        keeps_rules: false,
        names_the_user: false,
        has_databases: false,
        spares_modules: true,
        brackets_begin_anew: true,
        payload: Payload::WhenSet,
    };
    /// Redis from 7.2, and Valkey before 9.1.
    pub const REDIS_7_2: Dialect = Dialect {
        keeps_rules: true,
        names_the_user: true,
        has_databases: false,
        spares_modules: false,
        brackets_begin_anew: false,
        payload: Payload::FromTheStart,
    };
    /// Valkey from 9.1.
    pub const VALKEY_9_1: Dialect = Dialect { has_databases: true, payload: Payload::Forgotten, ..Dialect::REDIS_7_2 };
    /// For an upstream that was not seen yet: all rules that any server knows.
    pub const NEWEST: Dialect = Dialect::VALKEY_9_1;

    /// That of a product in a version, as `INFO server` tells them.
    pub const fn of(product: Product, major: u32, minor: u32) -> Dialect {
        match product {
            Product::Valkey if major > 9 || major == 9 && minor >= 1 => Dialect::VALKEY_9_1,
            Product::Redis if major < 7 || major == 7 && minor < 2 => Dialect::REDIS_7_0,
            Product::Redis | Product::Valkey => Dialect::REDIS_7_2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_its_dialect() {
        assert_eq!(Dialect::of(Product::Redis, 6, 2), Dialect::REDIS_7_0);
        assert_eq!(Dialect::of(Product::Redis, 7, 0), Dialect::REDIS_7_0);
        assert_eq!(Dialect::of(Product::Redis, 8, 2), Dialect::REDIS_7_2);
        assert_eq!(Dialect::of(Product::Valkey, 8, 1), Dialect::REDIS_7_2);
        assert_eq!(Dialect::of(Product::Valkey, 9, 1), Dialect::VALKEY_9_1);
        assert_eq!(Dialect::of(Product::Valkey, 10, 0), Dialect::VALKEY_9_1);
    }
}
