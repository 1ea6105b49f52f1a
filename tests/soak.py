"""Mixed traffic through a running sidecar while its key pairs rotate: nothing may be lost, memory and descriptors stay flat.

    tests/soak --rotations 200 --every 1            rotations as fast as they may come
    tests/soak --minutes 60 --every 10 --restarts   an hour, with a backend that is restarted now and then

It starts the sidecar, a backend and the clients itself, on loopback, in a temporary folder, and prints one line a
sample and a verdict. By hand, not in CI: how long it takes is its point.
"""
import argparse, asyncio, datetime, os, re, shutil, signal, socket, ssl, subprocess, sys, tempfile, time

import httpx, websockets
from pki import CLIENT, SERVER, Authority, days_ago, free_port

# How many events a stream has, and the seconds before each: longer than any limit of silence on a request's body.
EVENTS, SILENCE = 4, 40

# ---------------------------------------------------------------- backend, a process of its own

async def serve_backend(port):
    """Echoes bodies, streams /slow for two minutes, sends events on /events with long silences, and speaks WebSocket."""
    import base64, hashlib

    async def websocket(reader, writer, head):
        key = re.search(rb"(?i)sec-websocket-key: *(\S+)", head).group(1)
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        while True:
            first = await reader.readexactly(2)
            length, mask = first[1] & 127, await reader.readexactly(4) if first[1] & 128 and first[1] & 127 < 126 else None
            if mask is None:
                return
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(await reader.readexactly(length)))
            if first[0] & 15 == 8:
                return
            writer.write(bytes([(first[0] & 0xF0) | (10 if first[0] & 15 == 9 else first[0] & 15), len(data)]) + data)
            await writer.drain()

    async def connection(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if b"upgrade: websocket" in head.lower():
                    return await websocket(reader, writer, head)
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                body = await reader.readexactly(int(length.group(1))) if length else b""
                if head.startswith(b"GET /slow"):
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6000000\r\n\r\n")
                    for _ in range(600):
                        writer.write(b"x" * 10000)
                        await writer.drain()
                        await asyncio.sleep(0.2)
                elif head.startswith(b"GET /events"):
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
                    for _ in range(EVENTS):
                        await asyncio.sleep(SILENCE)
                        writer.write(b"9\r\ndata: x\n\n\r\n")
                        await writer.drain()
                    writer.write(b"0\r\n\r\n")
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", port, limit=1 << 20, backlog=1024, reuse_address=True)
    await server.serve_forever()


# ---------------------------------------------------------------- the rest

class Soak:
    def __init__(self, arguments):
        self.a = arguments
        self.folder = tempfile.mkdtemp(prefix="soak")
        self.port, self.probes, self.backend_port, self.out = (free_port() for _ in range(4))
        self.done = {"h1": 0, "h2": 0, "fresh": 0, "websocket": 0, "download": 0, "events": 0, "resumed": 0, "full": 0, "out": 0, "out events": 0}
        self.failed, self.injected, self.down_until = [], 0, 0.0
        self.over = False
        self.children = []
        self.authorities = [Authority("Soak CA A"), Authority("Soak CA B")]
        self.made = 0
        self.samples = []

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def write(self, path, data):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        os.chmod(path, 0o600)

    def next_pair(self):
        # Ascending, a second apart, all in the past: each is newer than the one before.
        born = days_ago(2) + datetime.timedelta(seconds=self.made)
        authority = self.authorities[self.made // 2 % 2]
        self.made += 1
        return authority.issue(f"api {self.made}", born, SERVER, ["localhost"])

    def rotate(self):
        way, (certificate, key) = self.made % 4, self.next_pair()
        ring = self.path("certs", "api")
        if way == 0:      # renamed over
            for file, data in (("tls.key", key), ("tls.crt", certificate)):
                self.write(os.path.join(ring, f".{file}"), data)
                os.replace(os.path.join(ring, f".{file}"), os.path.join(ring, file))
        elif way == 1:    # in place
            self.write(os.path.join(ring, "tls.key"), key)
            self.write(os.path.join(ring, "tls.crt"), certificate)
        elif way == 2:    # as kubelet does
            data = f"..{self.made}"
            self.write(self.path("certs", "api", "k8s", data, "tls.crt"), certificate)
            self.write(self.path("certs", "api", "k8s", data, "tls.key"), key)
            base = self.path("certs", "api", "k8s")
            old = os.readlink(os.path.join(base, "..data")) if os.path.islink(os.path.join(base, "..data")) else None
            os.symlink(data, os.path.join(base, "..tmp"))
            os.replace(os.path.join(base, "..tmp"), os.path.join(base, "..data"))
            for file in ("tls.crt", "tls.key"):
                if not os.path.islink(os.path.join(base, file)):
                    os.symlink(f"..data/{file}", os.path.join(base, file))
            if old:
                shutil.rmtree(os.path.join(base, old))
        else:             # a second file beside the first; the one before it goes
            self.write(os.path.join(ring, f"pair-{self.made}.pem"), certificate + key)
            before = os.path.join(ring, f"pair-{self.made - 4}.pem")
            if os.path.exists(before):
                os.remove(before)

    def rotate_out(self):
        """The egress' own pair: a client's."""
        born = days_ago(2) + datetime.timedelta(seconds=self.made)
        for file, data in zip(("tls.crt", "tls.key"), self.authorities[0].issue("out", born, CLIENT, ["out.soak"])):
            self.write(self.path("certs", "out", f".{file}"), data)
        for file in ("tls.key", "tls.crt"):
            os.replace(self.path("certs", "out", f".{file}"), self.path("certs", "out", file))

    def start(self):
        self.rotate()
        self.rotate_out()
        self.write(self.path("certs", "api", "ca.crt"), b"".join(one.pem for one in self.authorities))
        client = self.authorities[0].issue("client", days_ago(1), CLIENT, ["client.soak"])
        self.write(self.path("client.pem"), client[0] + client[1])
        for place in ("authorities.pem", "certs/trust/authorities.pem"):
            self.write(self.path(place), b"".join(one.pem for one in self.authorities))
        self.write(self.path("sidekey.toml"), f"""
certs = "certs"
state = "state"
workers = 2
[keyring.api]
overlap = "{self.a.overlap}"
[log]
access = false
[[ingress]]
name = "api"
listen = "127.0.0.1:{self.port}"
keyrings = ["api"]
backend = "http://127.0.0.1:{self.backend_port}"
[[egress]]
name = "out"
listen = "127.0.0.1:{self.out}"
upstream = "https://localhost:{self.port}"
keyring = "out"
trust = "out"
[trust.out]
anchors = ["trust/authorities.pem"]
[admin]
probes = "127.0.0.1:{self.probes}"
""".encode())
        self.log = open(self.path("log"), "wb")
        self.backend = self.start_backend()
        self.sidecar = subprocess.Popen([self.a.sidekey, "run", "--config", self.path("sidekey.toml")], stdout=self.log, stderr=self.log)
        self.children.append(self.sidecar)
        until = time.time() + 20
        while time.time() < until:
            try:
                if httpx.get(f"http://127.0.0.1:{self.probes}/readyz").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise SystemExit(open(self.path("log")).read())

    def start_backend(self):
        process = subprocess.Popen([sys.executable, __file__, "--backend", str(self.backend_port)])
        self.children.append(process)
        until = time.time() + 60
        while time.time() < until:
            try:
                socket.create_connection(("127.0.0.1", self.backend_port), 1).close()
                return process
            except OSError:
                time.sleep(0.02)
        raise SystemExit("the backend did not start")

    def tls(self):
        context = ssl.create_default_context(cafile=self.path("authorities.pem"))
        context.load_cert_chain(self.path("client.pem"))
        return context

    def count(self, kind, error=None):
        if error is None:
            self.done[kind] += 1
        elif time.time() < self.down_until:
            self.injected += 1
        else:
            self.failed.append(f"{time.strftime('%T')} {kind}: {error!r}")

    async def requests(self, kind, seed):
        """One kept connection, or a fresh one for each request."""
        base = f"http://127.0.0.1:{self.out}" if kind == "out" else f"https://localhost:{self.port}"
        url, body, at = f"{base}/echo", b"x" * (100 + 997 * seed % 8000), seed
        while not self.over:
            async with httpx.AsyncClient(verify=self.tls(), http2=kind == "h2", http1=kind != "h2", timeout=20) as client:
                until = time.time() + (0 if kind == "fresh" else self.a.kept)
                while not self.over:
                    at += 1
                    try:
                        answer = await (client.post(url, content=body) if at % 2 else client.get(url))
                        right = answer.status_code == 200 and len(answer.content) == (len(body) if at % 2 else 0)
                        self.count(kind, None if right else f"{answer.status_code}, {len(answer.content)} bytes")
                    except httpx.HTTPError as error:
                        self.count(kind, error)
                        await asyncio.sleep(0.05)
                    await asyncio.sleep(self.a.pause)
                    if time.time() >= until:
                        break

    async def websocket(self):
        while not self.over:
            try:
                async with websockets.connect(f"wss://localhost:{self.port}/ws", ssl=self.tls(), open_timeout=20, ping_interval=None) as socket:
                    until = time.time() + self.a.tunnel
                    while not self.over and time.time() < until:
                        await socket.send("hello")
                        said = await asyncio.wait_for(socket.recv(), 20)
                        self.count("websocket", None if said == "hello" else said)
                        await asyncio.sleep(0.2)
            except (OSError, websockets.WebSocketException, asyncio.TimeoutError) as error:
                self.count("websocket", error)
                await asyncio.sleep(0.2)

    async def download(self):
        while not self.over:
            try:
                async with httpx.AsyncClient(verify=self.tls(), timeout=20) as client:
                    async with client.stream("GET", f"https://localhost:{self.port}/slow") as answer:
                        size = 0
                        async for chunk in answer.aiter_bytes():
                            size += len(chunk)
                            if self.over:
                                return
                    self.count("download", None if size == 6_000_000 else f"{size} bytes")
            except httpx.HTTPError as error:
                self.count("download", error)
                await asyncio.sleep(0.2)

    async def events(self, http2, out=False):
        """A stream of events that is silent for most of its life; `out`: through the egress, and then the ingress."""
        kind, base = ("out events", f"http://127.0.0.1:{self.out}") if out else ("events", f"https://localhost:{self.port}")
        while not self.over:
            try:
                async with httpx.AsyncClient(verify=self.tls(), http2=http2, http1=not http2, timeout=httpx.Timeout(20, read=SILENCE + 20)) as client:
                    async with client.stream("GET", f"{base}/events") as answer:
                        seen = 0
                        async for line in answer.aiter_lines():
                            seen += line == "data: x"
                            if self.over:
                                return
                    self.count(kind, None if seen == EVENTS else f"{seen} events")
            except httpx.HTTPError as error:
                self.count(kind, error)
                await asyncio.sleep(0.2)

    def renew_client(self, context, seed):
        """A partner that renews in time: each certificate is good for four renewals."""
        born = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
        lasts = datetime.timedelta(hours=1, seconds=4 * self.a.renew)
        chain = self.authorities[0].issue(f"renewing {seed}", born, CLIENT, [f"renewing-{seed}.soak"], lasts)
        self.write(self.path(f"renewing-{seed}.pem"), chain[0] + chain[1])
        context.load_cert_chain(self.path(f"renewing-{seed}.pem"))

    async def resumes(self, seed):
        """A client with a session cache, one connection a request, whose certificates are short-lived and renewed in time."""
        context = ssl.create_default_context(cafile=self.path("authorities.pem"))
        if seed % 2:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        session, renewed = None, 0.0
        while not self.over:
            if time.time() - renewed >= self.a.renew:
                await asyncio.to_thread(self.renew_client, context, seed)
                renewed = time.time()
            try:
                session, resumed = await asyncio.to_thread(self.request_with_session, context, session)
                self.count("resumed" if resumed else "full")
            except (OSError, ValueError) as error:
                self.count("resumed", error)
            await asyncio.sleep(0.1)

    def request_with_session(self, context, session):
        with socket.create_connection(("127.0.0.1", self.port), 20) as plain:
            with context.wrap_socket(plain, server_hostname="localhost", session=session) as stream:
                stream.sendall(b"GET /echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                answer = b""
                while part := stream.recv(65536):
                    answer += part
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise ValueError(answer[:80])
                return stream.session, stream.session_reused

    def sample(self):
        status = open(f"/proc/{self.sidecar.pid}/status").read()
        memory = int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) // 1024
        descriptors = len(os.listdir(f"/proc/{self.sidecar.pid}/fd"))
        text = httpx.get(f"http://127.0.0.1:{self.probes}/metrics").text
        epoch = re.search(r"^sidekey_epoch (\S+)", text, re.M).group(1)
        rotations = sum(int(float(n)) for n in re.findall(r'^sidekey_rotations_total\{[^}]*outcome="done"[^}]*\} (\S+)', text, re.M))
        self.samples.append((memory, descriptors))
        print(f"{time.strftime('%T')} rotations {rotations:5} epoch {epoch:>5} memory {memory:4} MiB descriptors {descriptors:4} "
              f"done {sum(self.done.values())} {self.done} injected {self.injected} failed {len(self.failed)}", flush=True)
        return rotations

    async def run(self):
        self.start()
        clients = [self.requests(kind, seed) for kind in ("h1", "h2", "fresh", "out") for seed in range(self.a.clients)]
        tasks = [asyncio.create_task(one) for one in [*clients, *(self.websocket() for _ in range(self.a.websockets)), *(self.download() for _ in range(self.a.downloads)),
                                                         *(self.events(one % 2 == 1) for one in range(self.a.streams)), *(self.events(False, True) for _ in range(self.a.streams)), *(self.resumes(seed) for seed in range(self.a.sessions))]]
        started, turn = time.time(), 0
        while (turn < self.a.rotations) if self.a.rotations else (time.time() - started < self.a.minutes * 60):
            await asyncio.sleep(self.a.every)
            self.rotate()
            if turn % 3 == 2:
                self.rotate_out()
            turn += 1
            if self.a.restarts and turn % 12 == 0:
                # However long it takes on this machine; what was under way when it came back may still fail.
                self.down_until = float("inf")
                self.backend.kill()
                self.backend.wait()
                await asyncio.sleep(0.5)
                self.backend = await asyncio.to_thread(self.start_backend)
                self.down_until = time.time() + 2
            if turn % self.a.sample == 0:
                await asyncio.to_thread(self.sample)
            if self.sidecar.poll() is not None:
                self.failed.append(f"the sidecar ended: {self.sidecar.returncode}")
                break
        # What began before the last rotation may end whole.
        await asyncio.sleep(2)
        rotations = await asyncio.to_thread(self.sample)
        self.over = True
        # A stream of events learns of the end by its next event: stopping the sidecar before that would cut it.
        await asyncio.wait(tasks, timeout=SILENCE + 25)
        self.sidecar.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(self.sidecar.wait, 60)
        self.backend.kill()
        quarter = max(1, len(self.samples) // 4)
        early, late = self.samples[quarter - 1: 2 * quarter], self.samples[-quarter:]
        middle = lambda some, at: sorted(one[at] for one in some)[len(some) // 2]
        print(f"{turn} drops, {rotations} rotations, {self.done}, injected {self.injected}, failed {len(self.failed)}, exit {code}")
        print(f"memory {middle(early, 0)} -> {middle(late, 0)} MiB, descriptors {middle(early, 1)} -> {middle(late, 1)}")
        for line in self.failed[:20]:
            print("  ", line)
        if self.failed or code:
            print("kept:", self.folder)
            return 1
        shutil.rmtree(self.folder)
        return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sidekey", default="target/release/sidekey")
    parser.add_argument("--rotations", type=int, default=0, help="how many, in place of --minutes")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--every", type=float, default=1, help="seconds between rotations")
    parser.add_argument("--overlap", default="1m")
    parser.add_argument("--clients", type=int, default=7, help="of each kind")
    parser.add_argument("--kept", type=float, default=4, help="seconds that a kept connection is used")
    parser.add_argument("--tunnel", type=float, default=60, help="seconds that a WebSocket is used")
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between requests of one client")
    parser.add_argument("--sample", type=int, default=10, help="a line every so many rotations")
    parser.add_argument("--websockets", type=int, default=2)
    parser.add_argument("--downloads", type=int, default=1, help="of two minutes each")
    parser.add_argument("--streams", type=int, default=2, help="of events that are silent for 40 s at a time; half over HTTP/2")
    parser.add_argument("--sessions", type=int, default=2, help="clients that resume sessions; half over TLS 1.2")
    parser.add_argument("--renew", type=float, default=30, help="seconds after which those renew their certificates, which are good for four times that")
    parser.add_argument("--restarts", action="store_true", help="restart the backend now and then")
    parser.add_argument("--backend", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.backend:
        return asyncio.run(serve_backend(arguments.backend))
    soak = Soak(arguments)
    # A signal ends what was started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        return asyncio.run(soak.run())
    finally:
        for process in soak.children:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
