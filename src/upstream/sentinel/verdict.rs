//! Which server is the master, from what several Sentinels say. They may be old, cut off, or of two minds.

use crate::upstream::url::Address;

/// What one Sentinel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The master that it names.
    pub master: Address,
    /// The epoch of its configuration: each failover has a higher one.
    pub epoch: u64,
}

/// Whom to believe. `said` is what those say who answer just now, of `seats` Sentinels that are known; `known` is who was believed last.
///
/// The newest configuration counts, as among the Sentinels themselves; of equally new ones what most of them say. An older one than
/// was known already is believed where more than half of all Sentinels have come to agree on it: then they were set up anew.
pub fn master_of(said: &[Said], seats: usize, known: Option<&Said>) -> Option<Said> {
    let newest = said.iter().map(|said| said.epoch).max()?;
    if known.is_some_and(|known| known.epoch > newest) {
        return said.iter().find(|one| 2 * votes(said, one) > seats).or(known).cloned();
    }
    let newest = said.iter().filter(|said| said.epoch == newest);
    // Of two that are named as often, the one that was believed before.
    newest.max_by_key(|one| (votes(said, one), known.is_some_and(|known| known.master == one.master))).cloned()
}

fn votes(said: &[Said], one: &Said) -> usize {
    said.iter().filter(|other| *other == one).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(port: u16, epoch: u64) -> Said {
        Said { master: Address::Tcp { host: "10.0.0.1".into(), port }, epoch }
    }

    #[test]
    fn the_newest_configuration_counts_though_most_have_not_heard_of_it() {
        let said = [says(1, 4), says(1, 4), says(2, 5)];
        assert_eq!(master_of(&said, 3, Some(&says(1, 4))), Some(says(2, 5)));
    }

    #[test]
    fn of_equally_new_ones_what_most_say_counts_and_then_what_was_known() {
        assert_eq!(master_of(&[says(1, 4), says(2, 4), says(2, 4)], 3, None), Some(says(2, 4)));
        for known in [1, 2] {
            assert_eq!(master_of(&[says(1, 4), says(2, 4)], 3, Some(&says(known, 4))), Some(says(known, 4)));
        }
    }

    #[test]
    fn one_that_was_cut_off_brings_no_old_master_back() {
        assert_eq!(master_of(&[says(1, 3)], 3, Some(&says(2, 5))), Some(says(2, 5)));
        assert_eq!(master_of(&[says(1, 3), says(3, 4)], 3, Some(&says(2, 5))), Some(says(2, 5)));
    }

    #[test]
    fn sentinels_that_were_set_up_anew_are_believed_once_most_agree() {
        let known = says(2, 5);
        assert_eq!(master_of(&[says(1, 0)], 3, Some(&known)), Some(known.clone()));
        assert_eq!(master_of(&[says(1, 0), says(1, 0)], 3, Some(&known)), Some(says(1, 0)));
    }

    #[test]
    fn where_nobody_answers_nothing_new_is_known() {
        assert_eq!(master_of(&[], 3, Some(&says(1, 1))), None);
    }
}
