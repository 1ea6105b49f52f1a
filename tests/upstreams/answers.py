"""What real servers' answers prove of a new key pair, and what the application sees meanwhile.

    tests/upstreams/run-answers                 every server that is there
    tests/upstreams/run-answers --only nginx

Each server accepts the certificates of both CAs in the handshake and answers by the issuer of the one that it was shown: status NEW to the
new pair, OLD to the previous one. For each pair of statuses a sidecar rotates, and GETs and POSTs follow. The application must get what the
previous pair gets until the new one is proved; the verdicts must be those of contract section 4.
"""
import argparse, http.client, http.server, json, os, shutil, signal, socket, ssl, subprocess, sys, threading

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(here))
from pki import CLIENT, SERVER, Authority, days_ago, free_port
from scene import PATIENCE, Folder

# The new pair's status, the previous one's, the last verdict on the new pair (None: not proved and not refused).
ROWS = [(200, 200, "proved"), (204, 403, "proved"), (302, 302, "proved"), (404, 404, "proved"),
        (302, 200, "refused"), (404, 200, "refused"), (407, 200, "refused"), (401, 200, "refused"), (403, 200, "refused"),
        (401, 401, None), (403, 403, None), (429, 200, None), (421, 200, None), (500, 200, None), (502, 200, None), (503, 503, None)]


class Scene(Folder):
    """One server, for all rows."""

    def __init__(self, arguments):
        super().__init__("answers-", arguments.keep)
        self.a = arguments
        self.port, self.behind = free_port(), free_port()
        self.old_ca, self.new_ca, server_ca = Authority("Old CA"), Authority("New CA"), Authority("Server CA")
        self.old = self.old_ca.issue("application", days_ago(5), CLIENT, ["application.example"])
        self.new = self.new_ca.issue("application", days_ago(1), CLIENT, ["application.example"])
        server = server_ca.issue("localhost", days_ago(5), SERVER, ["localhost"])
        self.server_ca = server_ca.pem
        self.write_server(*server)
        self.write("accepted.pem", self.old_ca.pem + self.new_ca.pem)

    def row(self, new, old, verdict, later):
        """Rotates at an upstream that answers so; `later`: the new pair is proved first, by another path."""
        certs, egress, log = self.path("certs"), free_port(), []
        shutil.rmtree(certs, ignore_errors=True)
        self.write("certs/out/old.pem", self.old[0] + self.old[1])
        self.write("certs/out/ca.crt", self.server_ca)
        process = self.start_sidecar(self.a.sidekey, egress, f"""
[shutdown]
egress_linger = "0s"
[[egress]]
name = "out"
listen = "127.0.0.1:{egress}"
upstream = "https://127.0.0.1:{self.port}"
server_name = "localhost"
keyring = "out"
probe = false
""", subprocess.PIPE)
        rotated = threading.Event()

        def read():
            for line in process.stdout:
                log.append(json.loads(line))
                if log[-1].get("message") == "rotation":
                    rotated.set()
        reading = threading.Thread(target=read, daemon=True)
        reading.start()

        def ask(method, path=f"/as/{new}/{old}"):
            client = http.client.HTTPConnection("127.0.0.1", egress, timeout=PATIENCE)
            client.request(method, path, body=b"x" if method == "POST" else None, headers={"host": "app"})
            answer = client.getresponse()
            answer.read()
            client.close()
            return answer.status
        self.write("certs/out/new.pem", self.new[0] + self.new[1])
        if not rotated.wait(PATIENCE):
            raise SystemExit(f"no rotation; see {self.folder}")
        if later:
            ask("GET", "/as/200/200")
        got = [ask(method) for method in ("GET", "POST", "GET", "POST")]
        report = json.loads(self.ask_sidecar(self.a.sidekey, "rotation", "--json").stdout)
        advice = report["keyrings"][0]["verdict"]["retire"]
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
        reading.join(PATIENCE)
        pair = next(line["key_pair"] for line in log if line.get("message") == "rotation")
        said = [line["verdict"] for line in log if line.get("target") == "proof" and line.get("key_pair") == pair and "verdict" in line]
        last = next((one for one in reversed(said) if one != "handshake_ok"), None)
        if later:
            is_refused = new in (400, 401, 403) and new != old
            wanted, expected = "refused" if is_refused else "proved", [old] * 4 if is_refused else [new] * 4
        else:
            wanted = verdict
            expected = [new] * 4 if verdict == "proved" else [old] * 4
        good = got == expected and last == wanted and (advice == "safe") == (wanted == "proved")
        return good, f"{new}/{old}{' later' if later else ''}: {got}, {last}, {advice}"


class Behind(http.server.BaseHTTPRequestHandler):
    """The application behind nginx and HAProxy, which say who issued the certificate."""
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        _, _, new, old = self.path.split("/")
        self.send_response(int(new if "New" in self.headers.get("x-issuer", "") else old))
        self.send_header("content-length", "0")
        self.end_headers()
    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


def behind(scene):
    threading.Thread(target=http.server.ThreadingHTTPServer(("127.0.0.1", scene.behind), Behind).serve_forever, daemon=True).start()


