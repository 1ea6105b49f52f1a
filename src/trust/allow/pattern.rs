//! What a pattern of `allow`, `peers` and `rule` matches, on plain text.
//!
//! One small automaton for three kinds of text; its cost is pattern length times text length whatever a peer sends.

use super::normal::{decode_escape, normalise};

/// Whether a DNS name of a certificate fits: case does not count, `*` stays within a label, `**` does not, both match at
/// least one character.
///
/// A certificate's own wildcard name (`*.acme.example`) does not name a host: it fits only the pattern with exactly the
/// same text, so that `**.example` or `api.acme.example` in an `allow` does not admit the holders of such a name.
///
/// A name with a blank, a control character or a backslash (as which `pki::printable` shows what it hides) names no host and
/// fits no pattern: what a reader makes of it is unclear.
pub fn matches_dns(pattern: &str, name: &str) -> bool {
    if !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return false;
    }
    if name.contains('*') {
        return pattern.eq_ignore_ascii_case(name);
    }
    PatternKind::Dns.matches(pattern, name)
}

/// Whether a URI name of a certificate fits: compared byte by byte, `*` stays within a segment, `**` does not, both
/// match at least one character. A URI with dot segments fits only the same text: what it names is unclear.
pub fn matches_uri(pattern: &str, name: &str) -> bool {
    if name.split(['/', '?', '#']).any(|segment| matches!(segment, "." | "..")) {
        return pattern == name;
    }
    PatternKind::Uri.matches(pattern, name)
}

/// Whether an e-mail name of a certificate is this one: the part before `@` byte by byte, the host without regard to case
/// (RFC 5280 7.5).
pub fn matches_email(wanted: &str, name: &str) -> bool {
    match (wanted.rsplit_once('@'), name.rsplit_once('@')) {
        (Some((wanted, wanted_host)), Some((name, host))) => wanted == name && wanted_host.eq_ignore_ascii_case(host),
        _ => false,
    }
}

/// Whether a normalised path fits: `*` is any run within a segment, `**` any run; `/**` is optional as a whole, so that
/// `/admin/**` is `/admin` too and `/a/**/b` is `/a/b` too.
///
/// Escapes on either side are compared decoded, reserved ones too: most backends route `/items%3Adelete` like
/// `/items:delete`, and a rule for one must not be walked around by the other.
pub fn matches_path(pattern: &str, normal: &str) -> bool {
    PatternKind::Path.matches(pattern, normal)
}

/// Why a path pattern could never match a normalised path, if so: a rule that silently protects nothing.
pub fn check_path_pattern(pattern: &str) -> Result<(), &'static str> {
    let normal = normalise(pattern)?;
    if !PatternKind::Path.literals(pattern).eq(PatternKind::Path.literals(&normal)) {
        return Err("it contains dot segments or empty segments");
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum PatternKind {
    Dns,
    Uri,
    Path,
}

/// One step of the automaton.
#[derive(Clone, Copy)]
enum PatternStep {
    /// This byte.
    Byte(u8),
    /// One byte; not a separator unless `across`.
    One { across: bool },
    /// Any number of them.
    Many { across: bool },
    /// A slash; or this step and the next are left out.
    Gate,
}

impl PatternKind {
    fn is_separator(self, byte: u8) -> bool {
        match self {
            Self::Dns => byte == b'.',
            Self::Uri => matches!(byte, b'/' | b'?' | b'#'),
            Self::Path => byte == b'/',
        }
    }

    /// The first byte as it is compared, and what follows it.
    fn next_literal(self, text: &[u8]) -> Option<(u8, &[u8])> {
        let (&byte, rest) = text.split_first()?;
        match self {
            Self::Dns => Some((byte.to_ascii_lowercase(), rest)),
            Self::Path if byte == b'%' => match decode_escape(rest) {
                Some(value) => Some((value, &rest[2..])),
                None => Some((byte, rest)),
            },
            Self::Uri | Self::Path => Some((byte, rest)),
        }
    }

    fn literals(self, text: &str) -> impl Iterator<Item = u8> + '_ {
        let mut rest = text.as_bytes();
        std::iter::from_fn(move || {
            let (byte, after) = self.next_literal(rest)?;
            rest = after;
            Some(byte)
        })
    }

    fn compile(self, pattern: &str) -> Vec<PatternStep> {
        let mut steps = Vec::with_capacity(pattern.len() + 2);
        let mut rest = pattern.as_bytes();
        while let Some((byte, after)) = self.next_literal(rest) {
            if self == Self::Path && rest.starts_with(b"/**") && matches!(rest.get(3), None | Some(b'/')) {
                steps.extend([PatternStep::Gate, PatternStep::Many { across: true }]);
                rest = &rest[3..];
            } else if rest[0] == b'*' {
                let stars = rest.iter().take_while(|byte| **byte == b'*').count();
                let across = stars > 1;
                // An identity must have something where the star is; `/a/*` may be `/a/`, which backends route alike.
                if self != Self::Path {
                    steps.push(PatternStep::One { across });
                }
                steps.push(PatternStep::Many { across });
                rest = &rest[stars..];
            } else {
                steps.push(PatternStep::Byte(byte));
                rest = after;
            }
        }
        steps
    }

    fn matches(self, pattern: &str, text: &str) -> bool {
        let steps = self.compile(pattern);
        // live[i]: what was read so far fits the first i steps.
        let mut live = vec![false; steps.len() + 1];
        let mut next = live.clone();
        live[0] = true;
        follow_empty_steps(&steps, &mut live);
        for byte in self.literals(text) {
            next.fill(false);
            for (at, step) in steps.iter().enumerate().filter(|(at, _)| live[*at]) {
                match *step {
                    PatternStep::Byte(wanted) => next[at + 1] |= wanted == byte,
                    PatternStep::Gate => next[at + 1] |= byte == b'/',
                    PatternStep::One { across } => next[at + 1] |= across || !self.is_separator(byte),
                    PatternStep::Many { across } => next[at] |= across || !self.is_separator(byte),
                }
            }
            follow_empty_steps(&steps, &mut next);
            std::mem::swap(&mut live, &mut next);
            if !live.contains(&true) {
                return false;
            }
        }
        live[steps.len()]
    }
}

/// Follows the steps that may match nothing.
fn follow_empty_steps(steps: &[PatternStep], live: &mut [bool]) {
    for (at, step) in steps.iter().enumerate() {
        match step {
            PatternStep::Many { .. } => live[at + 1] |= live[at],
            PatternStep::Gate => live[at + 2] |= live[at],
            PatternStep::Byte(_) | PatternStep::One { .. } => {}
        }
    }
}
