"""The stage of a measurement: certificates, the servers behind, the load generator, and proxies that may stand there at all."""
import json
import os
import re
import subprocess
import time

from . import machine
from .machine import BENCH

# What the backend has to be told of the peer, in whatever field.
IDENTITY = re.compile(r"spiffe://bench\.test/client|CN=client")


class RefusedProxy(Exception):
    """A proxy that does not start, or does not do what is measured."""


class MissingFeature(Exception):
    """What a peer does not do, so that it has no figure of this row."""


class LoadFault(Exception):
    """A run with errors: it is not a figure."""


class Stage:
    """Certificates, a plain and a TLS backend; everything in one folder. `with`: all that was started ends."""

    def __init__(self, folder, load, sidekey, peers, workers=1, pinned=True, patience=30):
        # What is written here are keys.
        os.umask(0o077)
        self.folder, self.load, self.sidekey, self.peers, self.workers = folder, load, sidekey, peers, workers
        self.load_log = folder / "load.log"
        # What a peer may be told to hold: two descriptors for each, and some for the rest.
        self.connections = min(18000, machine.raise_descriptors() // 2 - 500)
        # One worker: the proxy alone on one core, load and backends on another.
        self.proxy_cores, self.load_cores = ("0", "1") if pinned else (None, None)
        self.certs = folder / "certs"
        # Seconds that a proxy may take until it answers.
        self.patience = patience
        self.count, self.running = 0, []
        self.backend, self.tls_backend, self.backend_processes = machine.free_port(), machine.free_port(), ""

    def __enter__(self):
        try:
            self.run_load("certificates", certs=self.certs)
            servers = [self.start_load("serve", "--port", self.backend)]
            servers.append(self.start_load("serve", "--port", self.tls_backend, "--certs", self.certs))
            for port, server in zip((self.backend, self.tls_backend), servers):
                machine.wait_for_port(port, server)
        except BaseException:
            self.__exit__()
            raise
        self.backend_processes = ",".join(str(server.pid) for server in servers)
        return self

    def __exit__(self, *_):
        for process in reversed(self.running):
            machine.stop(process, 5)

    def start_load(self, *arguments, **pipes):
        with self.load_log.open("a") as log:
            process = machine.start([self.load, *arguments], log, self.load_cores, **pipes)
        self.running.append(process)
        return process

    def read_line(self, process):
        """The next line of a load generator that runs."""
        line = process.stdout.readline()
        if not line:
            process.wait()
            raise LoadFault(f"the load generator has ended: {self.load_log.read_text()[-300:]}")
        return json.loads(line)

    def end_load(self, process):
        machine.stop(process, 1)
        self.running.remove(process)

    def run_load(self, command, *arguments, **options):
        """A command of the load generator to its end; the last line that it prints."""
        named = [part for name, value in options.items() for part in (f"--{name}", value)]
        pinned = ["taskset", "-c", self.load_cores] if self.load_cores else []
        whole = [str(part) for part in [*pinned, self.load, command, *arguments, *named]]
        ended = subprocess.run(whole, capture_output=True, text=True, timeout=600)
        if ended.returncode:
            raise LoadFault(f"{command}: {ended.stderr.strip()[-300:]}")
        return json.loads(ended.stdout.splitlines()[-1]) if ended.stdout.strip() else {}

    def target(self, proxy, pair="client"):
        """Where requests to this proxy go, as options."""
        return ["--port", proxy.port] + (["--certs", self.certs, "--pair", pair] if proxy.side == "ingress" else [])

    def measure(self, proxy, command, *arguments):
        """One run of load, with the CPU time of all sides."""
        processes = ",".join(str(pid) for pid in proxy.processes())
        line = self.run_load(command, *arguments, *self.target(proxy), "--proxy", processes, "--backend", self.backend_processes)
        check_line(line)
        return line

    def new_folder(self, name):
        self.count += 1
        folder = self.folder / f"{name}-{self.count}"
        folder.mkdir()
        return folder

    def start_proxy(self, name, side, **settings):
        """A proxy that runs, refuses strangers, and says who the peer is."""
        proxy = Proxy(self, name, side, **settings)
        try:
            proxy.wait()
            faults = self.find_faults(proxy)
            if faults:
                raise RefusedProxy(f"{name} is not measured: {'; '.join(faults)}")
        except Exception as error:
            proxy.stop()
            raise RefusedProxy(f"{error}\n{proxy.last_words()}") from error
        return proxy

    def find_faults(self, proxy):
        """Why this proxy may not be measured; empty where it may. It has to answer a good peer, and no other one."""
        faults = []
        good = self.run_load("try", *self.target(proxy), path="/head")
        if good.get("status") != "200":
            faults.append(f"it does not answer a good certificate: {good}")
        if proxy.side == "egress":
            return faults
        if not IDENTITY.search(good.get("body", "")):
            faults.append("it does not tell the backend who the peer is")
        if not str(good.get("negotiated", "")).startswith("TLSv1_3 TLS13_AES_128_GCM_SHA256 X25519"):
            faults.append(f"it negotiates {good.get('negotiated')}, and others something else")
        for pair, whose in (("none", "no certificate"), ("stranger", "a certificate of another root")):
            bad = self.run_load("try", *self.target(proxy, pair))
            if bad.get("status") == "200":
                faults.append(f"it answers a peer with {whose}")
        return faults


def check_line(line):
    if line.get("failed") or not line.get("done"):
        raise LoadFault(f"{line.get('failed')} errors, {line.get('done')} answers; first: {line.get('first_failure')}")


class Proxy:
    """One proxy that runs, in a folder of its own."""

    def __init__(self, stage, name, side, access_log=False, connections=None, admin=True, program=None):
        self.stage, self.name, self.side = stage, name, side
        self.port, self.folder = machine.free_port(), stage.new_folder(f"{name}-{side}")
        self.admin = machine.free_port() if name == "sidekey" and admin else None
        to = stage.tls_backend if side == "egress" else stage.backend
        environment = {"HOME": str(self.folder), "GOMAXPROCS": str(stage.workers)}
        if name == "sidekey":
            command = [BENCH / "sidekey.sh", side, self.folder, self.port, to, stage.certs, stage.workers]
            environment |= {"SIDEKEY": str(program or stage.sidekey), "SIDEKEY_BENCH_ACCESS": "true" if access_log else "false",
                            "SIDEKEY_BENCH_ADMIN": f"127.0.0.1:{self.admin}" if admin else "",
                            "SIDEKEY_BENCH_CONNECTIONS": str(connections or "")}
        elif name == "open-door":
            # What must be refused: it lets each peer through. For the smoke run.
            command = [stage.load, "serve", "--admit-all", "--port", self.port, "--certs", stage.certs]
        else:
            template = next(BENCH.glob(f"peers/{name}.{side}.*"))
            values = {"PORT": self.port, "TO": to, "RUN": self.folder, "CERTS": stage.certs, "WORKERS": stage.workers,
                      "CONNECTIONS": stage.connections}
            config = self.folder / template.name
            config.write_text(re.sub("@([A-Z]+)@", lambda found: str(values[found[1]]), template.read_text()))
            program = stage.peers[name]
            command = {
                "nginx": [program, "-e", self.folder / "start.log", "-p", self.folder, "-c", config],
                "haproxy": [program, "-db", "-f", config],
                "envoy": [program, "-c", config, "--concurrency", stage.workers, "--disable-hot-restart", "-l", "error"],
                "caddy": [program, "run", "--adapter", "caddyfile", "--config", config],
            }[name]
        with (self.folder / "log").open("w") as log:
            self.process = machine.start(command, log, stage.proxy_cores, environment)
        stage.running.append(self.process)

    def wait(self):
        """Until it answers, or for as long as the stage has patience."""
        deadline = time.monotonic() + self.stage.patience
        machine.wait_for_port(self.port, self.process, self.stage.patience)
        while time.monotonic() < deadline:
            if self.stage.run_load("try", *self.stage.target(self)).get("status") == "200":
                return
            time.sleep(0.05)

    def processes(self):
        return machine.process_tree(self.process.pid)

    def memory_kib(self, of="Pss"):
        return machine.memory_kib(self.processes(), of)

    def last_words(self):
        return (self.folder / "log").read_text(errors="replace")[-1500:]

    def stop(self):
        machine.stop(self.process)
        self.stage.running.remove(self.process)
