//! The HTTP/1 cases: each through TLS at once, in two pieces, and through the scanner at every place where it can be cut.

use sidekey::http::framing::{FramingAction, FramingFault, FramingLimits, FramingScanner};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::corpus::{self, Case};
use super::recording::{Taken, take};
use super::{Front, front};
use crate::support::ca::Ca;
use crate::support::eventually;
use crate::support::peer::Peer;
use crate::support::upstream::Upstream;

/// Fields that Sidekey sets, or that end at a hop: left out on both sides of the comparison.
const OURS: [&str; 16] = [
    "connection",
    "keep-alive",
    "upgrade",
    "http2-settings",
    "te",
    "transfer-encoding",
    "content-length",
    "expect",
    "x-forwarded-client-cert",
    "x-sidekey-peer",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "forwarded",
    "traceparent",
    "x-hop",
];

/// What is asked of the corpus: all of it through the real listener, the bytes as one piece.
#[tokio::test(flavor = "multi_thread")]
async fn no_case_reaches_the_backend_that_must_not_and_every_honest_one_does() {
    let front = front("").await;
    let mut wrong = Vec::new();
    let mut expected = 0;
    let cases = corpus::read("h1.txt");
    assert!(cases.len() >= 200, "only {} cases", cases.len());
    for case in &cases {
        let bytes = case.bytes();
        let before = (front.backend.whole().len(), front.backend.partial());
        let statuses = ask(&front, &[&bytes], case).await;
        if statuses != due_statuses(case).0 {
            wrong.push(format!("{}: answered {statuses}, not {}", case.name, case.expected));
        }
        let due = due(case, &bytes);
        let got: Vec<Taken> = front.backend.whole().into_iter().skip(before.0).map(comparable).collect();
        if got != due {
            wrong.push(format!("{}: arrived as {}, not {}", case.name, shown(&got), shown(&due)));
        }
        expected += due.len();
        if case.reaches == "cut" {
            // What has arrived of it must not be taken for the next case's.
            eventually("the cut request's connection has ended", || front.backend.is_settled()).await;
        }
        if case.reaches == "no" && (front.backend.whole().len(), front.backend.partial()) != before {
            wrong.push(format!("{}: reached the backend", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    counted(&front, &cases).await;
    assert_eq!(front.backend.whole().len(), expected, "a request arrived late");
}

/// Short enough to be read.
pub fn shown(all: &[Taken]) -> String {
    let text =
        |taken: &Taken| format!("{} with {} fields, {} bytes", taken.line, taken.fields.len(), taken.content.len());
    all.iter().map(text).collect::<Vec<_>>().join(", then ")
}

/// Every refusal has its access line with a reason, and its count.
async fn counted(front: &Front, cases: &[Case]) {
    let refusals =
        cases.iter().flat_map(|case| due_statuses(case).0.split(' ')).filter(|status| status.starts_with('4'));
    let refusals = refusals.count();
    let mut lines = Vec::new();
    let all_there = || {
        lines.extend(front.sidecar.log());
        let refused = |line: &&serde_json::Value| line["target"] == "access" && line["reason"].is_string();
        lines.iter().filter(refused).count() >= refusals
    };
    eventually("an access line for each refusal", all_there).await;
    let metrics = front.sidecar.app.metrics_text();
    for reason in ["two_framings", "bare_line_feed", "bad_chunk_size", "framing_twin", "head_too_large"] {
        let line = format!("sidekey_refused_total{{side=\"ingress\",listener=\"api\",reason=\"{reason}\"}}");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
}

/// Cut in two somewhere, a case is answered the same; of what is refused at most a beginning arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_case_in_two_pieces_is_answered_the_same() {
    let front = front("").await;
    let mut wrong = Vec::new();
    let mut whole = 0;
    for (number, case) in corpus::read("h1.txt").iter().enumerate() {
        let bytes = case.bytes();
        // Another place in each case, so that all kinds of places are met.
        let cut = (number * 7 + 3) % bytes.len().max(1);
        let statuses = ask(&front, &[&bytes[..cut], &bytes[cut..]], case).await;
        if statuses != due_statuses(case).0 {
            wrong.push(format!("{} cut at {cut}: answered {statuses}, not {}", case.name, case.expected));
        }
        whole += due(case, &bytes).len();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(front.backend.whole().len(), whole, "requests that arrived");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_is_held_to_the_same_on_the_way_out() {
    let ca = Ca::new("Test CA");
    let upstream = Upstream::start(&ca.server(5), &[ca.pem()], &["http/1.1"]).await;
    let sidecar =
        crate::egress::egress(&ca, &ca.client("ours", 5), upstream.address, "server_name = \"localhost\"").await;
    let mut wrong = Vec::new();
    for case in corpus::read("h1.txt").iter().filter(|case| case.reaches == "no") {
        let stream = TcpStream::connect(sidecar.egress("out")).await.expect("connected");
        let statuses = converse(stream, &[&case.bytes()], case).await;
        if statuses != due_statuses(case).0 {
            wrong.push(format!("{}: answered {statuses}, not {}", case.name, case.expected));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(upstream.seen().is_empty(), "{:?}", upstream.seen());
}

/// Behind a 101 the guard steps aside: what a client sent early is the tunnel's, whatever it looks like.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_after_a_granted_upgrade_belong_to_the_tunnel_and_form_no_request() {
    const EARLY: &[u8] = b"\x81\x05hello GET /evil HTTP/1.1\n\n\0";
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        // Nothing of the tunnel may be here before it is granted.
        let early = stream.try_read(&mut [0; 64]);
        assert!(early.is_err(), "bytes of the tunnel came before the answer");
        let granted = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(granted).await.expect("written");
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let front = super::in_front_of(at, "").await;
    let peer = Peer::new(&[front.ca.pem()], Some(&front.client)).alpn(&["http/1.1"]);
    let mut stream = peer.tls(front.sidecar.ingress("api")).await.expect("connected");
    let ask = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    stream.write_all(&[&ask[..], EARLY].concat()).await.expect("written");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", head.escape_ascii());
    for sent in [EARLY, b"and later"] {
        if sent != EARLY {
            stream.write_all(sent).await.expect("written");
        }
        let mut echo = vec![0; sent.len()];
        stream.read_exact(&mut echo).await.expect("echoed");
        assert_eq!(echo, sent);
    }
}

#[test]
fn the_scanner_says_the_same_wherever_a_case_is_cut() {
    for case in corpus::read("h1.txt") {
        let bytes = case.bytes();
        let whole = verdict(&[&bytes]);
        let step = (bytes.len() / 400).max(1);
        for cut in (0..bytes.len()).step_by(step) {
            assert_eq!(verdict(&[&bytes[..cut], &bytes[cut..]]), whole, "{} cut at {cut}", case.name);
        }
        if bytes.len() < 2000 {
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(verdict(&single), whole, "{} byte by byte", case.name);
        }
    }
}

/// Which rule was broken, and if none, how many bytes went on.
fn verdict(pieces: &[&[u8]]) -> Result<usize, FramingFault> {
    let mut scanner = FramingScanner::new(FramingLimits { head_size: 64 * 1024, fields: 100 });
    let (mut left, mut passed) = (Vec::new(), 0);
    for piece in pieces {
        left.extend_from_slice(piece);
        loop {
            let step = scanner.scan(&left);
            left.drain(..step.pass);
            passed += step.pass;
            match step.next {
                FramingAction::More => break,
                FramingAction::Pause => scanner.resume(),
                FramingAction::Refuse(fault) | FramingAction::Cut(fault) => return Err(fault),
            }
        }
    }
    Ok(passed)
}

/// Sends the pieces one by one over TLS, and says what came back.
async fn ask(front: &Front, pieces: &[&[u8]], case: &Case) -> String {
    let peer = Peer::new(&[front.ca.pem()], Some(&front.client)).alpn(&["http/1.1"]);
    let stream = peer.tls(front.sidecar.ingress("api")).await.expect("connected");
    converse(stream, pieces, case).await
}

/// Sends the pieces one by one, and says what came back.
async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, pieces: &[&[u8]], case: &Case) -> String {
    let (statuses_due, gives_up) = due_statuses(case);
    let expected = if statuses_due == "none" { usize::MAX } else { statuses_due.split(' ').count() };
    for piece in pieces {
        // A connection that is refused early may be closed before all is written.
        let _ = stream.write_all(piece).await;
        let _ = stream.flush().await;
    }
    if gives_up {
        let _ = stream.shutdown().await;
    }
    let head_only = case.lines.first().is_some_and(|line| line.starts_with("HEAD "));
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 4096];
    loop {
        let statuses = statuses(&bytes, head_only);
        // Behind a refusal the connection ends: whatever else is answered would be one too many.
        if statuses.len() >= expected && statuses.last().is_some_and(|last| last == "200") {
            return statuses.join(" ");
        }
        let read = tokio::time::timeout(crate::support::PATIENCE, stream.read(&mut buffer)).await;
        match read.unwrap_or_else(|_| panic!("{}: no answer and no end", case.name)) {
            Ok(count @ 1..) => bytes.extend_from_slice(&buffer[..count]),
            _ if statuses.is_empty() => return "none".to_owned(),
            _ => return statuses.join(" "),
        }
    }
}

/// The statuses, and whether the client ends its side behind its bytes.
fn due_statuses(case: &Case) -> (&str, bool) {
    match case.expected.strip_prefix("end: ") {
        Some(statuses) => (statuses, true),
        None => (&case.expected, false),
    }
}

/// The final statuses of the answers that are whole.
fn statuses(mut bytes: &[u8], head_only: bool) -> Vec<String> {
    let mut statuses = Vec::new();
    while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).expect("a status").to_owned();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let length: usize =
            if head_only || status == "100" { 0 } else { length.map_or(0, |n| n.parse().expect("a length")) };
        if bytes.len() < end + 4 + length {
            break;
        }
        bytes = &bytes[end + 4 + length..];
        if status != "100" {
            statuses.push(status);
        }
    }
    statuses
}

/// What the backend must get of a case.
fn due(case: &Case, bytes: &[u8]) -> Vec<Taken> {
    let most = match case.reaches.as_str() {
        "yes" => usize::MAX,
        "first" => 1,
        "no" | "cut" => 0,
        other => panic!("{}: {other} is not yes, no, first or cut", case.name),
    };
    let mut due = Vec::new();
    let mut rest = bytes;
    while due.len() < most {
        rest = rest.strip_prefix(b"\r\n").unwrap_or(rest);
        let Some((mut taken, size)) = take(rest) else { break };
        rest = &rest[size..];
        // Towards the backend the target is in origin form.
        for scheme in ["http://", "https://"] {
            if let Some((method, target)) = taken.line.clone().split_once(' ')
                && let Some(after) = target.strip_prefix(scheme)
            {
                let path = after.find('/').map_or("/", |slash| &after[slash..]);
                taken.line = format!("{method} {path}");
            }
        }
        due.push(comparable(taken));
    }
    due
}

pub fn comparable(mut taken: Taken) -> Taken {
    taken.fields.retain(|(name, _)| !OURS.contains(&name.as_str()));
    // Fields keep their order among equal names; between names it means nothing.
    taken.fields.sort_by(|a, b| a.0.cmp(&b.0));
    // Trailers go on where the request has announced them.
    taken.trailers.clear();
    taken
}
