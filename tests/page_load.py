"""What the admin page costs: the time and the CPU of each view of a sidecar with many keyrings and peers, and the latency of the
traffic beside it with the page being polled and without, in turns of one run.

    page_load.py --sidekey target/release/sidekey --load bench/target/load/sidekey-load [--peers 5000] [--keyrings 12] [--rate 2000]
                 [--resumed 90] [--again]

Every peer really comes, before the rotations; a part of them comes again after them. The traffic is that of the benchmark's load
generator: new connections of many clients, each for one request, and requests over connections that stay open, both planned ahead,
so that a late answer counts from when its request was due. The sidecar has one worker and a core of its own, all others share
another. It judges nothing: figures depend on the machine, the ratio of one run less so. A ratio means something where the sidecar's
core is not full: above nine tenths, waiting for it is all that is measured, with the page and without. `--again` adds a third turn to
each round, again without the page: by how much those two differ says what a ratio is worth.

Beside other work, give the session its processors first, as root: `echo -18 > /proc/self/autogroup` (sched(7); nice alone orders the
processes of one session only).
"""
import argparse, contextlib, datetime, json, math, os, signal, socket, statistics, subprocess, sys, threading, time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as EKU

import pki
from page_stage import DAY, Stage, issue, subject

ROTATING = 4  # keyrings in overlap
POLLS = 5  # views a second
BESIDE = "with the page polled"


