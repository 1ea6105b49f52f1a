//! Which tokens have been used: a `jti` is accepted once, and remembered until its token expires.
//!
//! Room is bounded, and no client takes all of it: each may fill half of what the others leave free.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::pki::Fingerprint;

/// Identifiers that are remembered at once.
pub const MAX_TOKEN_IDS: usize = 200_000;

/// A token's identifier, as its issuer and `jti` make it.
pub type TokenId = [u8; 32];

/// The identifiers that were used and have not expired.
#[derive(Debug, Default)]
pub struct ReplayWindow {
    used: BTreeMap<TokenId, ClientKey>,
    by_end: BTreeSet<(Timestamp, TokenId)>,
    /// By the client that presented them.
    clients: BTreeMap<ClientKey, ClientShare>,
}

/// The beginning of a client certificate's fingerprint: enough to tell those of one partner apart.
type ClientKey = [u8; 8];

/// What one client takes of the window.
#[derive(Debug, Default)]
struct ClientShare {
    used: usize,
    /// Whether the warning that its share is nearly full has been given.
    said: bool,
}

/// How full a client's share of the window is after an identifier was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowOccupancy {
    /// There is room, or the warning has already been given.
    Quietly,
    /// A quarter of the share is left, for the first time since half of it was free.
    NearlyFull,
}

/// Why an identifier was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayRejection {
    /// It was used before.
    Used,
    /// The client's share is full; forgetting an identifier would let its token be used again.
    Full,
}

