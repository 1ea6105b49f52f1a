//! Session tickets that end with the peer's verified path: a session whose path has ended is not resumed (RFC 8446 2.2).
//!
//! The end is known to the handshake's slot: our verifier leaves it there in a full handshake, the ticket in a resumed one.
//! What a ticket holds apart from that, and how it is sealed, is rustls'; the peer's chain is left out of it (`ticket_chains`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider as _;

use super::ticket_chains::TicketChains;
use super::{TlsTimeSource, seen};

/// Nothing is resumed in this last part of a path's life: a peer that has renewed its certificate shows it in time, and what
/// it then begins is not cut by the end of the old one.
const LAST_PART: Duration = Duration::from_secs(15);

/// The end of a session without a certificate.
const NO_END: u64 = u64::MAX;

/// Produces tickets with rustls' own sealing, and takes none whose path has ended.
pub(super) struct PathBoundTicketer {
    sealer: Arc<dyn ProducesTickets>,
    time: TlsTimeSource,
    chains: TicketChains,
}

impl PathBoundTicketer {
    pub(super) fn new(sealer: Arc<dyn ProducesTickets>, time: &TlsTimeSource) -> Self {
        Self { sealer, time: time.clone(), chains: TicketChains::default() }
    }

    /// Seconds since 1970; a clock that cannot be read resumes nothing.
    fn now(&self) -> u64 {
        self.time.current_time().map_or(NO_END, |now| now.as_secs())
    }
}

impl fmt::Debug for PathBoundTicketer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("PathBoundTicketer")
    }
}

impl ProducesTickets for PathBoundTicketer {
    fn enabled(&self) -> bool {
        self.sealer.enabled()
    }

    fn lifetime(&self) -> u32 {
        let left = last_use(path_end(), self.now()).saturating_sub(self.now());
        self.sealer.lifetime().min(u32::try_from(left).unwrap_or(u32::MAX))
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let end = path_end();
        // A full handshake has seen the chain itself; a resumed one goes on with that of its ticket.
        let short = seen::read_ticket_chain(|seen| {
            if seen.chain.is_empty() { seen.ticket_chain } else { self.chains.keep_chain(&seen.chain) }
        });
        let short = short.and_then(|name| self.chains.shorten(plain, &name));
        let content = short.as_deref().unwrap_or(plain);
        let mut bound = Vec::with_capacity(content.len() + 17);
        bound.extend(end.to_be_bytes());
        bound.extend(last_use(end, self.now()).to_be_bytes());
        bound.push(u8::from(short.is_some()));
        bound.extend(content);
        self.sealer.encrypt(&bound)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let bound = self.sealer.decrypt(cipher)?;
        let (end, rest) = bound.split_first_chunk().map(|(end, rest)| (u64::from_be_bytes(*end), rest))?;
        let (last, rest) = rest.split_first_chunk().map(|(last, rest)| (u64::from_be_bytes(*last), rest))?;
        if self.now() >= last {
            return None;
        }
        let (is_short, content) = rest.split_first()?;
        let (plain, ticket_chain) = match *is_short {
            0 => (content.to_vec(), None),
            _ => self.chains.restore(content).map(|(plain, name)| (plain, Some(name)))?,
        };
        let end = i64::try_from(end).ok().and_then(|end| Timestamp::from_second(end).ok());
        seen::record_observation(|seen| {
            seen.path_end = end;
            seen.ticket_chain = ticket_chain;
        });
        Some(plain)
    }
}

/// The end of the path that this handshake has verified, in seconds.
fn path_end() -> u64 {
    seen::read_path_end().map_or(NO_END, |end| u64::try_from(end.as_second()).unwrap_or(0))
}

/// From when a session of this path is no longer resumed: before its end, where enough of its life is left for that.
fn last_use(end: u64, now: u64) -> u64 {
    if end == NO_END { NO_END } else { end - LAST_PART.as_secs().min(end.saturating_sub(now) / 4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_use_of_a_ticket_lies_before_the_end_of_its_path() {
        assert_eq!(last_use(1_000, 0), 985);
        assert_eq!(last_use(8, 0), 6);
        assert_eq!(last_use(8, 8), 8);
        assert_eq!(last_use(8, 9), 8);
        assert_eq!(last_use(NO_END, 5), NO_END);
    }
}
