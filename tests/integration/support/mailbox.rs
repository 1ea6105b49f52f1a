//! Where alerts arrive: a real SMTP server (aiosmtpd, pinned in `tests/tools`) that wants authentication, and a webhook's
//! endpoint.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use serde_json::Value;
use sidekey::pki::issue::IssuedKeyPair;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// The interpreter that `tests/tools` installs, with `aiosmtpd`.
static PYTHON: LazyLock<String> = LazyLock::new(|| {
    let mut command = Command::new("bash");
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["-c", ". tests/tools && venv_mail"]);
    let output = command.stdin(Stdio::null()).output().expect("bash");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a path").trim().to_owned()
});

const SERVER: &str = r#"
import asyncio, email, email.policy, json, logging, ssl, sys, warnings
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
from aiosmtpd.smtp import SMTP, AuthResult

wrapped = "wrapped" in sys.argv

class Handler:
    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        print(json.dumps({"from": envelope.mail_from, "to": envelope.rcpt_tos, "subject": mail["subject"],
                          "text": mail.get_content(), "tls": wrapped or session.ssl is not None,
                          "id": mail["Message-ID"], "auto": mail["Auto-Submitted"],
                          "user": session.auth_data.login.decode()}), flush=True)
        return "250 taken"

def check(server, session, envelope, mechanism, data):
    return AuthResult(success=data.login == b"sidekey" and data.password == b"pass:word", auth_data=data, handled=False)

async def main():
    context = None
    if len(sys.argv) > 3:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1], sys.argv[2])
    def server():
        return SMTP(Handler(), authenticator=check, auth_required=True, auth_require_tls=upgrades,
                    tls_context=context if upgrades else None, require_starttls=upgrades)
    upgrades = context is not None and not wrapped
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0, ssl=context if wrapped else None)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"#;

/// A running SMTP server; it ends when dropped. The user is `sidekey`, the password `pass:word`.
pub struct Mailbox {
    pub port: u16,
    mails: Arc<Mutex<Vec<Value>>>,
    child: Child,
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Mailbox {
    /// Without TLS.
    pub fn new() -> Self {
        Self::start(None)
    }

    /// With this certificate and key; `wrapped`: from the first byte on, else after STARTTLS.
    pub fn tls(certificate: &Path, key: &Path, wrapped: bool) -> Self {
        Self::start(Some((certificate, key, if wrapped { "wrapped" } else { "upgraded" })))
    }

    fn start(tls: Option<(&Path, &Path, &str)>) -> Self {
        let mut command = Command::new(&*PYTHON);
        command.args(["-c", SERVER]);
        if let Some((certificate, key, how)) = tls {
            command.args([certificate, key]).arg(how);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("python");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let port = lines.next().expect("a port").expect("text").parse().expect("a port");
        let mails = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&mails);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                taken.lock().expect("lock").push(serde_json::from_str(&line).expect("JSON"));
            }
        });
        Self { port, mails, child }
    }

    /// Every mail so far.
    pub fn mails(&self) -> Vec<Value> {
        self.mails.lock().expect("lock").clone()
    }
}

/// A webhook's endpoint that records what is posted; it ends with the test's runtime.
pub struct Hook {
    pub address: SocketAddr,
    posted: Arc<Mutex<Vec<Value>>>,
    status: Arc<AtomicU16>,
}

impl Hook {
    pub async fn new() -> Self {
        Self::start(None).await
    }

    /// With TLS and this pair.
    pub async fn tls(pair: &IssuedKeyPair) -> Self {
        let (chain, key) = super::peer::chain(pair);
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a pair");
        Self::start(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (posted, status) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU16::new(200)));
        let (records, answers) = (Arc::clone(&posted), Arc::clone(&status));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (records, answers) = (Arc::clone(&records), Arc::clone(&answers));
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let (records, status) = (Arc::clone(&records), answers.load(Ordering::SeqCst));
                    async move {
                        let body = request.into_body().collect().await.expect("a body").to_bytes();
                        if status == 200 {
                            records.lock().expect("lock").push(serde_json::from_slice(&body).expect("JSON"));
                        }
                        let answer = http::Response::builder().status(status).body(Full::<Bytes>::default());
                        Ok::<_, Infallible>(answer.expect("an answer"))
                    }
                });
                let tls = tls.clone();
                tokio::spawn(async move {
                    let connection = hyper::server::conn::http1::Builder::new();
                    let Some(tls) = tls else {
                        let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                        return;
                    };
                    if let Ok(stream) = tls.accept(stream).await {
                        let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                    }
                });
            }
        });
        Self { address, posted, status }
    }

    /// Answers with this status from now on; what is posted counts only with 200.
    pub fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// Everything that was posted.
    pub fn posted(&self) -> Vec<Value> {
        self.posted.lock().expect("lock").clone()
    }

    /// The names of the alerts that were posted, sorted.
    pub fn alerts(&self) -> Vec<String> {
        let mut names: Vec<String> = self.posted().iter().map(|one| text(&one["alert"])).collect();
        names.sort();
        names
    }
}

/// A JSON string.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
