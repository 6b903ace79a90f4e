//! The same conversations straight to a server and through Lockgate: every client must see the same bytes.

#![allow(missing_docs)]

mod common;
mod recorder;

use common::ServerKind;
use recorder::chopper::Pieces;
use recorder::{Path, compare};

/// A seed for the random cuts: `CUT_SEED` repeats a run, otherwise the clock gives one, and a failure names it.
fn cut_seed() -> u64 {
    match std::env::var("CUT_SEED") {
        Ok(seed) => seed.parse().expect("CUT_SEED is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").subsec_nanos().into(),
    }
}

macro_rules! conversations {
    ($($name:ident: $file:literal,)*) => {
        $(
            mod $name {
                use super::*;
                const TALKS: &str = include_str!(concat!("recorder/talks/", $file));

                #[test]
                fn are_the_same_through_lockgate_on_redis_7_0() {
                    compare(ServerKind::Redis70, TALKS, Path::Direct, Path::Lockgate);
                }

                #[test]
                fn are_the_same_through_lockgate_on_redis_8_2() {
                    compare(ServerKind::Redis82, TALKS, Path::Direct, Path::Lockgate);
                }

                #[test]
                fn are_the_same_through_lockgate_on_valkey_9_1() {
                    compare(ServerKind::Valkey91, TALKS, Path::Direct, Path::Lockgate);
                }

                #[test]
                fn are_the_same_when_every_byte_comes_alone() {
                    compare(ServerKind::Redis70, TALKS, Path::Direct, Path::ChoppedLockgate(Pieces::Single));
                }

                #[test]
                fn are_the_same_when_cut_at_random() {
                    let pieces = Pieces::Random(cut_seed());
                    compare(ServerKind::Redis70, TALKS, Path::Direct, Path::ChoppedLockgate(pieces));
                }

                /// Without Lockgate: what differs here is the recorder's fault.
                #[test]
                fn are_the_same_twice_without_lockgate() {
                    for kind in ServerKind::ALL {
                        compare(kind, TALKS, Path::Direct, Path::Chopped(Pieces::Random(cut_seed())));
                    }
                }
            }
        )*
    };
}

conversations! {
    data: "data.talk",
    errors: "errors.talk",
    transactions: "transactions.talk",
    blocking: "blocking.talk",
    pubsub: "pubsub.talk",
    connection: "connection.talk",
    tracking: "tracking.talk",
    scripts: "scripts.talk",
    protocol: "protocol.talk",
    set_nx: "set_nx.talk",
}
