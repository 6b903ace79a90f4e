//! What becomes of subscriptions when a user's rights change.

use super::user::User;

/// Whether a connection of `before`, with these subscriptions, may go on now that its user is `after`. As on the servers nothing is looked at
/// where all rules for channels that held before still stand.
pub fn may_stay_subscribed<'a>(
    before: &User,
    after: &User,
    mut channels: impl Iterator<Item = &'a [u8]>,
    mut patterns: impl Iterator<Item = &'a [u8]>,
) -> bool {
    if after.selectors.iter().any(|selector| selector.all_channels) {
        return true;
    }
    let allowed = || after.selectors.iter().flat_map(|selector| &selector.channels);
    let stands = before.selectors.iter().all(|selector| {
        !selector.all_channels && selector.channels.iter().all(|known| allowed().any(|rule| rule == known))
    });
    stands
        || channels.all(|channel| allowed().any(|rule| rule.matches(channel)))
            && patterns.all(|pattern| allowed().any(|rule| rule.text() == pattern))
}
