"""What the running sidecar says of real servers that refuse its only key pair.

    tests/upstreams/run-refusals                    every server that is there
    tests/upstreams/run-refusals --only nginx
    tests/upstreams/run-refusals --write            and writes the table of docs/upstreams.md

Each server demands a certificate of "Their CA", in one version of TLS, and says so; the egress shows one of "Our CA". One GET is
sent. The one line that tells why must be the one of the page, up to its sentence; the handshake must be among the failed ones, `status` must have
something to act on, and the request's own line the same reason.
"""
import argparse, http.client, json, os, re, signal, subprocess, sys

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(here))
from cryptography import x509
from pki import CLIENT, SERVER, Authority, days_ago, free_port
from scene import PATIENCE, Folder

page = os.path.join(os.path.dirname(os.path.dirname(here)), "docs", "upstreams.md")
VERSIONS = ["TLSv1.2", "TLSv1.3"]
BEGIN, END = "<!-- refusals -->", "<!-- end of refusals -->"


class Scene(Folder):
    """One server, one sidecar."""

    def __init__(self, arguments, version):
        super().__init__("refusals-", arguments.keep)
        self.a, self.version = arguments, version
        self.port, self.egress = free_port(), free_port()
        ours, theirs = Authority("Our CA"), Authority("Their CA")
        pair, server = ours.issue("application", days_ago(5), CLIENT, ["application.example"]), theirs.issue("localhost", days_ago(5), SERVER, ["localhost"])
        self.short = x509.load_pem_x509_certificate(pair[0]).fingerprint(hashes_sha256()).hex()[:12]
        self.write_server(*server)
        self.write("accepted.pem", theirs.pem)
        self.write("certs/out/tls.pem", pair[0] + pair[1])
        self.write("certs/out/ca.crt", theirs.pem)

    def ask(self, *command):
        done = self.ask_sidecar(self.a.sidekey, *command)
        return done.returncode, done.stdout

    def run(self, server):
        """The lines of the log, `handshakes --failed` and `status` after one refused request."""
        server(self)
        self.listening(self.port)
        process = self.start_sidecar(self.a.sidekey, self.egress, f"""
[[egress]]
name = "out"
listen = "127.0.0.1:{self.egress}"
upstream = "https://127.0.0.1:{self.port}"
server_name = "localhost"
keyring = "out"
""", subprocess.PIPE)
        client = http.client.HTTPConnection("127.0.0.1", self.egress, timeout=PATIENCE)
        client.request("GET", "/path", headers={"host": "app"})
        answer = client.getresponse()
        answer.read()
        client.close()
        failed, status = self.ask("handshakes", "--failed"), self.ask("status", "--json")
        process.send_signal(signal.SIGTERM)
        lines = [json.loads(line) for line in process.stdout]
        return answer.status, lines, failed[1], status


def hashes_sha256():
    from cryptography.hazmat.primitives import hashes
    return hashes.SHA256()


# ---------------------------------------------------------------- servers

def nginx(scene):
    scene.write("nginx.conf", f"""
daemon off; pid {scene.path("nginx.pid")}; error_log {scene.path("nginx-errors")} warn; worker_processes 1;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {scene.path("body")}; proxy_temp_path {scene.path("proxy")};
  fastcgi_temp_path {scene.path("f")}; uwsgi_temp_path {scene.path("u")}; scgi_temp_path {scene.path("s")};
  server {{
    listen 127.0.0.1:{scene.port} ssl;
    ssl_certificate {scene.path("server.crt")}; ssl_certificate_key {scene.path("server.key")};
    ssl_client_certificate {scene.path("accepted.pem")}; ssl_verify_client on; ssl_protocols {scene.version};
    location / {{ return 200; }}
  }}
}}
""")
    scene.start("nginx", "-c", scene.path("nginx.conf"), "-p", scene.folder)


def haproxy(scene):
    scene.write("haproxy.cfg", f"""
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend in
  bind 127.0.0.1:{scene.port} ssl crt {scene.path("server.pem")} ca-file {scene.path("accepted.pem")} verify required alpn h2,http/1.1 ssl-min-ver {scene.version} ssl-max-ver {scene.version}
  http-request return status 200
""")
    scene.start("haproxy", "-W", "-f", scene.path("haproxy.cfg"))


def envoy(scene):
    file = lambda name: {"filename": scene.path(name)}
    version = scene.version.replace("v1.", "v1_")
    tls = {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
           "require_client_certificate": True,
           "common_tls_context": {
               "alpn_protocols": ["h2", "http/1.1"],
               "tls_params": {"tls_minimum_protocol_version": version, "tls_maximum_protocol_version": version},
               "tls_certificates": [{"certificate_chain": file("server.crt"), "private_key": file("server.key")}],
               "validation_context": {"trusted_ca": file("accepted.pem")}}}
    router = {"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}
    manager = {"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
               "stat_prefix": "in", "http_filters": [router],
               "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                   {"match": {"prefix": "/"}, "direct_response": {"status": 200}}]}]}}
    scene.write("envoy.json", json.dumps({"static_resources": {"listeners": [{
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": scene.port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}],
                           "transport_socket": {"name": "tls", "typed_config": tls}}]}]}}))
    scene.start("envoy", "-c", scene.path("envoy.json"), "--disable-hot-restart", "--concurrency", "1", "-l", "warning")


def node(scene):
    scene.start("node", os.path.join(here, "server.js"), str(scene.port), scene.folder, "http/1.1", scene.version)


def go(scene):
    scene.start("go", "build", "-o", scene.path("server"), os.path.join(here, "Server.go")).wait()
    scene.start(scene.path("server"), str(scene.port), scene.folder, scene.version)


