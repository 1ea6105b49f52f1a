"""Real clients and real servers through a running sidecar: what people use works, and works as without it.

    clients.py --sidekey target/debug/sidekey [NAME…]

It makes certificates, starts an aiohttp backend, a gRPC server and the sidecar on loopback in a temporary folder, runs every
client (those whose name contains one of the NAMEs), and prints a line for each. What cannot run here is skipped with a reason.
"""
import argparse, asyncio, hashlib, os, shutil, ssl, subprocess, sys, tempfile, threading, time, traceback
from concurrent import futures

import aiohttp, grpc, httpx, requests, websockets
from aiohttp import web

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import pki

LARGE = 24 << 20
PATIENCE = 30
CASES = []


class Skip(Exception):
    """Why a client does not run here."""


def case(function):
    CASES.append(function)
    return function


def same(got, wanted):
    if got != wanted:
        raise AssertionError(f"{str(got)[:200]!r} instead of {str(wanted)[:200]!r}")


# ---------------------------------------------------------------- servers

async def echo(request):
    body = await request.read()
    return web.Response(body=body, headers={"x-seen": str(len(body)), "x-peer": request.headers.get("x-sidekey-peer", "")})


async def digest(request):
    seen, count = hashlib.sha256(), 0
    async for part in request.content.iter_chunked(1 << 16):
        seen.update(part)
        count += len(part)
    return web.json_response({"bytes": count, "sha256": seen.hexdigest()})


