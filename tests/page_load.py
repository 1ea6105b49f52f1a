"""What the admin page costs: the time and the CPU of each view of a sidecar with many keyrings and peers, and the latency of the
traffic beside it with the page being polled and without, in turns of one run.

    page_load.py --sidekey target/release/sidekey [--peers 5000] [--keyrings 12] [--rate 400] [--seconds 10] [--rounds 3]

Every peer really comes, before the rotations; a part of them comes again after them. Loads are planned ahead, so a late answer counts
from when its request was due. It judges nothing: figures depend on the machine, the ratio of one run less so.
"""
import argparse, datetime, multiprocessing, os, signal, socket, ssl, statistics, subprocess, sys, threading, time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as EKU

from page_stage import DAY, Stage, issue, serve, subject

ROTATING = 4  # keyrings in overlap
CLIENTS = 2  # processes that open connections


class Crowd(Stage):
    """A sidecar with many keyrings behind one ingress, and the certificates of its peers."""

    def prepare(self, keyrings, peers):
        usage = [EKU.SERVER_AUTH, EKU.CLIENT_AUTH]
        self.rings = [f"ring{number:02}" for number in range(keyrings)]
        for number, ring in enumerate(self.rings):
            self.drop(f"{ring}/2025", issue(self.old, self.name(ring), usage=usage, names=[self.name(ring)], begins=-(40 + number) * DAY, lasts=(100 + 10 * number) * DAY))
        self.put("trust/partners.pem", self.old.pem)
        self.servers.append(serve())
        (self.folder / "sidekey.toml").write_text(f"""
certs = "certs"
state = "state"
[trust.partners]
anchors = ["trust/partners.pem"]
[[ingress]]
name = "api"
listen = "127.0.0.1:{self.port}"
keyrings = [{", ".join(f'"{ring}"' for ring in self.rings)}]
trust = "partners"
backend = "http://127.0.0.1:{self.servers[0].server_port}"
[ingress.limits]
handshakes_per_source = 512
[admin]
listen = "127.0.0.1:{self.admin}"
control = "control.sock"
[log]
access = false
handshakes = false
""")
        self.make_crowd(peers)
        self.log = open(self.folder / "log", "wb")
        self.process = subprocess.Popen([self.sidekey, "run", "--config", "sidekey.toml"], cwd=self.folder, stdout=self.log, stderr=self.log)
        self.await_true("ready", lambda: self.status("/readyz") == 200)

    def name(self, ring):
        return f"{ring}.example.com"

    def make_crowd(self, count):
        """Certificates of distinct subjects for one key: signing them is all that takes time."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        folder = self.folder / "peers"
        folder.mkdir()
        self.crowd = []
        for number in range(count):
            common = f"peer{number}.example"
            made = (
                x509.CertificateBuilder().subject_name(subject(common)).issuer_name(self.old.subject).public_key(key.public_key())
                .serial_number(1000 + number).not_valid_before(now - DAY).not_valid_after(now + 90 * DAY)
                .add_extension(x509.ExtendedKeyUsage([EKU.CLIENT_AUTH]), False)
                .add_extension(x509.SubjectAlternativeName([x509.DNSName(common)]), False).sign(self.old.key, hashes.SHA256()))
            path = folder / f"{number}.pem"
            path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
            self.crowd.append((path, self.name(self.rings[number % len(self.rings)])))

    def rotate(self):
        usage = [EKU.SERVER_AUTH, EKU.CLIENT_AUTH]
        for ring in self.rings[:ROTATING]:
            self.drop(f"{ring}/2026", issue(self.old, self.name(ring), usage=usage, names=[self.name(ring)], begins=-DAY / 2, lasts=200 * DAY))
        self.wait_for_text("/rotation", f"Rotation of {self.rings[ROTATING - 1]}")

    def cpu_ms(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def client_context(path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(path)
    return context


def request_once(port, context, host):
    """One connection, one request."""
    with socket.create_connection(("127.0.0.1", port), 20) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(raw, server_hostname=host) as stream:
            stream.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            if not stream.recv(4096).startswith(b"HTTP/1.1 200"):
                raise RuntimeError("not answered")


def visit_all(port, crowd):
    """Every peer comes once."""
    def come(part):
        for path, host in part:
            request_once(port, client_context(path), host)
    share(come, [crowd[number::CLIENTS] for number in range(CLIENTS)])


def share(work, parts):
    children = [multiprocessing.Process(target=work, args=(part,)) for part in parts]
    for child in children:
        child.start()
    for child in children:
        child.join()
        if child.exitcode != 0:
            raise RuntimeError("a client ended early: the log of the sidecar says why")


def keep_pace(rate, seconds, act):
    """Acts at a fixed rate; seconds from when each was due to when it was done."""
    start, taken = time.perf_counter(), []
    for number in range(int(rate * seconds)):
        due = start + number / rate
        wait = due - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        act(number)
        taken.append(time.perf_counter() - due)
    return taken


def open_connections(port, crowd, rate, seconds, results):
    contexts = [(client_context(path), host) for path, host in crowd]
    results.put(("handshake", keep_pace(rate, seconds, lambda number: request_once(port, *contexts[number % len(contexts)]))))


def send_requests(port, peer, rate, seconds, results):
    """Requests on a connection that stays open."""
    (path, host) = peer
    with socket.create_connection(("127.0.0.1", port), 20) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with client_context(path).wrap_socket(raw, server_hostname=host) as stream:
            def act(_):
                stream.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                stream.recv(4096)
            results.put(("request", keep_pace(rate, seconds, act)))


def measure_traffic(stage, rate, seconds):
    """Latencies by kind, in milliseconds."""
    results = multiprocessing.Queue()
    sample = stage.crowd[:: max(1, len(stage.crowd) // 120)]
    children = [multiprocessing.Process(target=open_connections, args=(stage.port, sample[number::CLIENTS], rate / CLIENTS, seconds, results)) for number in range(CLIENTS)]
    children.append(multiprocessing.Process(target=send_requests, args=(stage.port, sample[0], 200, seconds, results)))
    for child in children:
        child.start()
    taken = {"handshake": [], "request": []}
    for _ in children:
        kind, some = results.get(timeout=seconds + 120)
        taken[kind] += [one * 1000 for one in some]
    for child in children:
        child.join()
    return taken


def quantile(all_of_them, share_of):
    return sorted(all_of_them)[min(len(all_of_them) - 1, int(len(all_of_them) * share_of))]


class Poller:
    """Asks for views, five times a second."""

    def __init__(self, stage, views):
        self.stage, self.views, self.taken, self.over = stage, views, [], threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        number = 0
        while not self.over.wait(0.2):
            start = time.perf_counter()
            status = self.stage.ask(self.views[number % len(self.views)])[0]
            if status != 200:
                raise RuntimeError(f"{self.views[number % len(self.views)]}: {status}")
            self.taken.append((time.perf_counter() - start) * 1000)
            number += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def measure_views(stage, views):
    """Prints what each view costs; returns those that are there."""
    print(f"{'view':44} {'KiB':>6} {'median ms':>10} {'max ms':>8} {'CPU ms':>8}")
    for view in list(views):
        if stage.ask(view)[0] != 200:
            print(f"{view:44} is not there")
            views.remove(view)
            continue
        taken, size, before = [], 0, stage.cpu_ms()
        for _ in range(9):
            start = time.perf_counter()
            status, _, body = stage.ask(view)
            taken.append((time.perf_counter() - start) * 1000)
            size = len(body)
            if status != 200:
                raise RuntimeError(f"{view}: {status}")
            # So that what is kept for a second is built anew.
            time.sleep(1.05)
        print(f"{view:44} {size // 1024:6} {statistics.median(taken):10.1f} {max(taken):8.1f} {(stage.cpu_ms() - before) / 9:8.1f}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sidekey", required=True)
    for name, usual in (("peers", 5000), ("keyrings", 12), ("rate", 400), ("seconds", 10), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--no-views", action="store_true", help="only the traffic beside the page")
    asked = parser.parse_args()
    # Ended from outside, it takes its sidecar with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    stage = Crowd(asked.sidekey)
    try:
        stage.prepare(asked.keyrings, asked.peers)
        visit_all(stage.port, stage.crowd)
        stage.rotate()
        visit_all(stage.port, stage.crowd[: asked.peers // 2])
        last = f"dns:peer{asked.peers - 1}.example"
        stage.wait_for_text(f"/registry/peers?text={last}", last)
        certificate = stage.ask(f"/peers/{last}")[2].split('href="/certificates/')[1].split('"')[0]
        views = ["/", "/rotation", "/handshakes", "/handshakes?failed=true", "/registry", "/registry/peers", "/registry/peers?text=peer44",
                 "/registry/trust", "/findings", f"/keyrings/{stage.rings[0]}", f"/peers/{last}", f"/certificates/{certificate}",
                 "/api/v1/status", "/api/v1/rotation", "/api/v1/peers?sort=identity"]
        if not asked.no_views:
            measure_views(stage, views)
        polled = [view for view in views if not view.startswith("/api")]
        quiet, busy = ({"handshake": [], "request": []} for _ in range(2))
        for number in range(asked.rounds):
            for kind, some in measure_traffic(stage, asked.rate, asked.seconds).items():
                quiet[kind] += some
            with Poller(stage, polled) as poller:
                for kind, some in measure_traffic(stage, asked.rate, asked.seconds).items():
                    busy[kind] += some
            print(f"round {number + 1}: the page answered {len(poller.taken)} times, median {statistics.median(poller.taken):.1f} ms, max {max(poller.taken):.1f} ms", flush=True)
        for kind in quiet:
            for share_of in (0.5, 0.99):
                alone, beside = quantile(quiet[kind], share_of), quantile(busy[kind], share_of)
                print(f"{kind:10} p{share_of * 100:.0f}: {alone:7.2f} ms alone, {beside:7.2f} ms with the page polled, ratio {beside / alone:.2f} ({len(quiet[kind])} and {len(busy[kind])})")
    finally:
        stage.stop()


main()
