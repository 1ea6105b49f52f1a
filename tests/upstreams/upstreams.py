"""An egress towards real servers, across a rotation that they refuse.

    tests/upstreams/run                        every server that is there
    tests/upstreams/run --only nginx --requests 1000

Each server accepts only clients of the old CA. The application sends GET and POST requests with bodies of 0 to 64 KiB through
the egress; meanwhile its key pair is replaced by one of another CA. It must see no failure, and the upstream's application no
request twice. Then the server accepts both CAs, and all requests must move to the new pair by themselves.
"""
import argparse, asyncio, collections, hashlib, itertools, json, os, random, shutil, signal, socket, ssl, subprocess, sys, threading, time

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(here))
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pki import CLIENT, SERVER, Authority, days_ago, free_port
from scene import Folder

SIZES = [0, 1, 1000, 16 * 1024, 64 * 1024]
CONNECTIONS = 8


def sha1(pem):
    return hashlib.sha1(x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)).hexdigest().upper()


class Scene(Folder):
    """One server, one sidecar, one load."""

    def __init__(self, name, arguments, same_name):
        super().__init__(f"upstreams-{name}-", arguments.keep)
        self.name, self.a = name, arguments
        self.port, self.egress, self.behind = free_port(), free_port(), free_port()
        self.old_ca = Authority("Client CA" if same_name else "Old client CA")
        self.new_ca = Authority("Client CA" if same_name else "New client CA")
        self.server_ca = Authority("Server CA")
        self.old = self.old_ca.issue("application", days_ago(5), CLIENT, ["application.example"])
        self.new = self.new_ca.issue("application", days_ago(1), CLIENT, ["application.example"])
        self.fingerprints = {sha1(self.old[0]): "old", sha1(self.new[0]): "new"}
        self.server = self.server_ca.issue("localhost", days_ago(5), SERVER, ["localhost"])
        self.write_server(*self.server)
        self.write("nobody.pem", Authority("Nobody's CA").pem)
        self.accept("old")
        self.seen, self.failures, self.sent = collections.OrderedDict(), [], 0
        self.twice, self.events, self.over = [], [], False

    def accept(self, whom):
        self.write("accepted.pem", self.old_ca.pem if whom == "old" else self.old_ca.pem + self.new_ca.pem)

    async def listening(self, port):
        """As in the base, for servers that run in this loop."""
        for _ in range(600):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            except OSError:
                await asyncio.sleep(0.1)
        raise SystemExit(f"{self.name}: nothing listens on {port}; see {self.folder}")

    def reached(self, identity, certificate):
        """A request has reached the upstream's application."""
        if identity is None or not identity.isdigit():
            return
        if identity in self.seen:
            self.twice.append(identity)
        self.seen[identity] = self.fingerprints.get(certificate, certificate)

    async def follow(self, process):
        """Reads what a server that is a process of its own tells on its standard output."""
        while line := await asyncio.get_running_loop().run_in_executor(None, process.stdout.readline):
            self.reached(*line.decode().split())

    # ------------------------------------------------------------ the sidecar

    async def sidecar(self):
        self.write("certs/out/old.pem", self.old[0] + self.old[1])
        self.write("certs/out/ca.crt", self.server_ca.pem)
        self.write("sidekey.toml", f"""
certs = "certs"
workers = 2
[log]
format = "json"
access = false
[[egress]]
name = "out"
listen = "127.0.0.1:{self.egress}"
upstream = "https://127.0.0.1:{self.port}"
server_name = "localhost"
keyring = "out"
""")
        process = self.start(self.a.sidekey, "run", "--config", self.path("sidekey.toml"), stdout=subprocess.PIPE)

        async def read():
            with open(self.path("log"), "wb") as log:
                while line := await asyncio.get_running_loop().run_in_executor(None, process.stdout.readline):
                    log.write(line)
                    self.events.append(json.loads(line))
        self.reading = asyncio.create_task(read())
        await self.listening(self.egress)

    def verdicts(self):
        return [event for event in self.events if event.get("target") == "proof" and "verdict" in event]

    async def verdict(self, wanted, patience):
        began = time.monotonic()
        while time.monotonic() - began < patience:
            found = [event for event in self.verdicts() if event["verdict"] == wanted]
            if found:
                return found[-1]
            await asyncio.sleep(0.05)
        raise SystemExit(f"{self.name}: never {wanted}; see {self.folder}")

    # ------------------------------------------------------------ the application

    async def application(self, seed):
        chance = random.Random(seed)
        reader = writer = None
        while not self.over:
            identity, size = self.sent, chance.choice(SIZES)
            self.sent += 1
            method = "GET" if chance.random() < 0.5 else "POST"
            body = bytes([97 + identity % 26]) * (size if method == "POST" else 0)
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.egress)
                length = f"content-length: {len(body)}\r\n" if method == "POST" else ""
                writer.write(f"{method} /path HTTP/1.1\r\nhost: app\r\nid: {identity}\r\n{length}\r\n".encode() + body)
                await writer.drain()
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                status = int(head.split()[1])
                got = await self.content(reader, head)
                if method == "POST" and status == 502 and time.monotonic() - self.reloaded < 5:
                    # The server closed the idle connection in the moment in which the request went out: nobody knows whether it
                    # was processed, so that only an idempotent one may be sent again (RFC 9110 9.2.2).
                    self.races += 1
                elif status != 200 or got != body:
                    self.failures.append(f"{method} {identity} with {size} bytes: {status}, {len(got)} bytes back")
                if "connection: close" in head:
                    writer.close()
                    writer = None
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failures.append(f"{method} {identity} with {size} bytes: {error!r}")
                writer = None
            await asyncio.sleep(self.pace)

    pace, races, reloaded = 0, 0, float("-inf")

    @staticmethod
    async def content(reader, head):
        if "transfer-encoding: chunked" in head:
            whole = b""
            while size := int((await reader.readline()).split(b";")[0], 16):
                whole += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
            return whole
        for line in head.split("\r\n"):
            if line.startswith("content-length:"):
                return await reader.readexactly(int(line.split(":")[1]))
        return b""

    async def more(self, count):
        wanted = self.sent + count
        while self.sent < wanted:
            await asyncio.sleep(0.05)

    # ------------------------------------------------------------ the story

    async def run(self, server):
        began = time.monotonic()
        await server(self)
        await self.listening(self.port)
        await self.sidecar()
        load = [asyncio.create_task(self.application(seed)) for seed in range(CONNECTIONS)]
        await self.more(self.a.requests // 4)
        rotated = self.sent
        self.write("certs/out/new.pem", self.new[0] + self.new[1])
        refused = await self.verdict("refused", 60)
        await self.more(self.a.requests * 3 // 4 - (self.sent - rotated))
        while time.monotonic() - began < 45 and not self.a.hurry:
            self.pace = 0.01     # until it has been tried a second time
            await asyncio.sleep(1)
        count, before = self.sent, collections.Counter(self.seen.values())
        tries = [event for event in self.verdicts() if event["verdict"] == "refused"]
        self.accept("both")
        self.reloaded = time.monotonic()
        self.reload(self)
        self.pace = 0.01
        await self.verdict("proved", 300)
        await self.more(50)
        mark = len(self.seen)
        await self.more(500)
        self.over = True
        await asyncio.gather(*load)
        await asyncio.sleep(0.3)
        after = collections.Counter(itertools.islice(self.seen.values(), mark, None))
        good = not self.failures and not self.twice and not before["new"] and set(after) == {"new"}
        print(f"{self.name:<18} {'ok' if good else 'NOT OK':<7} {count} requests across the refused rotation, "
              f"{len(self.failures)} failures, {self.races} POSTs met the reload, {len(self.twice)} twice; {before['old']} seen with the old pair, "
              f"{before['new']} with the new; refused {len(tries)} times ({refused['reason']}); "
              f"then {self.sent - count} more, the last {after.total()} with {dict(after)}; {time.monotonic() - began:.0f} s", flush=True)
        for failure in self.failures[:5]:
            print("   ", failure)
        return good


# ---------------------------------------------------------------- servers

async def answer(reader, writer, told):
    """A small HTTP/1.1 application: echoes bodies; `told` hears of each request."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.split("\r\n")
            fields = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:] if ":" in line)}
            if fields.get("transfer-encoding", "").lower() == "chunked":
                body = await Scene.content(reader, "transfer-encoding: chunked")
            else:
                body = await reader.readexactly(int(fields.get("content-length", 0)))
            told(fields)
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n".encode())
            if not head.startswith("HEAD"):
                writer.write(body)
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError, ssl.SSLError):
        pass    # the end of a connection, or of the scene
    finally:
        writer.close()


async def application_behind(scene):
    """The application behind nginx and HAProxy, which say whose certificate it was."""
    told = lambda fields: scene.reached(fields.get("id"), fields.get("x-client", "").upper())
    await asyncio.start_server(lambda r, w: answer(r, w, told), "127.0.0.1", scene.behind, limit=1 << 20, backlog=512)


def context(scene, version):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = made.maximum_version = version
    made.load_cert_chain(scene.path("server.pem"))
    made.load_verify_locations(scene.path("accepted.pem"))
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def openssl(version):
    """OpenSSL by Python's ssl module on plain sockets, a thread for each connection: it refuses with an alert."""
    async def start(scene):
        loop, listener = asyncio.get_running_loop(), socket.create_server(("127.0.0.1", scene.port), backlog=512)

        def serve(plain):
            try:
                with context(scene, version).wrap_socket(plain, server_side=True) as stream:
                    shown = hashlib.sha1(stream.getpeercert(True)).hexdigest().upper()
                    file = stream.makefile("rwb")
                    while first := file.readline():
                        fields = {}
                        while (line := file.readline().decode().strip()):
                            name, value = line.split(":", 1)
                            fields[name.lower()] = value.strip()
                        body = file.read(int(fields.get("content-length", 0)))
                        loop.call_soon_threadsafe(scene.reached, fields.get("id"), shown)
                        file.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
                        file.flush()
            except (OSError, ValueError):
                pass    # a refused handshake, or the end of a connection

        def accept():
            while True:
                plain, _ = listener.accept()
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=serve, args=(plain,), daemon=True).start()
        threading.Thread(target=accept, daemon=True).start()
        scene.reload = lambda scene: None
    return start


def silent(version):
    """Python's asyncio, as many Python servers have it: where it refuses a certificate it closes, and sends no alert."""
    async def start(scene):
        async def connection(reader, writer):
            certificate = writer.get_extra_info("ssl_object").getpeercert(True)
            shown = hashlib.sha1(certificate).hexdigest().upper()
            await answer(reader, writer, lambda fields: scene.reached(fields.get("id"), shown))

        async def listen():
            scene.listener = await asyncio.start_server(
                connection, "127.0.0.1", scene.port, ssl=context(scene, version), limit=1 << 20, backlog=512, reuse_address=True)
        await listen()

        def reload(scene):
            async def again():
                scene.listener.close()
                await listen()
            scene.again = asyncio.create_task(again())
        scene.reload = reload
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)   # refused handshakes are what we want
    return start


