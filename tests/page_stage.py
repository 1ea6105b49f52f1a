"""What tests/page.py looks at: a sidecar with keyrings in every state, real traffic through it, and peers that mean harm.

Certificates are made here, the sidecar is the real executable, everything is on loopback and in a temporary folder.
"""
import datetime, http.client, http.server, os, pathlib, shutil, socket, ssl, subprocess, tempfile, threading, time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as EKU, NameOID

import pki

DAY = datetime.timedelta(days=1)
PATIENCE = 30
# Subjects that a peer may send: each has to be shown and to do nothing.
HOSTILE = {
    "markup": "<img src=x onerror=\"window.hacked=1\"><script>window.hacked=2</script>",
    "quotes": "\"'><svg onload=window.hacked=3> `id` ${x} {{7*7}}",
    "turned": "safe\u202egnp.exe\u2066hidden\u2069 \u05d0\u05d1\u05d2",
    "control": "a\x00b\x07c\x1b[2Jd\u2028e\u200bf\r\ng",
    "long": "L" * 4096,
}


def subject(text):
    # The library's limit of 64 characters is not one that peers keep.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text, _validate=False)])


def issue(authority, common, *, usage, names=(), begins=-DAY, lasts=90 * DAY, own=False):
    """A certificate and its key as PEM; `own`: signed by itself."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    issuer = subject(common) if own else authority.subject
    builder = (
        x509.CertificateBuilder().subject_name(subject(common)).issuer_name(issuer).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now + begins).not_valid_after(now + begins + lasts)
        .add_extension(x509.ExtendedKeyUsage(usage), False))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
    made = builder.sign(key if own else authority.key, hashes.SHA256())
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.public_bytes(serialization.Encoding.PEM), private


def revoke(authority, serials, due):
    """A CRL with these serial numbers."""
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject).last_update(now - DAY / 24).next_update(now + due)
    for serial in serials:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - DAY / 12).build())
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        pass  # Clients that leave are part of the play.


def serve(context=None):
    server = Server(("127.0.0.1", 0), Quiet)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Stage:
    """A running sidecar, the authorities, and the certificates of its peers."""

    def __init__(self, sidekey):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="page"))
        self.sidekey, self.process, self.servers = os.path.abspath(sidekey), None, []
        self.old, self.new, self.stranger = (pki.Authority(text) for text in ("Old CA 2024", "New CA 2026", "Stranger <b>CA</b>"))
        self.port, self.out, self.admin, self.probes = (pki.free_port() for _ in range(4))
        self.base = f"http://127.0.0.1:{self.admin}"

    # ------------------------------------------------------------ files

    def put(self, name, content):
        path = self.folder / "certs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(path.name + "~")
        aside.write_bytes(content)
        aside.chmod(0o600)
        aside.rename(path)

    def drop(self, name, pair):
        self.put(name + ".key", pair[1])
        self.put(name + ".crt", pair[0])

    def peer(self, name, pair):
        path = self.folder / "peers" / f"{name}.pem"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pair[0] + pair[1])
        return path

    def sidecar_settings(self, upstream):
        return f"""