impl ReplayWindow {
    /// Records an identifier, which counts as used until `until`, for the client with this certificate.
    ///
    /// # Errors
    /// It was used before, or the client's share of the window is full.
    pub fn mark_used(
        &mut self,
        id: TokenId,
        client: Fingerprint,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<WindowOccupancy, ReplayRejection> {
        let client = client.as_bytes().first_chunk().copied().unwrap_or_default();
        self.mark_used_within(id, client, (until, now), MAX_TOKEN_IDS)
    }

    fn mark_used_within(
        &mut self,
        id: TokenId,
        client: ClientKey,
        (until, now): (Timestamp, Timestamp),
        most: usize,
    ) -> Result<WindowOccupancy, ReplayRejection> {
        while let Some(first) = self.by_end.first().copied().filter(|(end, _)| *end < now) {
            self.by_end.remove(&first);
            if let Some(client) = self.used.remove(&first.1) {
                self.release_one(client);
            }
        }
        if self.used.contains_key(&id) {
            return Err(ReplayRejection::Used);
        }
        let own = self.clients.get(&client).map_or(0, |share| share.used);
        let share = most.saturating_sub(self.used.len() - own) / 2;
        if own >= share {
            return Err(ReplayRejection::Full);
        }
        self.used.insert(id, client);
        self.by_end.insert((until, id));
        let client = self.clients.entry(client).or_default();
        client.used += 1;
        let (nearly_full, half_empty) = (client.used >= share / 4 * 3, client.used <= share / 2);
        let taken = if nearly_full && !client.said { WindowOccupancy::NearlyFull } else { WindowOccupancy::Quietly };
        client.said = nearly_full || (client.said && !half_empty);
        Ok(taken)
    }

    fn release_one(&mut self, client: ClientKey) {
        let Some(share) = self.clients.get_mut(&client) else { return };
        share.used -= 1;
        if share.used == 0 {
            self.clients.remove(&client);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALONE: ClientKey = [0; 8];

    fn timestamp(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn an_identifier_is_taken_once_until_it_ends() {
        let mut window = ReplayWindow::default();
        let client = Fingerprint::of(b"");
        assert_eq!(window.mark_used([1; 32], client, timestamp(10), timestamp(0)), Ok(WindowOccupancy::Quietly));
        assert_eq!(window.mark_used([1; 32], client, timestamp(99), timestamp(10)), Err(ReplayRejection::Used));
        assert_eq!(window.mark_used([1; 32], client, timestamp(20), timestamp(11)), Ok(WindowOccupancy::Quietly));
    }

    #[test]
    fn a_full_window_takes_nothing_rather_than_forget() {
        let mut window = ReplayWindow::default();
        assert!(window.mark_used_within([1; 32], ALONE, (timestamp(10), timestamp(0)), 2).is_ok());
        assert_eq!(
            window.mark_used_within([2; 32], ALONE, (timestamp(10), timestamp(0)), 2),
            Err(ReplayRejection::Full)
        );
        assert_eq!(
            window.mark_used_within([1; 32], ALONE, (timestamp(10), timestamp(0)), 2),
            Err(ReplayRejection::Used)
        );
        assert!(window.mark_used_within([2; 32], ALONE, (timestamp(30), timestamp(11)), 2).is_ok());
    }

    #[test]
    fn a_window_that_is_three_quarters_full_says_so_once_until_half_of_it_is_free_again() {
        let mut window = ReplayWindow::default();
        let mut take = |ids: std::ops::Range<u8>, until, now| {
            let mut said = |id| {
                window.mark_used_within([id; 32], ALONE, (timestamp(until), timestamp(now)), 16).unwrap()
                    == WindowOccupancy::NearlyFull
            };
            ids.filter(|id| said(*id)).collect::<Vec<_>>()
        };
        assert!(take(0..3, 10, 0).is_empty());
        assert_eq!(take(3..8, 20, 0), [5]);
        // Five of eight are left: moving around three quarters does not warn again.
        assert!(take(8..11, 30, 11).is_empty());
        // At 21 three of eight are, and it fills again.
        assert_eq!(take(11..15, 40, 21), [13]);
    }

    #[test]
    fn a_runaway_client_takes_no_room_of_the_others() {
        let mut window = ReplayWindow::default();
        let mut number = 0_u16;
        let mut take = |client: u8, until, now| {
            number += 1;
            let mut id = [0; 32];
            id[..2].copy_from_slice(&number.to_be_bytes());
            window.mark_used_within(id, [client; 8], (timestamp(until), timestamp(now)), 100)
        };
        let mut fill = |client, until, now| (0..200).filter(|_| take(client, until, now).is_ok()).count();
        // Half of the room, and each further one half of what is left.
        assert_eq!([fill(1, 10, 0), fill(2, 20, 0), fill(3, 20, 0)], [50, 25, 12]);
        // Once the first one's have expired, the others have more, and it may use what they leave.
        assert_eq!([fill(2, 20, 11), fill(1, 20, 11)], [44 - 25, 22]);
    }

    proptest! {
        /// Against a slow and obvious second version.
        #[test]
        fn it_remembers_exactly_what_has_not_ended(steps in proptest::collection::vec((0u8..6, 0i64..8, 0i64..4), 0..60)) {
            let (mut window, mut all, mut now) = (ReplayWindow::default(), Vec::<(u8, i64)>::new(), 0);
            for (id, length, pass) in steps {
                now += pass;
                all.retain(|(_, until)| *until >= now);
                let expected: Result<(), ReplayRejection> = match () {
                    () if all.iter().any(|(used, _)| *used == id) => Err(ReplayRejection::Used),
                    () if all.len() >= 3 => Err(ReplayRejection::Full),
                    () => {
                        all.push((id, now + length));
                        Ok(())
                    }
                };
                prop_assert_eq!(window.mark_used_within([id; 32], ALONE, (timestamp(now + length), timestamp(now)), 6).map(drop), expected);
                prop_assert_eq!(window.used.len(), window.by_end.len());
            }
        }
    }

    #[test]
    fn fifty_thousand_clients_with_tokens_keep_within_the_window() {
        let mut window = ReplayWindow::default();
        let times = (timestamp(10), timestamp(0));
        let taken = (0..50_000_u64 * 5).filter(|number| {
            let (mut id, client) = ([0; 32], (number % 50_000).to_be_bytes());
            id[..8].copy_from_slice(&number.to_be_bytes());
            window.mark_used_within(id, client, times, MAX_TOKEN_IDS).is_ok()
        });
        let taken = taken.count();
        assert!((MAX_TOKEN_IDS - 50_000..=MAX_TOKEN_IDS).contains(&taken), "{taken}");
        assert_eq!((window.used.len(), window.by_end.len(), window.clients.len()), (taken, taken, 50_000));
        assert!(window.mark_used_within([1; 32], ALONE, (timestamp(30), timestamp(11)), MAX_TOKEN_IDS).is_ok());
        assert_eq!((window.used.len(), window.clients.len()), (1, 1), "what has ended takes no room");
    }
}