def node(protocol, version):
    async def start(scene):
        process = scene.start("node", os.path.join(here, "server.js"), str(scene.port), scene.folder, protocol, version,
                              stdout=subprocess.PIPE)
        scene.following = asyncio.create_task(scene.follow(process))
        scene.reload = lambda scene: process.send_signal(signal.SIGHUP)
    return start


def java(version):
    async def start(scene):
        process = scene.start("java", "-Xmx256m", os.path.join(here, "Server.java"), str(scene.port), scene.folder, version,
                              stdout=subprocess.PIPE)
        scene.following = asyncio.create_task(scene.follow(process))
        scene.reload = lambda scene: None
    return start


def nginx(http2, refuses_with_403=False):
    async def start(scene):
        await application_behind(scene)

        def configure():
            forbid = ""
            if refuses_with_403 and not scene.accepts_both:
                # The handshake is fine for both; only the old certificate is allowed.
                allowed = hashlib.sha1(x509.load_pem_x509_certificate(scene.old[0]).public_bytes(serialization.Encoding.DER))
                forbid = f'if ($ssl_client_fingerprint != "{allowed.hexdigest()}") {{ return 403; }}'
            if refuses_with_403:
                scene.accept("both")
            scene.write("nginx.conf", f"""
daemon off; pid {scene.path("nginx.pid")}; error_log {scene.path("nginx-errors")} warn; worker_processes 2;
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {scene.path("body")}; proxy_temp_path {scene.path("proxy")};
  fastcgi_temp_path {scene.path("f")}; uwsgi_temp_path {scene.path("u")}; scgi_temp_path {scene.path("s")};
  client_max_body_size 1m; client_body_buffer_size 256k; keepalive_requests 1000; large_client_header_buffers 4 16k;
  server {{
    listen 127.0.0.1:{scene.port} ssl {"http2" if http2 else ""};
    ssl_certificate {scene.path("server.crt")}; ssl_certificate_key {scene.path("server.key")};
    ssl_client_certificate {scene.path("accepted.pem")}; ssl_verify_client on; ssl_protocols TLSv1.2 TLSv1.3;
    {forbid}
    location / {{ proxy_pass http://127.0.0.1:{scene.behind}; proxy_set_header X-Client $ssl_client_fingerprint; proxy_http_version 1.1; }}
  }}
}}
""")
        scene.accepts_both = False
        configure()
        process = scene.start("nginx", "-c", scene.path("nginx.conf"), "-p", scene.folder)

        def reload(scene):
            scene.accepts_both = True
            configure()
            process.send_signal(signal.SIGHUP)
        scene.reload = reload
    return start