def nginx(scene):
    behind(scene)
    scene.write("nginx.conf", f"""
daemon off; pid {scene.path("nginx.pid")}; error_log {scene.path("nginx-errors")} warn; worker_processes 1;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {scene.path("body")}; proxy_temp_path {scene.path("proxy")};
  fastcgi_temp_path {scene.path("f")}; uwsgi_temp_path {scene.path("u")}; scgi_temp_path {scene.path("s")};
  server {{
    listen 127.0.0.1:{scene.port} ssl;
    ssl_certificate {scene.path("server.crt")}; ssl_certificate_key {scene.path("server.key")};
    ssl_client_certificate {scene.path("accepted.pem")}; ssl_verify_client on;
    location / {{ proxy_pass http://127.0.0.1:{scene.behind}; proxy_set_header X-Issuer $ssl_client_i_dn; proxy_http_version 1.1; }}
  }}
}}
""")
    scene.start("nginx", "-c", scene.path("nginx.conf"), "-p", scene.folder)


def haproxy(scene):
    behind(scene)
    scene.write("haproxy.cfg", f"""
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend in
  bind 127.0.0.1:{scene.port} ssl crt {scene.path("server.pem")} ca-file {scene.path("accepted.pem")} verify required alpn h2,http/1.1
  http-request set-header X-Issuer %[ssl_c_i_dn]
  default_backend application
backend application
  server application 127.0.0.1:{scene.behind}
""")
    scene.start("haproxy", "-W", "-f", scene.path("haproxy.cfg"))


def node(scene):
    scene.write("answers.js", """
const fs = require("fs"), [port, folder] = process.argv.slice(2), read = (name) => fs.readFileSync(`${folder}/${name}`);
require("https").createServer({ cert: read("server.crt"), key: read("server.key"), ca: read("accepted.pem"), requestCert: true,
  rejectUnauthorized: true }, (request, response) => {
  const [, , fresh, old] = request.url.split("/");
  request.resume().on("end", () => {
    response.writeHead(Number(request.socket.getPeerCertificate().issuer.CN.includes("New") ? fresh : old), { "content-length": 0 }).end();
  });
}).listen(Number(port), "127.0.0.1");
""")
    scene.start("node", scene.path("answers.js"), str(scene.port), scene.folder)


def go(scene):
    scene.write("answers.go", """
package main

import ("crypto/tls"; "crypto/x509"; "io"; "net/http"; "os"; "strconv"; "strings")

func main() {
	port, folder := os.Args[1], os.Args[2]
	accepted := x509.NewCertPool()
	pem, _ := os.ReadFile(folder + "/accepted.pem")
	accepted.AppendCertsFromPEM(pem)
	answer := http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		io.Copy(io.Discard, request.Body)
		parts := strings.Split(request.URL.Path, "/")
		at := 3
		if strings.Contains(request.TLS.PeerCertificates[0].Issuer.CommonName, "New") { at = 2 }
		status, _ := strconv.Atoi(parts[at])
		answer.WriteHeader(status)
	})
	config := &tls.Config{ClientCAs: accepted, ClientAuth: tls.RequireAndVerifyClientCert}
	panic((&http.Server{Addr: "127.0.0.1:" + port, Handler: answer, TLSConfig: config}).ListenAndServeTLS(folder+"/server.crt", folder+"/server.key"))
}
""")
    scene.start("go", "build", "-o", scene.path("answers"), scene.path("answers.go")).wait()
    scene.start(scene.path("answers"), str(scene.port), scene.folder)


def uvicorn(scene):
    scene.write("answers_uvicorn.py", f"""
import ssl, uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

class WithIssuer(H11Protocol):
    def connection_made(self, transport):
        shown = dict(one[0] for one in transport.get_extra_info("ssl_object").getpeercert()["issuer"])
        self.app_state = dict(self.app_state, issuer=shown["commonName"])
        super().connection_made(transport)

async def application(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    _, _, new, old = scope["path"].split("/")
    status = int(new if "New" in scope["state"]["issuer"] else old)
    await send(dict(type="http.response.start", status=status, headers=[(b"content-length", b"0")]))
    await send(dict(type="http.response.body", body=b""))

uvicorn.run(application, host="127.0.0.1", port={scene.port}, http=WithIssuer, log_level="warning", lifespan="off",
            ssl_certfile={scene.path("server.crt")!r}, ssl_keyfile={scene.path("server.key")!r},
            ssl_ca_certs={scene.path("accepted.pem")!r}, ssl_cert_reqs=ssl.CERT_REQUIRED)
""")
    scene.start(sys.executable, scene.path("answers_uvicorn.py"))


SERVERS = {"nginx": (nginx, "nginx"), "haproxy": (haproxy, "haproxy"), "node": (node, "node"), "go": (go, "go"), "uvicorn": (uvicorn, "uvicorn")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sidekey", default="target/debug/sidekey", help="the program")
    parser.add_argument("--only", default="", help="servers whose name contains this")
    parser.add_argument("--keep", action="store_true", help="leave the folders")
    arguments = parser.parse_args()
    bad = 0
    for name, (server, needs) in SERVERS.items():
        if arguments.only not in name:
            continue
        if not shutil.which(needs):
            print(f"{name:<9} skipped: no {needs} here", flush=True)
            continue
        scene, wrong = Scene(arguments), []
        try:
            server(scene)
            scene.listening(scene.port)
            rows = [(*row, later) for row in ROWS for later in (False, True)]
            for row in rows:
                good, text = scene.row(*row)
                wrong += [] if good else [text]
        finally:
            scene.end(not wrong)
        print(f"{name:<9} {'NOT OK' if wrong else 'ok'}: {len(rows) - len(wrong)} of {len(rows)} rows", flush=True)
        for text in wrong:
            print("   ", text)
        bad += bool(wrong)
    return 1 if bad else 0


sys.exit(main())
