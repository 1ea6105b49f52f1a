//! The HTTP/2 cases: each through the real listener, at once and in pieces.

use sidekey::http::refusal::ExplainedRefusal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::corpus::{self, Case};
use super::frames::{outcomes, write};
use super::h1::{comparable, shown};
use super::recording::Taken;
use super::{Front, front};
use crate::support::eventually;
use crate::support::peer::Peer;

#[tokio::test(flavor = "multi_thread")]
async fn no_frames_reach_the_backend_that_must_not_and_every_honest_request_does() {
    let front = front("").await;
    let mut wrong = Vec::new();
    let cases = corpus::read("h2.txt");
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    let mut own = Vec::new();
    for case in &cases {
        wrong.extend(run(front_for(case, &front, &mut own).await, case, usize::MAX).await);
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    // What was too much, and what broke a rule of its stream, is counted by its kind.
    let floods = sidekey::http::frames::FrameFlood::ALL.map(ExplainedRefusal::reason);
    let faults = sidekey::http::frames::BlockFault::ALL.map(ExplainedRefusal::reason);
    for reason in floods.into_iter().chain(faults) {
        let line = format!("sidekey_refused_total{{side=\"ingress\",listener=\"api\",reason=\"{reason}\"}}");
        let fronts = own.iter().chain([&front]);
        eventually(&line, || fronts.clone().any(|front| front.sidecar.app.metrics_text().contains(&line))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_in_pieces_have_the_same_outcome() {
    let front = front("").await;
    let (mut wrong, mut own) = (Vec::new(), Vec::new());
    for (number, case) in corpus::read("h2.txt").iter().enumerate() {
        wrong.extend(run(front_for(case, &front, &mut own).await, case, number % 23 + 5).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// hyper bounds resets that come in a burst; these come one by one, each request on its way to the backend already.
#[tokio::test(flavor = "multi_thread")]
async fn paced_resets_end_the_connection() {
    const BATCH: u32 = 10;
    let front = front("").await;
    let peer = Peer::new(&[front.ca.pem()], Some(&front.client)).alpn(&["h2"]);
    let mut stream = peer.tls(front.sidecar.ingress("api")).await.expect("connected");
    let start = Case { name: "paced".into(), expected: String::new(), reaches: String::new(), lines: Vec::new() };
    stream.write_all(&write(&start).bytes).await.expect("written");
    let (mut came, mut buffer, mut opened) = (Vec::new(), vec![0; 16 * 1024], 0);
    'paced: while opened < 5000 {
        let mut lines = Vec::new();
        let mut resets = Vec::new();
        for number in (opened..opened + BATCH).map(|number| 2 * number + 1) {
            lines.push(format!("headers {number} end :method=GET :scheme=https :authority=a :path=/"));
            resets.push(format!("rst {number} 8"));
        }
        lines.push("ping".to_owned());
        opened += BATCH;
        let preface = write(&start).bytes.len();
        for lines in [lines, resets] {
            let bytes = write(&Case { lines, ..start.clone() }).bytes;
            if stream.write_all(&bytes[preface..]).await.is_err() {
                break 'paced;
            }
        }
        // The answer to the PING: the requests before it have been taken up.
        while !came.windows(8).any(|window| window == b"12345678") {
            match tokio::time::timeout(crate::support::PATIENCE, stream.read(&mut buffer)).await.expect("in time") {
                Ok(count @ 1..) => came.extend_from_slice(&buffer[..count]),
                _ => break 'paced,
            }
        }
        came.clear();
    }
    assert!(opened <= 1500, "{opened} requests were opened and reset");
    let line = "sidekey_refused_total{side=\"ingress\",listener=\"api\",reason=\"http2_reset_flood\"} 1";
    eventually(line, || front.sidecar.app.metrics_text().contains(line)).await;
}

/// The same answer, line and counts as over HTTP/1.1, and the connection goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_beyond_the_limit_is_431_with_a_line_a_reason_and_its_counts() {
    let front = front("").await;
    let peer = Peer::new(&[front.ca.pem()], Some(&front.client)).alpn(&["h2"]);
    let mut connection = peer.connect(front.sidecar.ingress("api")).await.expect("connected");
    let counted = |times: u32| {
        let (refused, limit) = (
            format!("sidekey_refused_total{{side=\"ingress\",listener=\"api\",reason=\"head_too_large\"}} {times}"),
            format!("sidekey_limit_reached_total{{side=\"ingress\",listener=\"api\",limit=\"head_size\"}} {times}"),
        );
        let metrics = front.sidecar.app.metrics_text();
        metrics.contains(&refused) && metrics.contains(&limit)
    };
    let mut lines = Vec::new();
    for (times, size) in [(1, 70_000), (2, 140_000)] {
        let request = http::Request::get("https://localhost/large").header("x-large", "y".repeat(size));
        let request = request.body(http_body_util::Full::default()).expect("a request");
        let answer = connection.send(request).await.expect("answered");
        assert_eq!(answer.status, 431);
        eventually("the counts", || counted(times)).await;
        lines.extend(front.sidecar.log());
        let refused = |line: &&serde_json::Value| line["status"] == 431 && line["reason"] == "head_too_large";
        let line = lines.iter().filter(refused).nth(times as usize - 1).expect("an access line");
        assert_eq!((&line["path"], &line["protocol"]), (&"/large".into(), &"2".into()));
        assert_eq!(connection.get("/small").await.expect("the connection goes on").status, 200);
    }
    // What HPACK unpacks to more than h2 keeps is answered by h2, and counted all the same.
    let found = run(&front, &list_beyond_what_is_read(), usize::MAX).await;
    assert_eq!(found, None);
    eventually("the counts", || counted(3)).await;
}

fn list_beyond_what_is_read() -> Case {
    let named = |case: &Case| case.name == "list-that-hpack-unpacks-beyond-what-is-read";
    corpus::read("h2.txt").into_iter().find(named).expect("the case")
}

/// A case of which something may arrive gets a sidecar and a backend of its own: it could arrive after the case is over, and be
/// taken for the next one's.
async fn front_for<'a>(case: &Case, shared: &'a Front, own: &'a mut Vec<Front>) -> &'a Front {
    if !["any", "cut"].contains(&&*case.reaches) {
        return shared;
    }
    own.push(front("").await);
    &own[own.len() - 1]
}

/// Sends a case, its first bytes in pieces of this size, and says what is wrong with what came of it.
async fn run(front: &Front, case: &Case, size: usize) -> Option<String> {
    let before = (front.backend.whole().len(), front.backend.partial());
    let written = write(case);
    let found = ask(front, case, &written.bytes, size).await;
    let found = if case.expected == "goaway" && found.ends_with("goaway") { "goaway".to_owned() } else { found };
    if found != case.expected {
        return Some(format!("{}: {found}, not {}", case.name, case.expected));
    }
    let sorted = |mut all: Vec<Taken>| {
        all.sort_by(|a, b| a.line.cmp(&b.line));
        all
    };
    let got = sorted(front.backend.whole().into_iter().skip(before.0).map(comparable).collect());
    match case.reaches.as_str() {
        "any" => None,
        "yes" => {
            let requests = written.requests.iter().filter(|request| request.ended);
            let due = sorted(requests.map(|request| comparable(request.taken())).collect());
            (got != due)
                .then(|| format!("{}: arrived as {got:?} {}, not {due:?} {}", case.name, shown(&got), shown(&due)))
        }
        "cut" => (!got.is_empty()).then(|| format!("{}: arrived as {}", case.name, shown(&got))),
        "no" => ((front.backend.whole().len(), front.backend.partial()) != before)
            .then(|| format!("{}: reached the backend", case.name)),
        other => panic!("{}: {other} is not yes, no, cut or any", case.name),
    }
}

async fn ask(front: &Front, case: &Case, bytes: &[u8], size: usize) -> String {
    let peer = Peer::new(&[front.ca.pem()], Some(&front.client)).alpn(&["h2"]);
    let stream = peer.tls(front.sidecar.ingress("api")).await.expect("connected");
    let (mut read, mut send) = tokio::io::split(stream);
    let (first, rest) = bytes.split_at(bytes.len().min(size.saturating_mul(40)));
    let (first, rest) = (first.to_vec(), rest.to_vec());
    // Read and written at once: a flood is answered while it goes on.
    let writing = tokio::spawn(async move {
        for piece in first.chunks(size).chain([&rest[..]]) {
            if send.write_all(piece).await.is_err() || send.flush().await.is_err() {
                break;
            }
        }
        send
    });
    let expected = case.expected.split(' ').count();
    let gone = case.expected.ends_with("goaway");
    let (mut came, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    let found = loop {
        let found = outcomes(&came);
        if found.last().is_some_and(|last| last == "goaway") || (!gone && found.len() >= expected) {
            break found;
        }
        let read = tokio::time::timeout(crate::support::PATIENCE, read.read(&mut buffer)).await;
        match read.unwrap_or_else(|_| panic!("{}: no outcome, only {found:?}", case.name)) {
            Ok(count @ 1..) => came.extend_from_slice(&buffer[..count]),
            // An end without GOAWAY does as well: what was sent may have been lost in a reset.
            _ => break found.into_iter().chain(["goaway".to_owned()]).collect(),
        }
    };
    writing.abort();
    found.join(" ")
}
