"""Real clients with long streams through a running sidecar, by hand: nothing of them is lost.

    streams.py --sidekey target/debug/sidekey [--seconds 180]

Each stream says one thing, is silent for so many seconds, says another and ends. Meanwhile both keyrings rotate twice, every
connection reaches `connection_age` (a planned drain), and a reload names the upstream differently. Through ingress and egress.
"""
import argparse, asyncio, os, shutil, subprocess, sys, threading, time
from concurrent import futures

import grpc, httpx
from aiohttp import web

import clients, pki

SECONDS = 180
GO = r"""
package main

import ("crypto/tls"; "crypto/x509"; "fmt"; "io"; "net/http"; "os")

func main() {
	ca, _ := os.ReadFile("ca.crt")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	pair, err := tls.LoadX509KeyPair("client.crt", "client.key")
	if err != nil { panic(err) }
	config := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
	answer, err := client.Get(os.Args[1])
	if err != nil { panic(err) }
	body, err := io.ReadAll(answer.Body)
	if err != nil { panic(err) }
	fmt.Print(string(body))
}
"""
NODE = r"""
const fs = require('fs'), http2 = require('http2'), https = require('https');
const [how, url] = process.argv.slice(2);
const tls = { ca: fs.readFileSync('ca.crt'), cert: fs.readFileSync('client.crt'), key: fs.readFileSync('client.key') };
const print = (from) => from.on('data', (part) => process.stdout.write(part)).on('error', (error) => { throw error; });
if (how === 'fetch') fetch(url).then((answer) => answer.text()).then((text) => process.stdout.write(text));
else if (how === 'h1') https.get(url, tls, print);
else {
  const session = http2.connect(url, tls);
  const stream = print(session.request({ ':path': new URL(url).pathname }));
  stream.on('end', () => session.close());
}
"""


async def quiet(request):
    response = web.StreamResponse(headers={"content-type": "text/" + request.match_info["kind"]})
    await response.prepare(request)
    await response.write(b"begin\n")
    await asyncio.sleep(SECONDS)
    await response.write(b"end\n")
    await response.write_eof()
    return response


def backend(port):
    loop = asyncio.new_event_loop()

    async def start():
        app = web.Application()
        app.router.add_get("/quiet/{kind}", quiet)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()

    loop.run_until_complete(start())
    threading.Thread(target=loop.run_forever, daemon=True).start()