def haproxy(alpn, version):
    async def start(scene):
        await application_behind(scene)
        scene.write("haproxy.cfg", f"""
global
  maxconn 512
  stats socket {scene.path("admin.sock")} mode 600 level admin
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend in
  bind 127.0.0.1:{scene.port} ssl crt {scene.path("server.pem")} ca-file {scene.path("nobody.pem")} ca-verify-file {scene.path("accepted.pem")} verify required alpn {alpn} ssl-min-ver {version} ssl-max-ver {version}
  http-request set-header X-Client %[ssl_c_sha1,hex]
  default_backend application
backend application
  server application 127.0.0.1:{scene.behind}
""")
        processes = [scene.start("haproxy", "-W", "-f", scene.path("haproxy.cfg"))]
        scene.reload = lambda scene: processes[0].send_signal(signal.SIGUSR2)
    return start


# The CA names that a server sends decide the choice before any refusal does. Where they cannot be left out, the new CA has the
# old one's name and another key: what a re-keyed CA looks like.
SERVERS = {
    "openssl-1.3": (openssl(ssl.TLSVersion.TLSv1_3), True, None),
    "openssl-1.2": (openssl(ssl.TLSVersion.TLSv1_2), True, None),
    "asyncio-1.3": (silent(ssl.TLSVersion.TLSv1_3), True, None),
    "asyncio-1.2": (silent(ssl.TLSVersion.TLSv1_2), True, None),
    "haproxy-h1-1.3": (haproxy("http/1.1", "TLSv1.3"), False, "haproxy"),
    "haproxy-h2-1.3": (haproxy("h2", "TLSv1.3"), False, "haproxy"),
    "haproxy-h1-1.2": (haproxy("http/1.1", "TLSv1.2"), False, "haproxy"),
    "haproxy-h2-1.2": (haproxy("h2", "TLSv1.2"), False, "haproxy"),
    "nginx-400-h1": (nginx(False), True, "nginx"),
    "nginx-400-h2": (nginx(True), True, "nginx"),
    "nginx-403-h1": (nginx(False, True), False, "nginx"),
    "nginx-403-h2": (nginx(True, True), False, "nginx"),
    "node-h1-1.3": (node("http/1.1", "TLSv1.3"), True, "node"),
    "node-h2-1.3": (node("h2", "TLSv1.3"), True, "node"),
    "node-h2-1.2": (node("h2", "TLSv1.2"), True, "node"),
    "java-1.3": (java("TLSv1.3"), False, "java"),
    "java-1.2": (java("TLSv1.2"), False, "java"),
}


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sidekey", default="target/debug/sidekey", help="the program")
    parser.add_argument("--requests", type=int, default=10_000, help="sent before the server changes its mind")
    parser.add_argument("--only", default="", help="servers whose name contains this")
    parser.add_argument("--hurry", action="store_true", help="do not wait for a second refusal")
    parser.add_argument("--keep", action="store_true", help="leave the folders")
    arguments = parser.parse_args()
    bad = 0
    for name, (server, same_name, needs) in SERVERS.items():
        if arguments.only not in name:
            continue
        if needs and not shutil.which(needs):
            print(f"{name:<18} skipped: no {needs} here", flush=True)
            continue
        scene, good = Scene(name, arguments, same_name), False
        try:
            good = await scene.run(server)
        except SystemExit as error:
            print(f"{name:<18} NOT OK  {error}", flush=True)
        finally:
            scene.over = True
            scene.end(good)
        bad += not good
    return 1 if bad else 0


sys.exit(asyncio.run(main()))