def java(scene):
    scene.start("java", "-Xmx256m", os.path.join(here, "Server.java"), str(scene.port), scene.folder, scene.version, "named")


def uvicorn(scene):
    scene.write("application.py", f"""
import ssl, sys, uvicorn

async def application(scope, receive, send):
    if scope["type"] == "http":
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": b""}})

config = uvicorn.Config(application, host="127.0.0.1", port={scene.port}, ssl_certfile="server.crt", ssl_keyfile="server.key",
                        ssl_ca_certs="accepted.pem", ssl_cert_reqs=ssl.CERT_REQUIRED, lifespan="off", log_level="error")
config.load()
config.ssl.minimum_version = config.ssl.maximum_version = ssl.TLSVersion.{scene.version.replace("v1.", "v1_")}
uvicorn.Server(config).run()
""")
    scene.start(sys.executable, "application.py", cwd=scene.folder)


def version_of(*command):
    """The version that a program tells."""
    done = subprocess.run(command, capture_output=True, text=True)
    return re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)[0]


STACKS = {
    "nginx": (nginx, ["nginx", "-v"]),
    "HAProxy": (haproxy, ["haproxy", "-v"]),
    "Envoy": (envoy, ["envoy", "--version"]),
    "Node": (node, ["node", "--version"]),
    "Go": (go, ["go", "version"]),
    "Java": (java, ["java", "-version"]),
    "uvicorn": (uvicorn, [sys.executable, "-m", "uvicorn", "--version"]),
}


def summary(row):
    """What has to agree: the sentence may change with its words, the version with the machine."""
    return row[1], row[2], row[3].split(": ")[0]


def telling(lines):
    """The one line that tells why: the last of a handshake or proof that went badly."""
    bad = [line for line in lines if line["target"] in ("handshake", "proof") and line.get("outcome") in ("refused", "doubted", "failed")]
    return bad[-1] if bad else None


def faults(stack, found, lines, failed, acts):
    """What is missing beside the line."""
    out = []
    if found is None:
        return ["no line tells why"]
    access = [line for line in lines if line["target"] == "access"]
    if not access or access[0].get("reason") != found["reason"]:
        out.append(f"the access line says {access}")
    # Python's ssl module names no authorities.
    if ("Their CA" in found["explanation"]) != (stack != "uvicorn"):
        out.append("the authorities that were named are not told")
    if found["reason"] not in failed:
        out.append(f"handshakes --failed says {failed!r}")
    items = [item for item in json.loads(acts[1])["act_on"] if item["code"].startswith("upstream_")]
    if acts[0] != 1 or not items:
        out.append(f"status has nothing to act on: {acts}")
    return out


def rows(text):
    """The table of the page: (stack, TLS) → the whole row."""
    table = text.split(BEGIN)[1].split(END)[0] if BEGIN in text else ""
    cells = [[cell.strip() for cell in line.strip("| \n").split(" | ")] for line in table.splitlines() if line.startswith("| ") and "---" not in line]
    return {(row[0].split()[0], row[1]): row for row in cells[1:]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sidekey", default="target/debug/sidekey", help="the program")
    parser.add_argument("--only", default="", help="servers whose name contains this")
    parser.add_argument("--write", action="store_true", help="write the table of the page")
    parser.add_argument("--keep", action="store_true", help="leave the folders")
    arguments = parser.parse_args()
    arguments.sidekey = os.path.abspath(arguments.sidekey)
    text = open(page).read()
    documented, made, bad = rows(text), {}, 0
    for stack, (server, command) in STACKS.items():
        if arguments.only.lower() not in stack.lower():
            continue
        for version in VERSIONS:
            number = version.removeprefix("TLSv")
            name = f"{stack} {number}"
            try:
                tells = version_of(*command)
            except (OSError, TypeError):
                print(f"{name:<14} skipped: no {stack} here", flush=True)
                continue
            scene, good = Scene(arguments, version), False
            try:
                status, lines, failed, acts = scene.run(server)
                found = telling(lines)
                wrong = faults(stack, found, lines, failed, acts)
                if found:
                    how = {"handshake": "in the handshake", "proof": "after it"}[found["target"]]
                    alert = found.get("alert.received")
                    by_end = f"by the alert {alert}" if alert else "it closes without an alert"
                    how += ", " + (by_end if status == 502 else f"by status {status}")
                    line = f"`{found['target']}` {found['outcome']}, `{found['reason']}`: {found['explanation']}"
                    made[stack, number] = [f"{stack} {tells}", number, how, line.replace(scene.short, "3fa91c0b7d22")]
                    known = documented.get((stack, number))
                    if not arguments.write and (known is None or summary(known) != summary(made[stack, number])):
                        wrong.append(f"the page says {known}, but: {made[stack, number]}")
                good = not wrong
                print(f"{name:<14} {'ok' if good else 'NOT OK':<7} {made.get((stack, number), ['', '', '', ''])[2]}: {found and found['outcome']} {found and found['reason']}", flush=True)
                for one in wrong:
                    print("    ", one)
            except (OSError, SystemExit) as error:
                print(f"{name:<14} NOT OK  {error!r}", flush=True)
            finally:
                scene.end(good)
            bad += not good
    if arguments.write:
        table = ["| upstream | TLS | how it refuses | our line |", "|---|---|---|---|"]
        table += ["| " + " | ".join(row) + " |" for row in {**documented, **made}.values()]
        head, rest = text.split(BEGIN)
        with open(page, "w") as file:
            file.write(head + BEGIN + "\n" + "\n".join(table) + "\n" + END + rest.split(END)[1])
    return 1 if bad else 0


sys.exit(main())
