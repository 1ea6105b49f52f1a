"""Clients that know only the old certificate, in a rotation to a pair of a new authority: docs/rotation-report.md has the table.

    tests/clients/run-rotation                      every stack that is there
    tests/clients/run-rotation --only dotnet

Each stack comes five times to a sidecar that has just rotated. How many handshakes it loses, what is learned and what the report says
must be what the table says; a line is printed for each.
"""
import argparse, http.server, json, os, signal, subprocess, sys, threading

here = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(here), os.path.join(os.path.dirname(here), "upstreams")]
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from pki import CLIENT, SERVER, Authority, days_ago, free_port
from scene import PATIENCE, Folder

VISITS = 5


def curl(*more):
    return lambda scene: ["curl", "--silent", "--show-error", "--fail", "--max-time", "20", "--output", "/dev/null", "--cert", scene.path("client.crt"),
                          "--key", scene.path("client.key"), *(one.replace("FOLDER", scene.folder) for one in more), scene.url]


def python(code):
    return lambda scene: [sys.executable, "-c", code, scene.folder, scene.url]


def node(version):
    code = """
const [folder, url] = process.argv.slice(1), fs = require("fs"), file = (name) => fs.readFileSync(`${folder}/${name}`);
require("https").get(url, {ca: file("ca.pem"), cert: file("client.crt"), key: file("client.key"), agent: false,
  minVersion: "VERSION", maxVersion: "VERSION"}, (answer) => { answer.resume(); answer.on("end", () => process.exit(answer.statusCode === 200 ? 0 : 1)); })
  .on("error", (error) => { console.error(error.code); process.exit(1); });
""".replace("VERSION", version)
    return lambda scene: ["node", "-e", code, scene.folder, scene.url]


def dotnet(manner, version):
    return lambda scene: [scene.a.dotnet, os.path.join(here, "dotnet_visit.py"), manner, version, scene.folder, scene.url]


SSL = """
import hashlib, http.client, ssl, sys
folder, url = sys.argv[1:]
context = ssl.create_default_context(cafile=folder + "/CA")
context.load_cert_chain(folder + "/client.crt", folder + "/client.key")
host, port = url.split("/")[2].split(":")
client = http.client.HTTPSConnection(host, int(port), context=context, timeout=20)
client.connect()
if PINS and hashlib.sha256(client.sock.getpeercert(True)).hexdigest() != open(folder + "/pin.txt").read():
    client.close()
    sys.exit(1)
client.request("GET", "/")
sys.exit(0 if client.getresponse().status == 200 else 1)
"""
ssl_code = lambda authority, pins: SSL.replace("CA\"", authority + "\"").replace("PINS", str(pins))

# name, command, handshakes lost, what is learned
STACKS = [
    ("curl", curl("--cacert", "FOLDER/ca.pem"), 1, "unknown_ca"),
    ("curl in TLS 1.2", curl("--cacert", "FOLDER/ca.pem", "--tls-max", "1.2"), 1, "unknown_ca"),
    ("curl that pins", curl("--cacert", "FOLDER/both.pem", "--pinnedpubkey", "FOLDER/pinned.pem"), 2, "ended_without_data"),
    ("python", python(ssl_code("ca.pem", False)), 1, "unknown_ca"),
    ("python that pins", python(ssl_code("both.pem", True)), 2, "ended_without_data"),
    ("node in TLS 1.3", node("TLSv1.3"), 2, "ended_in_handshake"),
    ("node in TLS 1.2", node("TLSv1.2"), 2, "ended_without_data"),
    ("dotnet in TLS 1.3", dotnet("trust", "Tls13"), 2, "ended_without_data"),
    ("dotnet in TLS 1.2", dotnet("trust", "Tls12"), 2, "ended_without_data"),
    ("dotnet that pins in TLS 1.3", dotnet("pins", "Tls13"), 2, "ended_without_data"),
    ("dotnet that pins in TLS 1.2", dotnet("pins", "Tls12"), 2, "ended_without_data"),
]


class Backend(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Scene(Folder):
    """A sidecar that rotates to a pair of a new authority, and one client that knows only the old one."""

    def __init__(self, arguments):
        super().__init__("rotation-", arguments.keep)
        self.a, self.port = arguments, free_port()
        self.url = f"https://localhost:{self.port}/"
        old, new, theirs = Authority("Old CA"), Authority("New CA"), Authority("Their CA")
        pair, self.next = old.issue("localhost", days_ago(5), SERVER, ["localhost"]), new.issue("localhost", days_ago(1), SERVER, ["localhost"])
        certificate, key = theirs.issue("client", days_ago(5), CLIENT, ["client.example"])
        self.write("certs/api/old.pem", pair[0] + pair[1])
        self.write("certs/api/ca.crt", theirs.pem)
        self.write("client.crt", certificate)
        self.write("client.key", key)
        self.write("ca.pem", old.pem)
        self.write("both.pem", old.pem + new.pem)
        known = x509.load_pem_x509_certificate(pair[0])
        self.write("pin.txt", known.fingerprint(hashes.SHA256()).hex())
        self.write("pinned.pem", known.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))

    def report(self):
        done = self.ask_sidecar(self.a.sidekey, "rotation", "--json")
        return json.loads(done.stdout)["keyrings"] if done.stdout else []

    def play(self, command):
        """The outcome of each visit, what was learned, and the progress that the report gives."""
        backend = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Backend)
        threading.Thread(target=backend.serve_forever, daemon=True).start()
        process = self.start_sidecar(self.a.sidekey, self.port, f"""
[[ingress]]
name = "api"
listen = "127.0.0.1:{self.port}"
keyrings = ["api"]
backend = "http://127.0.0.1:{backend.server_port}"
""", open(self.path("log"), "wb"))
        self.write("certs/api/new.pem", self.next[0] + self.next[1])
        self.wait_for("the rotation", self.report)
        served, said = [], []
        for _ in range(VISITS):
            done = subprocess.run(command(self), capture_output=True, text=True)
            served.append(done.returncode == 0)
            said.append(done.stderr.strip()[-300:])
        progress = [line["use"] for line in self.report()[0]["lines"]]
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
        backend.shutdown()
        with open(self.path("log")) as lines:
            lines = [json.loads(line) for line in lines]
        return served, [line.get("reason") for line in lines if line.get("target") == "learned"], progress, said


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sidekey", default="target/debug/sidekey")
    parser.add_argument("--dotnet", help="an interpreter with pythonnet and the runtime")
    parser.add_argument("--only")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    failed = 0
    for name, command, lost, learned in STACKS:
        if arguments.only and arguments.only not in name:
            continue
        scene = Scene(arguments)
        served, reasons, progress, said = scene.play(command)
        wanted = ([False] * lost + [True] * (VISITS - lost), [learned, "verified_on_previous"], ["insists_on_old"])
        good = (served, reasons, progress) == wanted
        failed += not good
        print(f"{'ok  ' if good else 'FAIL'}  {name}: lost {served.count(False)} of {VISITS}, learned {reasons}, the report says {progress}")
        if not good:
            print(f"      served {served}, said {said}")
        scene.end(good)
    sys.exit(1 if failed else 0)


main()