class Calls(grpc.GenericRpcHandler):
    def service(self, details):
        method = details.method.rsplit("/", 1)[-1]
        if method == "Quiet":
            return grpc.unary_stream_rpc_method_handler(self.quiet)
        return grpc.stream_stream_rpc_method_handler(self.quiet if method == "Both" else self.talk)

    def quiet(self, _, context):
        yield b"begin\n"
        time.sleep(SECONDS)
        yield b"end\n"

    def talk(self, _, context):
        yield b"begin\n"
        for _ in range(SECONDS // 5):
            time.sleep(5)
            yield b""
        yield b"end\n"


class Stand(clients.Stand):
    def write(self, name, data):
        if name == "sidekey.toml":
            age = b'connection_age = "%ds"' % (SECONDS * 3 // 10)
            data = data.replace(b'keyrings = ["in"]\n', b'keyrings = ["in"]\nlimits = { ' + age + b" }\n")
            data += b'[shutdown]\ndrain = "2s"\n'
        super().write(name, data)

    def rotate(self, count):
        born = pki.days_ago(2 - count / 10)
        for folder, usage, name in (("in", pki.SERVER, "localhost"), ("out", pki.CLIENT, "sidecar.example")):
            certificate, key = self.authority.issue(f"{folder} {count}", born, usage, [name])
            self.write(f"certs/{folder}/{count}.key", key)
            self.write(f"certs/{folder}/{count}.crt", certificate)

    def reload(self):
        config = open(self.path("sidekey.toml"), "rb").read()
        renamed = config.replace(b'upstream = "https://127.0.0.1:', b'upstream = "https://localhost:')
        clients.same(renamed != config, True)
        with open(self.path("sidekey.toml.new"), "wb") as file:
            file.write(renamed)
        os.replace(self.path("sidekey.toml.new"), self.path("sidekey.toml"))


def by_command(stand, *command):
    done = subprocess.run(command, cwd=stand.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=SECONDS + 60)
    return done.stdout + done.stderr[-300:] if done.returncode else done.stdout


def by_grpc(stand, method):
    silence = threading.Event()
    with stand.channel() as channel:
        if method == "Quiet":
            call = channel.unary_stream("/t.T/Quiet")(b"", timeout=SECONDS + 60)
        else:
            call = channel.stream_stream(f"/t.T/{method}")(iter(silence.wait, None), timeout=SECONDS + 60)
        said = b"".join(call)
    silence.set()
    return said


def by_httpx(url, **settings):
    with httpx.Client(timeout=SECONDS + 60, **settings) as client:
        return client.get(url).content


def streams(stand):
    pair = ("--cacert", "ca.crt", "--cert", "client.crt", "--key", "client.key")
    for kind in ("event-stream", "plain"):
        url, plain = f"{stand.url}/quiet/{kind}", f"{stand.plain}/quiet/{kind}"
        yield f"httpx over HTTP/2, {kind}", lambda url=url: by_httpx(url, http2=True, verify=stand.tls())
        yield f"httpx through the egress, {kind}", lambda url=plain: by_httpx(url)
        for version in ("--http1.1", "--http2"):
            yield f"curl {version}, {kind}", lambda url=url, version=version: by_command(stand, "curl", "-sSN", version, *pair, url)
        yield f"curl through the egress, {kind}", lambda url=plain: by_command(stand, "curl", "-sSN", url)
        for how in ("h1", "h2"):
            yield f"node {how}, {kind}", lambda url=url, how=how: by_command(stand, "node", "streams.cjs", how, url)
        yield f"node through the egress, {kind}", lambda url=plain: by_command(stand, "node", "streams.cjs", "fetch", url)
        if shutil.which("go"):
            yield f"go over HTTP/2, {kind}", lambda url=url: by_command(stand, "./go-client", url)
            yield f"go through the egress, {kind}", lambda url=plain: by_command(stand, "./go-client", url)
    for method in ("Quiet", "Talk", "Both"):
        yield f"grpcio {method}", lambda method=method: by_grpc(stand, method)


def main():
    global SECONDS
    parser = argparse.ArgumentParser()
    parser.add_argument("--sidekey", required=True)
    parser.add_argument("--seconds", type=int, default=SECONDS)
    arguments = parser.parse_args()
    SECONDS = arguments.seconds
    issue = pki.Authority("Streams CA")
    pki.Authority, Stand.authority = (lambda _: issue), issue
    clients.http_backend, clients.Calls = backend, Calls
    stand = Stand(os.path.abspath(arguments.sidekey))
    stand.write("streams.cjs", NODE.encode())
    stand.write("client.go", GO.encode())
    if shutil.which("go"):
        subprocess.run(["go", "build", "-o", "go-client", "client.go"], cwd=stand.folder, check=True)
    all_streams = list(streams(stand))
    with futures.ThreadPoolExecutor(len(all_streams)) as pool:
        begun = time.monotonic()
        running = [(name, pool.submit(stream)) for name, stream in all_streams]
        for part, what in ((0.15, lambda: stand.rotate(1)), (0.5, lambda: stand.rotate(2)), (0.65, stand.reload)):
            time.sleep(max(0.0, begun + part * SECONDS - time.monotonic()))
            what()
        lost = 0
        for name, stream in running:
            try:
                said = stream.result()
            except Exception as error:
                said = repr(error).encode()
            whole = said == b"begin\nend\n"
            lost += not whole
            print("whole" if whole else f"LOST {said[:160]!r}", name, flush=True)
    log = open(stand.path("log"), errors="replace").read()
    for reason in ("connection_age", "upstream_changed"):
        print(log.count(f'"reason":"{reason}"'), "connections drained:", reason)
    print(log.count('"message":"rotation"'), "rotations;", "the sidecar ended with", stand.stop())
    shutil.rmtree(stand.folder)
    print(f"{len(running) - lost} of {len(running)} whole")
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
