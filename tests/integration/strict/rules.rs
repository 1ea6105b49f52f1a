//! Rules on paths and hosts: no other spelling walks around them, whatever a backend makes of what is forwarded.

use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::corpus;
use super::front;
use super::recording::Recording;
use crate::support::ca::Ca;
use crate::support::peer::Peer;
use crate::support::sidecar::{Sidecar, drop_pair, folder, put};

const RULES: &str = r#"
[[ingress.rule]]
paths = ["/admin/**", "/exact", "/Mixed"]
allow = [{ dns = "ops.example" }]
[[ingress.rule]]
paths = ["/items/*"]
methods = ["DELETE"]
allow = [{ dns = "ops.example" }]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn no_other_spelling_of_a_path_walks_around_a_rule() {
    let front = front(RULES).await;
    let address = front.sidecar.ingress("api");
    let mut wrong = Vec::new();
    for case in corpus::read("paths.txt") {
        let path = case.bytes();
        for alpn in ["http/1.1", "h2"] {
            let before = front.backend.whole().len();
            let peer = Peer::new(&[front.ca.pem()], Some(&front.client)).alpn(&[alpn]);
            let status = if alpn == "h2" {
                let Ok(uri) = http::uri::PathAndQuery::try_from(&path[..]) else { continue };
                peer.get(address, uri.as_str()).await.expect("answered").status.as_u16().to_string()
            } else {
                let mut stream = peer.tls(address).await.expect("connected");
                let request =
                    [b"GET ", &path[..], b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"].concat();
                stream.write_all(&request).await.expect("written");
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer).await;
                String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap_or("none").to_owned()
            };
            if status != case.expected {
                wrong.push(format!("{} over {alpn}: {status}, not {}", case.name, case.expected));
            }
            let forwarded: Vec<String> = front.backend.whole().split_off(before).into_iter().map(|t| t.line).collect();
            let due: Vec<String> = (case.reaches != "-").then(|| format!("GET {}", case.reaches)).into_iter().collect();
            if forwarded != due {
                wrong.push(format!("{} over {alpn}: forwarded {forwarded:?}, not {due:?}", case.name));
            }
            for line in forwarded {
                let read = as_the_loosest_backend_reads(line.trim_start_matches("GET "));
                if read == "/admin" || read.starts_with("/admin/") || matches!(&*read, "/exact" | "/mixed") {
                    wrong.push(format!("{}: {line} may be read as {read}", case.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Everything at once that frameworks of several languages do to a path, decoding twice apart: parameters cut off
/// (servlets), escapes decoded, backslashes taken for slashes (IIS), overlong UTF-8 read (old Tomcat), cut at NUL (C),
/// dot segments resolved, slashes merged, control characters dropped (WHATWG) or cut at the end (`$` in Python and Ruby), no
/// case (Express, ASP.NET), no slash at the end.
fn as_the_loosest_backend_reads(target: &str) -> String {
    let path = target.split('?').next().expect("a path");
    let plain: Vec<String> = path.split('/').map(|part| part.split(';').next().expect("a part").to_owned()).collect();
    let plain = plain.join("/");
    let mut bytes = Vec::new();
    let mut rest = plain.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        rest = after;
        bytes.push(match (byte, digits) {
            (b'%', Some(value)) => {
                rest = &after[2..];
                value
            }
            _ => *byte,
        });
    }
    let overlong = |pair: [u8; 2]| (pair[0] & 0x1f) << 6 | pair[1] & 0x3f;
    let mut read = String::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, bytes.get(at + 1)) {
            (0, _) => break,
            (0xc0 | 0xc1, Some(next)) => {
                read.push(char::from(overlong([*byte, *next])));
                at += 1;
            }
            (b'\\', _) => read.push('/'),
            (byte, _) if byte.is_ascii_control() => {}
            (byte, _) => read.push(char::from(*byte)),
        }
        at += 1;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in read.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    format!("/{}", parts.join("/").to_ascii_lowercase())
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_rename_path_or_method_do_not_arrive_where_rules_name_them() {
    let front = front(RULES).await;
    let peer = Peer::new(&[front.ca.pem()], Some(&front.client));
    let mut connection = peer.connect(front.sidecar.ingress("api")).await.expect("connected");
    let mut request = Request::get("/items/1");
    for name in ["x-original-url", "X_Original_URL", "x-rewrite-url", "x-http-method-override", "x-method-override"] {
        request = request.header(name, "/admin");
    }
    let answer = connection.send(request.body(Full::default()).expect("a request")).await.expect("answered");
    assert_eq!(answer.status, 200);
    let seen = front.backend.whole().pop().expect("a request");
    let named: Vec<_> = seen.fields.iter().filter(|(_, value)| value == b"/admin").collect();
    assert!(named.is_empty(), "{named:?}");
    let delete = Request::delete("/items/1").body(Full::default()).expect("a request");
    assert_eq!(connection.send(delete).await.expect("answered").status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_for_the_host_of_its_handshake_with_several_keyrings() {
    let backend = Recording::start().await;
    let ca = Ca::new("Test CA");
    let folder = folder();
    drop_pair(folder.path(), "one/tls", &ca.server(10));
    drop_pair(folder.path(), "two/tls", &ca.server(10));
    put(folder.path(), "trust/ca.pem", ca.pem());
    let toml = format!(
        "certs = \"certs\"\n[trust.ours]\nanchors = [\"trust/ca.pem\"]\n\
         [[ingress]]\nname = \"api\"\nlisten = \"127.0.0.1:0\"\nkeyrings = [\"one\", \"two\"]\ntrust = \"ours\"\nbackend = \"http://{}\"\n",
        backend.address
    );
    let sidecar = Sidecar::start(folder, &toml).await;
    let client = ca.client("etl", 5);
    for alpn in ["http/1.1", "h2"] {
        // The name of the handshake is `localhost`.
        let peer = Peer::new(&[ca.pem()], Some(&client)).alpn(&[alpn]);
        let mut connection = peer.connect(sidecar.ingress("api")).await.expect("connected");
        for (host, status) in [("localhost", 200), ("other.example", 421), ("LOCALHOST:8443", 200), ("localhost.", 200)]
        {
            let request = if alpn == "h2" {
                Request::get(format!("https://{host}/")).body(Full::default())
            } else {
                Request::get("/").header("host", host).body(Full::default())
            };
            let answer = connection.send(request.expect("a request")).await.expect("answered");
            assert_eq!(answer.status, status, "{host} over {alpn}");
        }
    }
    assert_eq!(backend.whole().len(), 6);
}