async def large(request):
    response = web.StreamResponse()
    await response.prepare(request)
    part = b"x" * 65536
    for _ in range(LARGE // len(part)):
        await response.write(part)
    await response.write_eof()
    return response


async def events(request):
    """Three events; the second and third only after the client has told that it saw the one before."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for number in range(3):
        await response.write(b"data: %d\n\n" % number)
        await asyncio.wait_for(request.app["seen"].get(), PATIENCE)
    await response.write_eof()
    return response


async def saw(request):
    await request.app["seen"].put(None)
    return web.Response()


async def refuse(request):
    return web.Response(status=413, text="too large\n", headers={"connection": "close"})


async def websocket(request):
    socket = web.WebSocketResponse(max_msg_size=8 << 20)
    await socket.prepare(request)
    async for message in socket:
        if message.type == aiohttp.WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type == aiohttp.WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


async def no_continue(request):
    """Answers an expectation with a refusal, so that a client that waits never sends its body."""
    raise web.HTTPRequestEntityTooLarge(max_size=1, actual_size=2)


def http_backend(port):
    loop = asyncio.new_event_loop()

    async def start():
        app = web.Application(client_max_size=LARGE * 2)
        app["seen"] = asyncio.Queue()
        app.router.add_route("*", "/echo", echo)
        app.router.add_post("/digest", digest)
        app.router.add_put("/digest", digest)
        app.router.add_get("/large", large)
        app.router.add_get("/events", events)
        app.router.add_post("/saw", saw)
        app.router.add_get("/ws", websocket)
        app.router.add_route("*", "/expect-refused", refuse, expect_handler=no_continue)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()

    loop.run_until_complete(start())
    threading.Thread(target=loop.run_forever, daemon=True).start()


class Calls(grpc.GenericRpcHandler):
    """One method of each kind, on bytes, so that no generated code is needed."""

    def __init__(self):
        self.cancelled = threading.Event()

    def service(self, details):
        method = details.method.rsplit("/", 1)[-1]
        if method == "Unary":
            return grpc.unary_unary_rpc_method_handler(self.unary)
        if method == "Many":
            return grpc.unary_stream_rpc_method_handler(lambda request, _: (b"%d" % i for i in range(int(request))))
        if method == "Sum":
            return grpc.stream_unary_rpc_method_handler(lambda requests, _: b"%d" % sum(len(one) for one in requests))
        if method == "Both":
            return grpc.stream_stream_rpc_method_handler(lambda requests, _: iter(requests))
        if method == "Fail":
            return grpc.unary_unary_rpc_method_handler(self.fail)
        if method == "Wait":
            return grpc.unary_unary_rpc_method_handler(self.wait)
        return None

    def unary(self, request, context):
        peer = dict(context.invocation_metadata()).get("x-sidekey-peer", "")
        context.send_initial_metadata((("x-peer", peer),))
        context.set_trailing_metadata((("x-sum-bin", bytes([0, 255, 1])),))
        return request

    def fail(self, _, context):
        context.set_trailing_metadata((("x-why", "because"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: 100 %, \u00e4")

    def wait(self, _, context):
        context.add_callback(self.cancelled.set)
        self.cancelled.wait(PATIENCE)
        return b""


# ---------------------------------------------------------------- the stand

class Stand:
    def __init__(self, sidekey):
        self.folder = tempfile.mkdtemp(prefix="clients")
        self.ports = {name: pki.free_port() for name in ("http", "grpc", "api", "rpc", "out", "probes")}
        authority = pki.Authority("Clients CA")
        born = pki.days_ago(2)
        pairs = {
            "certs/in/tls": authority.issue("server", born, pki.SERVER, ["localhost"]),
            "certs/out/tls": authority.issue("sidecar", born, pki.CLIENT, ["sidecar.example"]),
            "client": authority.issue("client", born, pki.CLIENT, ["client.example"]),
        }
        for path, (certificate, key) in pairs.items():
            self.write(path + ".crt", certificate)
            self.write(path + ".key", key)
        for path in ("ca.crt", "certs/in/ca.crt", "certs/out/ca.crt"):
            self.write(path, authority.pem)
        p = self.ports
        self.write("sidekey.toml", f"""
certs = "certs"
[log]
format = "json"
[admin]
probes = "127.0.0.1:{p['probes']}"
[[ingress]]
name = "api"
listen = "127.0.0.1:{p['api']}"
keyrings = ["in"]
backend = "http://127.0.0.1:{p['http']}"
[[ingress]]
name = "rpc"
listen = "127.0.0.1:{p['rpc']}"
keyrings = ["in"]
backend = "h2c://127.0.0.1:{p['grpc']}"
[[egress]]
name = "out"
listen = "127.0.0.1:{p['out']}"
keyring = "out"
upstream = "https://127.0.0.1:{p['api']}"
server_name = "localhost"
""".encode())
        self.url = f"https://localhost:{p['api']}"
        self.plain = f"http://127.0.0.1:{p['out']}"
        http_backend(p["http"])
        self.calls = Calls()
        self.server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", LARGE)])
        self.server.add_generic_rpc_handlers((self.calls,))
        self.server.add_insecure_port(f"127.0.0.1:{p['grpc']}")
        self.server.start()
        self.log = open(self.path("log"), "wb")
        self.process = subprocess.Popen([sidekey, "run", "--config", self.path("sidekey.toml")], stdout=self.log, stderr=self.log)
        self.wait()

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def write(self, name, data):
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        os.chmod(path, 0o600)

    def wait(self):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if requests.get(f"http://127.0.0.1:{self.ports['probes']}/readyz", timeout=1).ok:
                    return
            except requests.RequestException:
                time.sleep(0.05)
        raise SystemExit("the sidecar did not become ready:\n" + open(self.path("log")).read())

    def stop(self):
        self.process.terminate()
        code = self.process.wait(PATIENCE)
        self.server.stop(None)
        self.log.close()
        return code

    @property
    def pair(self):
        return self.path("client.crt"), self.path("client.key")

    def tls(self, alpn=None):
        context = ssl.create_default_context(cafile=self.path("ca.crt"))
        context.load_cert_chain(*self.pair)
        if alpn:
            context.set_alpn_protocols(alpn)
        return context

    def channel(self):
        read = lambda name: open(self.path(name), "rb").read()
        credentials = grpc.ssl_channel_credentials(read("ca.crt"), read("client.key"), read("client.crt"))
        return grpc.secure_channel(f"localhost:{self.ports['rpc']}", credentials, options=[("grpc.max_receive_message_length", LARGE)])

    def run(self, *command, stdin=None, fails=False):
        if not shutil.which(command[0]):
            raise Skip(f"there is no {command[0]} here")
        done = subprocess.run(command, cwd=self.folder, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=PATIENCE * 2)
        if bool(done.returncode) != fails:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-600:].decode(errors='replace')}")
        return done.stdout

    def curl(self, path, *extra, to=None):
        pair = ("--cacert", "ca.crt", "--cert", "client.crt", "--key", "client.key") if to is None else ()
        return self.run("curl", "-sS", "--max-time", "60", *pair, *extra, (to or self.url) + path)


def body():
    return bytes(i * 2654435761 >> 24 & 255 for i in range(1 << 16)) * (LARGE >> 16)


BODY = body()
DIGEST = {"bytes": LARGE, "sha256": hashlib.sha256(BODY).hexdigest()}


# ---------------------------------------------------------------- gRPC

@case
def grpc_calls_of_all_four_kinds(stand):
    with stand.channel() as channel:
        answer, call = channel.unary_unary("/t.T/Unary").with_call(b"hello", timeout=PATIENCE)
        same(answer, b"hello")
        same(dict(call.initial_metadata())["x-peer"], "dns:client.example")
        same(dict(call.trailing_metadata())["x-sum-bin"], bytes([0, 255, 1]))
        same(list(channel.unary_stream("/t.T/Many")(b"500", timeout=PATIENCE)), [b"%d" % i for i in range(500)])
        same(channel.stream_unary("/t.T/Sum")(iter([b"x" * 1000] * 500), timeout=PATIENCE), b"500000")


@case
def grpc_streams_both_ways_in_step(stand):
    with stand.channel() as channel:
        turn = threading.Semaphore(1)

        def ask():
            for number in range(50):
                turn.acquire(timeout=PATIENCE)
                yield b"%d" % number

        for number, answer in enumerate(channel.stream_stream("/t.T/Both")(ask(), timeout=PATIENCE)):
            same(answer, b"%d" % number)
            turn.release()
        same(number, 49)


@case
def grpc_errors_arrive_with_their_trailers(stand):
    with stand.channel() as channel:
        try:
            channel.unary_unary("/t.T/Fail")(b"", timeout=PATIENCE)
        except grpc.RpcError as error:
            same(error.code(), grpc.StatusCode.FAILED_PRECONDITION)
            same(error.details(), "not today: 100 %, \u00e4")
            same(dict(error.trailing_metadata())["x-why"], "because")
        else:
            raise AssertionError("no error")
        try:
            channel.unary_unary("/t.T/Nothing")(b"", timeout=PATIENCE)
        except grpc.RpcError as error:
            same(error.code(), grpc.StatusCode.UNIMPLEMENTED)


@case
def grpc_deadlines_end_the_call_on_both_sides(stand):
    with stand.channel() as channel:
        try:
            channel.unary_unary("/t.T/Wait")(b"", timeout=0.5)
        except grpc.RpcError as error:
            same(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        else:
            raise AssertionError("no deadline")
        same(stand.calls.cancelled.wait(PATIENCE), True)


@case
def grpc_large_messages(stand):
    with stand.channel() as channel:
        message = os.urandom(8 << 20)
        same(channel.unary_unary("/t.T/Unary")(message, timeout=PATIENCE) == message, True)


# ---------------------------------------------------------------- HTTP clients

@case
def httpx_over_both_protocols(stand):
    for http2 in (True, False):
        with httpx.Client(verify=stand.tls(), http2=http2, timeout=PATIENCE) as client:
            answer = client.post(stand.url + "/echo", content=b"hello")
            same((answer.http_version, answer.content, answer.headers["x-peer"]), ("HTTP/2" if http2 else "HTTP/1.1", b"hello", "dns:client.example"))
            same(client.post(stand.url + "/digest", content=BODY).json(), DIGEST)
            parts = (BODY[at:at + 100_000] for at in range(0, LARGE, 100_000))
            same(client.post(stand.url + "/digest", content=parts).json(), DIGEST)
            same(len(client.get(stand.url + "/large").content), LARGE)
            same((client.head(stand.url + "/echo").status_code, client.get(stand.url + "/nothing").status_code), (200, 404))


@case
def httpx_sees_events_as_they_are_sent(stand):
    for http2 in (True, False):
        with httpx.Client(verify=stand.tls(), http2=http2, timeout=PATIENCE) as client:
            with client.stream("GET", stand.url + "/events") as answer:
                lines = (line for line in answer.iter_lines() if line)
                for number in range(3):
                    same(next(lines), f"data: {number}")
                    requests.post(stand.plain + "/saw", timeout=PATIENCE)
                same(list(lines), [])


@case
def requests_with_a_session(stand):
    with requests.Session() as session:
        session.trust_env = False
        session.cert, session.verify = stand.pair, stand.path("ca.crt")
        for _ in range(20):
            same(session.post(stand.url + "/echo", data=b"x" * 1000, timeout=PATIENCE).headers["x-seen"], "1000")
        parts = (BODY[at:at + 100_000] for at in range(0, LARGE, 100_000))
        same(session.put(stand.url + "/digest", data=parts, timeout=PATIENCE).json(), DIGEST)
        same(len(session.get(stand.url + "/large", timeout=PATIENCE).content), LARGE)


@case
def aiohttp_with_expectations(stand):
    async def run():
        timeout = aiohttp.ClientTimeout(PATIENCE)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=stand.tls()), timeout=timeout) as session:
            async with session.post(stand.url + "/digest", data=BODY, expect100=True) as answer:
                same(await answer.json(), DIGEST)
            async with session.post(stand.url + "/expect-refused", data=b"x" * 1000, expect100=True) as answer:
                same(answer.status, 413)
            answers = await asyncio.gather(*(session.get(stand.url + "/echo") for _ in range(50)))
            same({answer.status for answer in answers}, {200})
    asyncio.run(run())


@case
def aiohttp_through_the_egress(stand):
    async def run():
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE)) as session:
            async with session.post(stand.plain + "/digest", data=BODY) as answer:
                same(await answer.json(), DIGEST)
            async with session.post(stand.plain + "/echo", data=b"hello") as answer:
                same((await answer.read(), answer.headers["x-peer"]), (b"hello", "dns:sidecar.example"))
    asyncio.run(run())


# ---------------------------------------------------------------- WebSockets

@case
def websockets_echo(stand):
    async def run():
        url = stand.url.replace("https", "wss") + "/ws"
        async with websockets.connect(url, ssl=stand.tls(), max_size=8 << 20) as socket:
            for message in ("text", "\u00e4\u20ac", b"\0\1\2", os.urandom(4 << 20)):
                await socket.send(message)
                same(await asyncio.wait_for(socket.recv(), PATIENCE), message)
            await asyncio.wait_for(await socket.ping(), PATIENCE)
            await socket.close(1000, "done")
            same(socket.close_code, 1000)
    asyncio.run(run())


@case
def websocket_of_aiohttp(stand):
    async def run():
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=stand.tls())) as session:
            async with session.ws_connect(stand.url + "/ws") as socket:
                for number in range(100):
                    await socket.send_str(str(number))
                    same(await socket.receive_str(timeout=PATIENCE), str(number))
    asyncio.run(run())


@case
def websocket_through_the_egress(stand):
    async def run():
        async with websockets.connect(stand.plain.replace("http", "ws") + "/ws") as socket:
            await socket.send("hello")
            same(await asyncio.wait_for(socket.recv(), PATIENCE), "hello")
    asyncio.run(run())


# ---------------------------------------------------------------- command line tools

@case
def curl_over_every_version(stand):
    stand.write("large", BODY)
    for version in ("--http1.1", "--http2", "--http1.0"):
        same(stand.curl("/echo", version, "-d", "hello"), b"hello")
        got = stand.curl("/large", version, "-o", "/dev/null", "-w", "%{http_code} %{size_download}").decode()
        same(got, f"200 {LARGE}")
        same(stand.curl("/echo", version, "-I", "-o", "/dev/null", "-w", "%{http_code}"), b"200")
        # curl expects a 100 for a body of this size.
        answer = stand.curl("/digest", version, "-T", "large", "-w", " %{http_code}").decode()
        same(DIGEST["sha256"] in answer and answer.endswith(" 200"), True)


@case
def curl_is_refused_before_it_sends_its_body(stand):
    stand.write("large", BODY)
    sent = stand.curl("/expect-refused", "--http1.1", "-X", "POST", "-T", "large", "-H", "Expect: 100-continue",
                      "--expect100-timeout", "20", "-o", "/dev/null", "-w", "%{http_code} %{size_upload}")
    same(sent, b"413 0")


@case
def curl_many_at_once_through_the_egress(stand):
    urls = [f"{stand.plain}/echo?{number}" for number in range(60)]
    got = stand.run("curl", "-sS", "--parallel", "--max-time", "60", "-w", "%{http_code}\\n", *[part for url in urls for part in ("-o", "/dev/null", url)])
    same(got.split(), [b"200"] * 60)


@case
def nghttp_with_many_streams(stand):
    urls = [f"{stand.url}/echo?{number}" for number in range(100)]
    got = stand.run("nghttp", "-ns", "--cert", "client.crt", "--key", "client.key", *urls)
    same(got.count(b" 200 "), 100)


@case
def h2load_through_the_egress(stand):
    got = stand.run("h2load", "--h1", "-n", "2000", "-c", "20", stand.plain + "/echo").decode()
    same("2000 succeeded, 0 failed, 0 errored" in got, True)


NODE = r"""
const fs = require('fs'), https = require('https'), http2 = require('http2'), assert = require('assert');
const [url, plain] = process.argv.slice(2);
const tls = { ca: fs.readFileSync('ca.crt'), cert: fs.readFileSync('client.crt'), key: fs.readFileSync('client.key') };
const body = Buffer.alloc(5_000_000, 'n');
function h1(agent) {
  return new Promise((done, failed) => {
    const request = https.request(url + '/digest', { method: 'POST', agent, ...tls }, (answer) => {
      const parts = [];
      answer.on('data', (part) => parts.push(part)).on('error', failed);
      answer.on('end', () => done(JSON.parse(Buffer.concat(parts))));
    });
    request.on('error', failed);
    request.end(body);
  });
}
function h2() {
  return new Promise((done, failed) => {
    const session = http2.connect(url, tls);
    session.on('error', failed);
    let open = 40;
    for (let i = 0; i < 40; i++) {
      const stream = session.request({ ':method': 'POST', ':path': '/echo' });
      let size = 0, status;
      stream.on('response', (headers) => { status = headers[':status']; });
      stream.on('data', (part) => { size += part.length; }).on('error', failed);
      stream.on('end', () => {
        try { assert.deepEqual([status, size], [200, 100_000]); } catch (error) { failed(error); }
        if (--open === 0) { session.close(); done(); }
      });
      stream.end(body.subarray(0, 100_000));
    }
  });
}
(async () => {
  const agent = new https.Agent({ keepAlive: true });
  for (let i = 0; i < 5; i++) assert.equal((await h1(agent)).bytes, body.length);
  agent.destroy();
  await h2();
  const answers = await Promise.all([...Array(30)].map((_, i) => fetch(plain + '/echo', { method: 'POST', body: 'f'.repeat(i) })));
  for (const [i, answer] of answers.entries()) assert.equal(await answer.text(), 'f'.repeat(i));
  const streamed = await fetch(plain + '/large');
  let size = 0;
  for await (const part of streamed.body) size += part.length;
  console.log(size);
})().catch((error) => { console.error(error); process.exit(1); });
"""


@case
def node_https_http2_and_fetch(stand):
    stand.write("client.cjs", NODE.encode())
    same(stand.run("node", "client.cjs", stand.url, stand.plain).strip(), b"%d" % LARGE)


# ---------------------------------------------------------------- all of it

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sidekey", required=True)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    stand = Stand(os.path.abspath(arguments.sidekey))
    count = {"passed": 0, "failed": 0, "skipped": 0}
    for run in CASES:
        if arguments.names and not any(name in run.__name__ for name in arguments.names):
            continue
        began = time.monotonic()
        try:
            run(stand)
            how, why = "passed", ""
        except Skip as skip:
            how, why = "skipped", f": {skip}"
        except Exception:
            how, why = "failed", ":\n" + traceback.format_exc()
        count[how] += 1
        print(f"{how} {run.__name__} ({time.monotonic() - began:.1f} s){why}", flush=True)
    code = stand.stop()
    if code != 0:
        count["failed"] += 1
        print(f"failed: the sidecar ended with {code}")
    if count["failed"]:
        print(open(stand.path("log"), errors="replace").read()[-6000:])
    shutil.rmtree(stand.folder)
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    sys.exit(1 if count["failed"] else 0)


if __name__ == "__main__":
    main()