certs = "certs"
state = "state"
instance = "edge-1"
settle = "1s"
[keyring.api]
purpose = "Orders API, <b>mTLS</b> for partners"
owner = "integrations"
contact = "integrations@example.com"
[keyring.billing]
purpose = "Billing export"
owner = "finance"
[keyring.ledger]
activate = "manual"
owner = "finance"
[keyring.salesforce]
purpose = "CRM synchronisation"
owner = "crm"
contact = "crm@example.com"
[trust.partners]
anchors = ["trust/partners.pem"]
crls = ["trust/partners.crl"]
[trust.upstreams]
anchors = ["trust/upstreams.pem"]
[partner.acme]
anchors = ["trust/partners.pem"]
peers = [{{ dns = "etl.acme.example" }}]
contact = "noc@acme.example"
[[ingress]]
name = "api"
listen = "127.0.0.1:{self.port}"
keyrings = ["api", "billing", "ledger"]
trust = "partners"
backend = "http://127.0.0.1:{self.servers[0].server_port}"
[[egress]]
name = "salesforce"
listen = "127.0.0.1:{self.out}"
upstream = "https://localhost:{upstream}"
keyring = "salesforce"
trust = "upstreams"
[admin]
listen = "127.0.0.1:{self.admin}"
probes = "127.0.0.1:{self.probes}"
control = "control.sock"
[log]
format = "json"
"""

    def start(self):
        serving = [EKU.SERVER_AUTH, EKU.CLIENT_AUTH]
        names = ["api.example.com", "localhost"]
        self.drop("api/2025", issue(self.old, "api.example.com", usage=serving, names=names, begins=-80 * DAY, lasts=100 * DAY))
        self.drop("billing/tls", issue(self.old, "billing.example.com", usage=serving, names=["billing.example.com"], begins=-88 * DAY, lasts=90 * DAY))
        self.drop("ledger/2025", issue(self.old, "ledger.example.com", usage=serving, names=["ledger.example.com"], begins=-100 * DAY, lasts=365 * DAY))
        self.drop("salesforce/2025", issue(self.old, "crm.example.com", usage=serving, names=["crm.example.com"], begins=-40 * DAY, lasts=120 * DAY))
        self.put("trust/partners.pem", self.old.pem)
        self.put("trust/partners.crl", revoke(self.old, [666, 667], 30 * DAY))
        self.put("trust/upstreams.pem", self.new.pem)
        self.servers.append(serve())
        self.servers.append(serve(self.upstream_context()))
        (self.folder / "sidekey.toml").write_text(self.sidecar_settings(self.servers[1].server_port))
        self.log = open(self.folder / "log", "wb")
        self.process = subprocess.Popen(
            [self.sidekey, "run", "--config", "sidekey.toml"], cwd=self.folder, stdout=self.log, stderr=self.log)
        self.await_true("ready", lambda: self.status("/readyz") == 200)

    def upstream_context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.peer("upstream", issue(self.new, "localhost", usage=[EKU.SERVER_AUTH], names=["localhost"], lasts=60 * DAY)))
        context.load_verify_locations(cadata=self.old.pem.decode())
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE)
            self.log.close()
        for server in self.servers:
            server.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------ what is asked of it

    def await_true(self, what, condition):
        until = time.monotonic() + PATIENCE
        while not condition():
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError(f"the sidecar ended: {(self.folder / 'log').read_text()[-2000:]}")
            if time.monotonic() > until:
                raise RuntimeError(f"waited in vain until: {what}")
            time.sleep(0.05)

    def ask(self, target, method="GET", host=None):
        """Status, fields and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=PATIENCE)
        try:
            connection.putrequest(method, target, skip_host=True)
            connection.putheader("Host", host or f"127.0.0.1:{self.admin}")
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()
        finally:
            connection.close()

    def status(self, target):
        try:
            return self.ask(target)[0]
        except OSError:
            return None

    def wait_for_text(self, target, text):
        self.await_true(f"{target} says {text!r}", lambda: text in self.ask(target)[2])

    # ------------------------------------------------------------ traffic

    def come(self, certificate, *, trusts=None, sni="api.example.com", requests=1, source="127.0.0.1"):
        """One connection of a peer from this address; what comes of it is for the page to say."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        if trusts is None:
            context.verify_mode = ssl.CERT_NONE
        else:
            context.load_verify_locations(cadata=b"".join(one.pem for one in trusts).decode())
        if certificate is not None:
            context.load_cert_chain(certificate)
        try:
            with socket.create_connection(("127.0.0.1", self.port), PATIENCE, (source, 0)) as raw:
                with context.wrap_socket(raw, server_hostname=sni) as stream:
                    for _ in range(requests):
                        stream.sendall(f"GET / HTTP/1.1\r\nHost: {sni}\r\n\r\n".encode())
                        if not stream.recv(4096):
                            break
        except (OSError, ssl.SSLError):
            pass

    def send_out(self):
        """One request of the application to the upstream."""
        connection = http.client.HTTPConnection("127.0.0.1", self.out, timeout=PATIENCE)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status
        finally:
            connection.close()

    def make_peers(self):
        client = [EKU.CLIENT_AUTH]
        known = lambda common, **more: issue(self.old, common, usage=client, **more)
        self.peers = {
            "etl": self.peer("etl", known("etl.acme.example", names=["etl.acme.example"])),
            "batch": self.peer("batch", known("batch.partner.example", names=["batch.partner.example"], lasts=9 * DAY)),
            "legacy": self.peer("legacy", known("legacy.partner.example", names=["legacy.partner.example"])),
            "expired": self.peer("expired", known("old.partner.example", names=["old.partner.example"], begins=-40 * DAY, lasts=37 * DAY)),
            "stranger": self.peer("stranger", issue(self.stranger, "stranger.example", usage=client)),
        }
        for name, text in HOSTILE.items():
            self.peers[f"known {name}"] = self.peer(f"known-{name}", known(text))
            self.peers[f"unknown {name}"] = self.peer(f"unknown-{name}", issue(self.stranger, text, usage=client, own=True))

    def play(self):
        """Traffic before a rotation, the rotation, and traffic after it; failures of every kind."""
        self.make_peers()
        # Those that mean harm come from one address: what that hides, the report says.
        sources = {"etl": "127.0.0.2", "batch": "127.0.0.3", "legacy": "127.0.0.4"} | {f"known {text}": "127.0.0.9" for text in HOSTILE}
        for name, source in sources.items():
            self.come(self.peers[name], trusts=[self.old], requests=2, source=source)
        self.send_out()
        self.wait_for_text("/handshakes", "batch.partner.example")
        serving, names = [EKU.SERVER_AUTH, EKU.CLIENT_AUTH], ["api.example.com", "localhost"]
        self.drop("api/2026", issue(self.new, "api.example.com", usage=serving, names=names, begins=-DAY / 2, lasts=90 * DAY))
        self.drop("ledger/2026", issue(self.new, "ledger.example.com", usage=serving, names=["ledger.example.com"], lasts=365 * DAY))
        self.drop("salesforce/2026", issue(self.old, "crm.example.com", usage=serving, names=["crm.example.com"], begins=-DAY / 2, lasts=90 * DAY))
        self.put("billing/broken.crt", b"-----BEGIN CERTIFICATE-----\nAAAA\n")
        self.wait_for_text("/rotation", "Rotation of api")
        self.come(self.peers["etl"], trusts=[self.old, self.new], requests=2, source=sources["etl"])
        # It holds only the old authority: it refuses the new pair, and is shown the old one from then on.
        for _ in range(3):
            self.come(self.peers["legacy"], trusts=[self.old], requests=2, source=sources["legacy"])
        for _ in range(3):
            self.send_out()
        for name in ["expired", "stranger"] + [f"unknown {text}" for text in HOSTILE]:
            self.come(self.peers[name])
        self.come(None)
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
            plain.recv(4096)
        self.wait_for_text("/handshakes?failed=true", "plain")
        self.wait_for_text("/registry/peers", "etl.acme.example")
        self.wait_for_text("/registry/failures", "stranger.example")
