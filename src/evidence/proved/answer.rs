//! What one answer says about the key pair that got it: contract section 4's egress row, as one function.
//!
//! A status alone says little: a balancer's 502, a login page or a missing resource look the same with and without an
//! accepted certificate. What counts is a 2xx, and else only what the previous pair gets for the same. Which node answered and
//! what follows from it is for `proved`.

/// Segments of a path that count for its class.
const MAX_CLASS_SEGMENTS: usize = 8;
/// A longer segment is taken for an identifier.
const MAX_WORD_BYTES: usize = 32;

/// Requests of one class are expected to get the same status, whichever of our pairs they show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestClass {
    method: MethodClass,
    /// A hash of the path's words, identifiers left out.
    path: u64,
}

/// Methods that ask for alike things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MethodClass {
    Read,
    Replace,
    Remove,
    Submit,
    Other,
}

impl RequestClass {
    /// The class of a request; `path` has no query.
    pub fn new(method: &str, path: &str) -> Self {
        let method = match method {
            "GET" | "HEAD" => MethodClass::Read,
            "PUT" => MethodClass::Replace,
            "DELETE" => MethodClass::Remove,
            "POST" | "PATCH" => MethodClass::Submit,
            _ => MethodClass::Other,
        };
        Self { method, path: hash_path(path) }
    }

    /// Whether it only reads.
    pub(super) fn is_read(self) -> bool {
        self.method == MethodClass::Read
    }
}

/// FNV-1a over the path's segments, each identifier replaced by one sign. It only has to tell a service's paths apart.
fn hash_path(path: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add_byte = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    for segment in path.split('/').filter(|segment| !segment.is_empty()).take(MAX_CLASS_SEGMENTS) {
        add_byte(b'/');
        if is_identifier(segment) {
            add_byte(b'*');
        } else {
            segment.bytes().for_each(&mut add_byte);
        }
    }
    hash
}

/// Whether a segment names one thing of many: it has a digit, but does not look like a version (`v2`).
fn is_identifier(segment: &str) -> bool {
    let is_version = segment.len() <= 4
        && segment.strip_prefix('v').is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    segment.len() > MAX_WORD_BYTES || (!is_version && segment.bytes().any(|byte| byte.is_ascii_digit()))
}

/// What a status may mean for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusKind {
    /// 2xx.
    Success,
    /// One of `refusal_statuses`.
    Refusal,
    /// 408, 421, 429 and 5xx: the server's state, not the certificate's. Proves nothing and refuses nothing.
    Neutral,
    /// Redirects, 404, 407 and the like: means something only beside the previous pair's answer.
    Other,
}

impl StatusKind {
    /// The operator's list comes first.
    pub(super) fn from_status(status: u16, refusals: &[u16]) -> Self {
        match status {
            _ if refusals.contains(&status) => Self::Refusal,
            200..=299 => Self::Success,
            408 | 421 | 429 | 500.. => Self::Neutral,
            _ => Self::Other,
        }
    }
}

/// How the pair stands at the node that answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerRole {
    /// It is tried by one request that can be replayed.
    Canary,
    /// It is not proved, and requests of every kind show it.
    Everyone,
    /// It is proved there.
    Proved,
}

/// What is known of the previous pair's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PreviousAnswer {
    /// To this very request.
    Compared(u16),
    /// To this very request, but from another node, or of a pair that is refused: the same status says nothing.
    Incomparable,
    /// To requests of the same class, in this overlap.
    Recalled {
        /// It got the same status.
        same: bool,
        /// It got a 2xx, and never this status.
        better: bool,
    },
}

/// One answer, and what is known beside it.
#[derive(Clone, Copy, Debug)]
pub(super) struct PairAnswer {
    pub(super) status: u16,
    pub(super) role: AnswerRole,
    /// The upstream asked for a certificate on this connection.
    pub(super) asked: bool,
    /// The same request gets the same status without a certificate.
    pub(super) is_public: bool,
    /// The request may be sent once more with the previous pair.
    pub(super) comparable: bool,
    pub(super) previous: PreviousAnswer,
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerJudgement {
    /// The upstream accepts the pair.
    Proves,
    /// It refuses the pair: the previous one gets another answer.
    Refuses,
    /// The previous pair fares better, which may have another reason: no verdict, but no further request should depend on it.
    Doubts,
    /// Only the previous pair's answer to the same request can tell.
    Compare,
    /// Only what the same request gets without a certificate can tell: it may be one that everyone gets.
    AskUncertified,
    /// Nothing.
    Nothing,
}

/// Judges an answer by contract section 4.
pub(super) fn judge_answer(answer: &PairAnswer, refusals: &[u16]) -> AnswerJudgement {
    if !answer.asked || answer.is_public {
        return AnswerJudgement::Nothing;
    }
    let kind = StatusKind::from_status(answer.status, refusals);
    match (kind, answer.previous) {
        (StatusKind::Success, _) => AnswerJudgement::Proves,
        (_, PreviousAnswer::Incomparable) => AnswerJudgement::Nothing,
        (_, PreviousAnswer::Compared(old)) => {
            compare_answers((answer.status, kind), old, refusals, answer.role == AnswerRole::Proved)
        }
        (_, PreviousAnswer::Recalled { same, better }) => judge_alone(answer, kind, same, better),
    }
}

/// Both pairs' answers to one request.
fn compare_answers((new, kind): (u16, StatusKind), old: u16, refusals: &[u16], is_proved: bool) -> AnswerJudgement {
    match (kind, StatusKind::from_status(old, refusals)) {
        (StatusKind::Other, _) if new == old => AnswerJudgement::Proves,
        // The application's own answer, or the server's state.
        (_, StatusKind::Neutral) => AnswerJudgement::Nothing,
        _ if new == old => AnswerJudgement::Nothing,
        // One of them may be the application's own, and the other pair fares no better: that ends no proof.
        (StatusKind::Refusal, StatusKind::Refusal) if is_proved => AnswerJudgement::Nothing,
        (StatusKind::Refusal, _) => AnswerJudgement::Refuses,
        // The new pair got further than the old one; a 304 answers a condition, which nodes may judge differently.
        (_, StatusKind::Refusal) => AnswerJudgement::Nothing,
        (StatusKind::Other, _) if new == 304 => AnswerJudgement::Nothing,
        (StatusKind::Other, _) => AnswerJudgement::Refuses,
        _ => AnswerJudgement::Doubts,
    }
}

/// The previous pair has not answered this request: `same`, it got this status for one of the same class; `better`, it got
/// a 2xx and never this status.
fn judge_alone(answer: &PairAnswer, kind: StatusKind, same: bool, better: bool) -> AnswerJudgement {
    let is_proved = answer.role == AnswerRole::Proved;
    match kind {
        StatusKind::Other if same => AnswerJudgement::Proves,
        _ if is_proved && kind != StatusKind::Refusal => AnswerJudgement::Nothing,
        _ if answer.comparable => AnswerJudgement::Compare,
        // Of a request that cannot be sent again the first refusal ends the trial; a proved pair needs a better reason.
        StatusKind::Refusal if !same && !is_proved => AnswerJudgement::Refuses,
        _ if better && answer.role != AnswerRole::Canary => AnswerJudgement::Doubts,
        _ => AnswerJudgement::Nothing,
    }
}

#[cfg(test)]
mod tests;