class Crowd(Stage):
    """A sidecar with many keyrings behind one ingress, the certificates of its peers, and the generator that plays them."""

    def __init__(self, sidekey, load, pinned):
        super().__init__(sidekey)
        self.load, self.backend, self.children = os.path.abspath(load), pki.free_port(), []
        self.own_core, self.other_core = (["taskset", "-c", "0"], ["taskset", "-c", "1"]) if pinned else ([], [])
        if pinned:
            os.sched_setaffinity(0, {1})

    def start_load(self, command, **options):
        """The generator: `name=value` is an option."""
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        child = subprocess.Popen([*self.other_core, self.load, command, *arguments], stdout=subprocess.PIPE, text=True)
        self.children.append(child)
        return child

    def end_load(self, child):
        """What it has printed."""
        text = child.communicate()[0]
        self.children.remove(child)
        if child.returncode != 0:
            raise RuntimeError(f"the generator ended with {child.returncode}: where this machine cannot hold the rate, ask for a lower one, or for more resumed sessions")
        line = json.loads(text)
        if line["failed"]:
            raise RuntimeError(f"{line['failed']} of its requests failed: {line['first_failure']}")
        return line

    def client(self):
        """What lets the generator come as the crowd."""
        return {"port": self.port, "certs": self.folder, "pair": "none", "pairs": self.folder / "peers",
                "names": ",".join(self.name(ring) for ring in self.rings)}

    def stop(self):
        for child in self.children:
            child.kill()
            child.wait()
        super().stop()

    def prepare(self, keyrings, peers):
        usage = [EKU.SERVER_AUTH, EKU.CLIENT_AUTH]
        self.rings = [f"ring{number:02}" for number in range(keyrings)]
        for number, ring in enumerate(self.rings):
            self.drop(f"{ring}/2025", issue(self.old, self.name(ring), usage=usage, names=[self.name(ring)], begins=-(40 + number) * DAY, lasts=(100 + 10 * number) * DAY))
        self.put("trust/partners.pem", self.old.pem)
        self.start_load("serve", port=self.backend)
        (self.folder / "sidekey.toml").write_text(f"""
certs = "certs"
state = "state"
workers = 1
[trust.partners]
anchors = ["trust/partners.pem"]
[[ingress]]
name = "api"
listen = "127.0.0.1:{self.port}"
keyrings = [{", ".join(f'"{ring}"' for ring in self.rings)}]
trust = "partners"
backend = "http://127.0.0.1:{self.backend}"
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
        self.process = subprocess.Popen([*self.own_core, self.sidekey, "run", "--config", "sidekey.toml"], cwd=self.folder, stdout=self.log, stderr=self.log)
        self.await_true("ready", lambda: self.status("/readyz") == 200)

    def name(self, ring):
        return f"{ring}.example.com"

    def make_crowd(self, count):
        """Certificates of distinct subjects for one key: signing them is all that takes time."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        folder = self.folder / "peers"
        folder.mkdir()
        for number in range(count):
            common = f"peer{number}.example"
            made = (
                x509.CertificateBuilder().subject_name(subject(common)).issuer_name(self.old.subject).public_key(key.public_key())
                .serial_number(1000 + number).not_valid_before(now - DAY).not_valid_after(now + 90 * DAY)
                .add_extension(x509.ExtendedKeyUsage([EKU.CLIENT_AUTH]), False)
                .add_extension(x509.SubjectAlternativeName([x509.DNSName(common)]), False).sign(self.old.key, hashes.SHA256()))
            (folder / f"{number}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)

    def visit(self, count):
        """So many peers come once."""
        self.end_load(self.start_load("handshakes", **self.client(), connections=8, count=count))

    def rotate(self):
        usage = [EKU.SERVER_AUTH, EKU.CLIENT_AUTH]
        for ring in self.rings[:ROTATING]:
            self.drop(f"{ring}/2026", issue(self.old, self.name(ring), usage=usage, names=[self.name(ring)], begins=-DAY / 2, lasts=200 * DAY))
        self.wait_for_text("/rotation", f"Rotation of {self.rings[ROTATING - 1]}")

    def worker_wait_ms(self):
        """How long the worker could have run and did not, because another thread had its processor (proc(5), schedstat)."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        worker = next(task for task in tasks.iterdir() if (task / "comm").read_text().startswith("worker"))
        return int((worker / "schedstat").read_text().split()[1]) / 1e6

    def cpu_ms(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def measure_traffic(stage, asked):
    """What the generator printed of new connections and of requests, at the same time."""
    bounds = {"warm": 1, "seconds": asked.seconds, "proxy": stage.process.pid}
    began, waited = time.monotonic(), stage.worker_wait_ms()
    running = {
        "connection": stage.start_load("handshakes", **stage.client(), **bounds, connections=256, rate=asked.rate, resumed=asked.resumed),
        "request": stage.start_load("requests", port=stage.port, certs=stage.folder, pair="first", connections=16, rate=asked.requests, **bounds),
    }
    lines = {kind: stage.end_load(child) for kind, child in running.items()}
    lines["connection"]["waited_ms"] = (stage.worker_wait_ms() - waited) / (time.monotonic() - began)
    return lines


def tell_phase(number, name, lines):
    cpu = lines["connection"]["cpu"]
    print(f"round {number}, {name}: the sidecar used {cpu['proxy'] / cpu['seconds']:.0%} of a core, which its worker waited for"
          f" {lines['connection']['waited_ms']:.1f} ms a second", end="")
    for kind, line in lines.items():
        took, late = line["latency_us"], line["late_us"] or {"p99": 0}
        resumed = f" ({line['resumed']} resumed)" if line["resumed"] else ""
        print(f"; {took['count']} {kind}s{resumed} p50 {took['p50'] / 1000:.2f} p99 {took['p99'] / 1000:.2f} p99.9 {took['p999'] / 1000:.2f} ms,"
              f" sent {late['p99'] / 1000:.2f} ms late in p99", end="")
    print(flush=True)


def tell_answers(number, taken):
    print(f"round {number}: the page answered {len(taken)} times, median {statistics.median(took for took, _ in taken):.1f} ms; most took", end="")
    print(",".join(f" {took:.1f} ms {view}" for took, view in sorted(taken, reverse=True)[:5]), flush=True)


class Poller:
    """Asks for one view after the other, some times a second. A reader of the page is on another machine: here it gives way to the
    generator and the backend, which share its core, and does no more than read, so that it holds them up as little as it can."""

    def __init__(self, stage, views):
        self.stage, self.views, self.taken, self.over = stage, views, [], threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        number, space = 0, bytearray(1 << 20)
        while not self.over.wait(1 / POLLS):
            view = self.views[number % len(self.views)]
            start = time.perf_counter()
            with socket.create_connection(("127.0.0.1", self.stage.admin), timeout=30) as connection:
                connection.sendall(f"GET {view} HTTP/1.1\r\nHost: 127.0.0.1:{self.stage.admin}\r\nConnection: close\r\n\r\n".encode())
                filled = 0
                while count := connection.recv_into(memoryview(space)[filled:]):
                    filled += count
            if bytes(space[: min(filled, 13)]) != b"HTTP/1.1 200 " or filled == len(space):
                raise RuntimeError(f"{view}: {filled} bytes, {bytes(space[: min(filled, 100)])}")
            self.taken.append(((time.perf_counter() - start) * 1000, view))
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


def compare(quiet, others):
    """The medians of all rounds, their ratio to those without the page, and the mean of the rounds' ratios (geometric) with its standard
    error. How long the worker waits for its core says what other threads of the sidecar cost traffic, also where the machine is faster in
    one turn than in the next."""
    def wait(some):
        return statistics.median(lines["connection"]["waited_ms"] for lines in some)

    print(f"the worker waited for its core {wait(quiet):.1f} ms a second alone" + "".join(f", {wait(some):.1f} ms {name}" for name, some in others.items()))
    for kind in quiet[0]:
        for name in ("p50", "p99", "p999"):
            def read(lines):
                return lines[kind]["latency_us"][name] / 1000

            alone = statistics.median(map(read, quiet))
            print(f"{kind:10} {name:4}: {alone:6.2f} ms alone", end="")
            for turn, some in others.items():
                beside = statistics.median(map(read, some))
                logarithms = [math.log(read(b) / read(a)) for a, b in zip(quiet, some)]
                error = statistics.stdev(logarithms) / math.sqrt(len(logarithms)) if len(logarithms) > 1 else math.inf
                print(f"; {beside:6.2f} ms {turn}, ratio {beside / alone:.2f}, mean of the rounds' ratios {math.exp(statistics.mean(logarithms)):.2f} ±{error:.0%}", end="")
            print()


def prepare_stage(stage, asked):
    stage.prepare(asked.keyrings, asked.peers)
    stage.visit(asked.peers)
    stage.rotate()
    stage.visit(asked.peers // 2)
    last = f"dns:peer{asked.peers - 1}.example"
    stage.wait_for_text(f"/registry/peers?text={last}", last)
    # The requests are those of one peer.
    for suffix in ("pem", "key"):
        (stage.folder / f"first.{suffix}").write_bytes((stage.folder / "peers/0.pem").read_bytes())
    return last


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sidekey", required=True)
    parser.add_argument("--load", required=True, help="bench/load: cargo build --profile load -p sidekey-load in bench/")
    for name, usual in (("peers", 5000), ("keyrings", 12), ("rate", 2000), ("resumed", 90), ("requests", 500), ("seconds", 10), ("rounds", 6)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--again", action="store_true", help="a third turn, again without the page")
    parser.add_argument("--no-views", action="store_true", help="only the traffic beside the page")
    parser.add_argument("--unpinned", action="store_true", help="all processes on all cores")
    asked = parser.parse_args()
    # Ended from outside, it takes its sidecar with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    stage = Crowd(asked.sidekey, asked.load, not asked.unpinned)
    try:
        last = prepare_stage(stage, asked)
        certificate = stage.ask(f"/peers/{last}")[2].split('href="/certificates/')[1].split('"')[0]
        views = ["/", "/rotation", "/handshakes", "/handshakes?failed=true", "/registry", "/registry/peers", "/registry/peers?text=peer44",
                 "/registry/trust", "/findings", f"/keyrings/{stage.rings[0]}", f"/peers/{last}", f"/certificates/{certificate}",
                 "/api/v1/status", "/api/v1/rotation", "/api/v1/peers?sort=identity", "/api/v1/peers?sort=not_after"]
        if not asked.no_views:
            measure_views(stage, views)
        polled = [view for view in views if not view.startswith("/api")]
        turns, answers = {"alone": [], BESIDE: []} | ({"alone again": []} if asked.again else {}), []
        for number in range(1, asked.rounds + 1):
            # In turns, each of them first in as many rounds: what drifts over the run, as what the sidecar has recorded does, is on neither side.
            first = number % len(turns)
            for name in [*turns][first:] + [*turns][:first]:
                with Poller(stage, polled) if name == BESIDE else contextlib.nullcontext() as poller:
                    turns[name].append(measure_traffic(stage, asked))
                tell_phase(number, name, turns[name][-1])
                if poller:
                    tell_answers(number, poller.taken)
                    answers += poller.taken
        print(f"the page answered {len(answers)} times, within {max(took for took, _ in answers):.0f} ms")
        compare(turns.pop("alone"), turns)
    finally:
        stage.stop()


main()
