//! The rule as a table: the new pair's status, the previous one's, whether the request can be sent again, how the pair stands.

use super::*;

const REFUSALS: [u16; 5] = [400, 401, 403, 495, 496];

const fn recalled(same: bool, better: bool) -> PreviousAnswer {
    PreviousAnswer::Recalled { same, better }
}

const UNKNOWN: PreviousAnswer = recalled(false, false);

fn judge(status: u16, role: AnswerRole, comparable: bool, previous: PreviousAnswer) -> AnswerJudgement {
    let answer = PairAnswer { status, role, asked: true, is_public: false, comparable, previous };
    judge_answer(&answer, &REFUSALS)
}

#[test]
fn both_answers_decide_by_this_table() {
    // Rows: the new pair's status. Columns: what the previous pair got for the same request. P proves, R refuses, D doubts.
    let olds = [200, 204, 302, 304, 401, 403, 404, 407, 408, 421, 429, 500, 502, 503];
    let table = [
        (200, "PPPPPPPPPPPPPP"),
        (204, "PPPPPPPPPPPPPP"),
        (302, "RRPR--RR------"),
        (304, "---P----------"),
        (400, "RRRRRRRR------"),
        (401, "RRRR-RRR------"),
        (403, "RRRRR-RR------"),
        (404, "RRRR--PR------"),
        (407, "RRRR--RP------"),
        (408, "DDDD--DD------"),
        (421, "DDDD--DD------"),
        (429, "DDDD--DD------"),
        (500, "DDDD--DD------"),
        (502, "DDDD--DD------"),
        (503, "DDDD--DD------"),
    ];
    for (new, row) in table {
        for (old, expected) in olds.into_iter().zip(row.chars()) {
            let expected = match expected {
                'P' => AnswerJudgement::Proves,
                'R' => AnswerJudgement::Refuses,
                'D' => AnswerJudgement::Doubts,
                _ => AnswerJudgement::Nothing,
            };
            for role in [AnswerRole::Canary, AnswerRole::Everyone, AnswerRole::Proved] {
                // A pair that fares no better ends no proof.
                let both_refuse = [new, old].iter().all(|status| [400, 401, 403].contains(status));
                let is_kept = role == AnswerRole::Proved && both_refuse;
                let expected = if is_kept { AnswerJudgement::Nothing } else { expected };
                for comparable in [true, false] {
                    let got = judge(new, role, comparable, PreviousAnswer::Compared(old));
                    assert_eq!(got, expected, "{new} beside {old}, {role:?}");
                }
            }
        }
    }
}

#[test]
fn one_answer_alone_decides_by_this_table() {
    // Columns: canary, everyone, proved; each first for a request that can be sent again, then for one that cannot. C compares.
    let table = [
        (200, UNKNOWN, "PPPPPP"),
        (302, UNKNOWN, "C-C---"),
        (302, recalled(false, true), "C-CD--"),
        (302, recalled(true, false), "PPPPPP"),
        (404, UNKNOWN, "C-C---"),
        (404, recalled(true, false), "PPPPPP"),
        (401, UNKNOWN, "CRCRC-"),
        (401, recalled(true, false), "C-C-C-"),
        (401, recalled(false, true), "CRCRCD"),
        (403, UNKNOWN, "CRCRC-"),
        (421, UNKNOWN, "C-C---"),
        (429, recalled(true, false), "C-C---"),
        (502, UNKNOWN, "C-C---"),
        (502, recalled(true, false), "C-C---"),
        (502, recalled(false, true), "C-CD--"),
    ];
    for (status, previous, row) in table {
        let roles = [AnswerRole::Canary, AnswerRole::Everyone, AnswerRole::Proved];
        let columns = roles.into_iter().flat_map(|role| [(role, true), (role, false)]);
        for ((role, comparable), expected) in columns.zip(row.chars()) {
            let expected = match expected {
                'P' => AnswerJudgement::Proves,
                'R' => AnswerJudgement::Refuses,
                'D' => AnswerJudgement::Doubts,
                'C' => AnswerJudgement::Compare,
                _ => AnswerJudgement::Nothing,
            };
            let got = judge(status, role, comparable, previous);
            assert_eq!(got, expected, "{status}, {previous:?}, {role:?}, can be sent again: {comparable}");
        }
    }
}

#[test]
fn nothing_is_proved_where_no_certificate_is_asked_for_or_needed() {
    let proves = PairAnswer {
        status: 200,
        role: AnswerRole::Canary,
        asked: true,
        is_public: false,
        comparable: true,
        previous: UNKNOWN,
    };
    for (asked, is_public, expected) in [
        (true, false, AnswerJudgement::Proves),
        (true, true, AnswerJudgement::Nothing),
        (false, false, AnswerJudgement::Nothing),
    ] {
        assert_eq!(judge_answer(&PairAnswer { asked, is_public, ..proves }, &REFUSALS), expected);
    }
}

#[test]
fn the_operators_list_decides_what_a_refusal_is() {
    let answer = |status| PairAnswer {
        status,
        role: AnswerRole::Canary,
        asked: true,
        is_public: false,
        comparable: false,
        previous: PreviousAnswer::Compared(200),
    };
    for status in [302, 421, 503, 202] {
        assert_eq!(judge_answer(&answer(status), &[202, 302, 421, 503]), AnswerJudgement::Refuses, "{status}");
    }
    assert_eq!(judge_answer(&answer(403), &[]), AnswerJudgement::Refuses, "another answer all the same");
}

#[test]
fn identifiers_in_a_path_make_no_other_class() {
    let class = RequestClass::new;
    assert_eq!(class("GET", "/orders/17"), class("HEAD", "/orders/18"));
    assert_eq!(class("GET", "/orders/9f3c1e52-aa11-4f0e-9c11-3b0a6e0d1f7a/x"), class("GET", "/orders/1/x"));
    assert_eq!(class("POST", "/a//b/"), class("PATCH", "/a/b"));
    for (one, other) in [("/orders", "/orders/17"), ("/v1/orders", "/v2/orders"), ("/login", "/logout"), ("/", "/x")] {
        assert_ne!(class("GET", one), class("GET", other), "{one} {other}");
    }
    assert_ne!(class("GET", "/x"), class("PUT", "/x"));
    assert_ne!(class("DELETE", "/x"), class("POST", "/x"));
}
