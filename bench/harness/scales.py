"""The scale checks, one function each: prints what it found, and returns it."""
import os
import pathlib
import re
import resource
import statistics
import subprocess
import time
import urllib.error
import urllib.request

from . import machine
from .rows import Held, cpu_per_request
from .stage import check_line


def show(text):
    print(f"  {text}", flush=True)


def ask_admin(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
        return response.read().decode()


def rotations_done(port):
    return sum(float(value) for value in re.findall(r'^sidekey_rotations_total\{[^}]*outcome="done"[^}]*\} (\S+)$',
                                                    ask_admin(port, "/metrics"), re.M))


def connections(stage, options):
    """CPU a request at a fixed rate, every connection in its turn, and memory a connection that waits."""
    # A connection may need one descriptor for the peer and one for the backend, and the process some more (src/dataplane).
    most = min(options.connections, (options.descriptors - 128) // 2 - 100)
    if most < options.connections:
        show(f"a process may have {options.descriptors} descriptors here, so {most} connections are the most, not {options.connections}")
    found = []
    for count in sorted({min(step, most) for step in (100, 1000, 5000, 10000, 20000)}):
        proxy = stage.start_proxy("sidekey", "ingress", connections=most + 100)
        stage.measure(proxy, "requests", "--connections", 16, "--seconds", 0.3)
        time.sleep(2)
        before = proxy.memory_kib()
        with GatedLoad(stage, proxy, options, count) as load:
            time.sleep(3)
            memory = (proxy.memory_kib() - before) / count
            load.go()
            line = load.finish()
        proxy.stop()
        found.append({"connections": count, "cpu_us": cpu_per_request(line), "kib": memory, "latency_us": line["latency_us"],
                      "cpu": line["cpu"]})
        show(f"{count:6} connections: {found[-1]['cpu_us']:6.1f} µs CPU a request at {options.rate}/s, {memory:5.1f} KiB PSS each, "
             f"p50 {line['latency_us']['p50']} µs, p99 {line['latency_us']['p99']} µs")
    share = found[-1]["cpu_us"] / found[0]["cpu_us"]
    show(f"CPU a request with {found[-1]['connections']} connections ÷ with {found[0]['connections']}: {share:.2f}")
    return found


class GatedLoad:
    """Requests at a fixed rate by a load generator that waits, once all connections are open, until it is told to go."""

    def __init__(self, stage, proxy, options, count, *more, seconds=None):
        self.stage = stage
        processes = ",".join(str(pid) for pid in proxy.processes())
        arguments = ["--connections", count, "--rate", options.rate, "--seconds", seconds or options.seconds, "--gate",
                     "--warm", 1, "--proxy", processes, "--backend", stage.backend_processes, *more, *stage.target(proxy)]
        self.process = stage.start_load("requests", *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.open = stage.read_line(self.process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stage.end_load(self.process)

    def go(self):
        """Begins; returns once what is sent counts."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.stage.read_line(self.process)

    def finish(self):
        """Waits for the figures."""
        line = self.stage.read_line(self.process)
        check_line(line)
        return line


def rotation(stage, options):
    """Latency by the second: before, while and after the keyring rotates."""
    most = min(10000, options.connections, (options.descriptors - 128) // 2 - 200)
    found = {}
    for name, held, rotations in (("one rotation", most, 1), ("a rotation every second", 0, 8)):
        pairs = stage.new_folder("pairs")
        stage.run_load("server-pairs", certs=stage.certs, out=pairs, count=rotations)
        proxy = stage.start_proxy("sidekey", "ingress", connections=most + 200)
        opened = Held(stage, proxy, held) if held else None
        # Slices of half a second. A pair acts 200 ms after it was dropped: two seconds tell what one rotation does.
        before, already = 8, rotations_done(proxy.admin)
        with GatedLoad(stage, proxy, options, 64, "--slice", 500, seconds=before + max(rotations, 2)) as load:
            load.go()
            begin = time.monotonic()
            for number in range(rotations):
                time.sleep(max(0, begin + before + number - time.monotonic()))
                os.rename(pairs / f"pair-{number:04}.pem", proxy.folder / f"certs/in/pair-{number:04}.pem")
            line = load.finish()
        done = rotations_done(proxy.admin) - already
        if opened:
            opened.release()
            opened.__exit__()
        proxy.stop()
        slices = [part["p99"] for part in line["slices"]]
        calm, during = slices[2:before * 2], slices[before * 2:]
        found[name] = {"held": held, "rotations": done, "p99_before_us": calm, "p99_during_us": during, "redialled": line["redialled"]}
        show(f"{name}, {held} idle connections open beside 64 that carry {options.rate} requests/s: p99 of half seconds before "
             f"{min(calm)} to {max(calm)} µs (median {statistics.median(calm):.0f}), during {during} µs (median "
             f"{statistics.median(during):.0f}): × {statistics.median(during) / statistics.median(calm):.2f}, worst × "
             f"{max(during) / statistics.median(calm):.2f}; {done:.0f} rotations, no request lost")
        if done < rotations:
            raise RuntimeError(f"{rotations} pairs were dropped and {done:.0f} rotations seen")
    return found


def listeners(stage, options):
    """Time of `sidekey check`, and from the start until every listener is ready."""
    folder, count = stage.new_folder("listeners"), options.listeners
    stage.run_load("keyrings", certs=stage.certs, out=folder / "certs", count=count)
    admin, ports = machine.free_port(), machine.free_ports(count)
    parts = [f'certs = "certs"\nstate = "state"\nworkers = 1\n[admin]\nlisten = "127.0.0.1:{admin}"\n']
    parts += [f'[[ingress]]\nname = "i{number:04}"\nkeyrings = ["k{number:04}"]\nlisten = "127.0.0.1:{port}"\n'
              f'backend = "http://127.0.0.1:{stage.backend}"\n' for number, port in enumerate(ports)]
    config = folder / "sidekey.toml"
    config.write_text("\n".join(parts))
    checks, spent = [], []
    for _ in range(3):
        begin, used = time.monotonic(), child_seconds()
        ended = subprocess.run([stage.sidekey, "check", "--config", config], capture_output=True, text=True, cwd=folder)
        checks.append(time.monotonic() - begin)
        spent.append(child_seconds() - used)
        if ended.returncode:
            raise RuntimeError(f"check: {ended.stderr[-500:] or ended.stdout[-500:]}")
    starts = [start_until_ready(stage, folder, config, admin) for _ in range(3)]
    ready, cpu, memory = (min(values) for values in zip(*starts))
    show(f"{count} listeners, each with its keyring, best of 3: check {min(checks):.2f} s ({min(spent):.2f} s CPU), from start until "
         f"ready {ready:.2f} s ({cpu:.2f} s CPU), then {memory / 1024:.1f} MiB PSS")
    return {"listeners": count, "check_s": checks, "check_cpu_s": spent, "starts_s_cpu_kib": starts}


def child_seconds():
    """CPU time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def start_until_ready(stage, folder, config, admin):
    """Seconds, and CPU seconds, until every listener is ready; and the memory after that, in KiB."""
    with (folder / "log").open("w") as log:
        begin = time.monotonic()
        process = machine.start([stage.sidekey, "run", "--config", config], log, stage.proxy_cores)
        stage.running.append(process)
        while process.poll() is None and time.monotonic() - begin < 60:
            try:
                ask_admin(admin, "/readyz")
                break
            except (OSError, urllib.error.URLError):
                time.sleep(0.005)
        seconds = time.monotonic() - begin
    if process.poll() is not None:
        raise RuntimeError(f"Sidekey has ended: {(folder / 'log').read_text()[-500:]}")
    memory, used = machine.memory_kib([process.pid]), cpu_seconds(process.pid)
    machine.stop(process)
    stage.running.remove(process)
    return seconds, used, memory


def cpu_seconds(process):
    fields = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def workers(stage, options):
    """One worker and two: what the proxy spends a request, and whether both workers do it."""
    cores, found = os.cpu_count() or 1, {}
    roomy = cores >= 4
    for count in (1, 2):
        stage.workers = count
        # With four cores the proxy has as many as it has workers, and the load the others.
        stage.proxy_cores = ",".join(str(core) for core in range(count)) if roomy else None
        stage.load_cores = f"2-{cores - 1}" if roomy else None
        rounds = []
        for _ in range(3):
            proxy = stage.start_proxy("sidekey", "ingress")
            rounds.append(stage.measure(proxy, "requests", "--connections", 64, "--warm", 1, "--seconds", options.seconds))
            proxy.stop()
        line = sorted(rounds, key=cpu_per_request)[1]
        busy = sorted((seconds for _, seconds in line["cpu"]["threads"]), reverse=True)[:count]
        found[count] = {"cpu_us": cpu_per_request(line), "per_second": line["done"] / line["cpu"]["seconds"],
                        "balance": sum(busy) / count / busy[0], "cpu": line["cpu"]}
        show(f"{count} worker{'s' if count > 1 else ''}: {found[count]['per_second']:.0f} requests/s, {found[count]['cpu_us']:.1f} µs CPU "
             f"a request, the busiest worker has {busy[0] / sum(busy):.0%} of the work")
    speedup = found[2]["per_second"] / found[1]["per_second"]
    capacity = 2 * found[1]["cpu_us"] / found[2]["cpu_us"] * found[2]["balance"]
    limit = "measured" if roomy else f"limited by the load generator and the backend, which need the same {cores} cores"
    show(f"throughput of two ÷ one: {speedup:.2f} ({limit}); by CPU a request and balance two workers carry {capacity:.2f} times one's")
    return {**found, "throughput_ratio": speedup, "capacity_ratio": capacity, "cores": cores}


def peers(stage, options):
    """Handshakes of peers that are all different: the caches and tables that know peers are bounded, so memory settles."""
    proxy, found = stage.start_proxy("sidekey", "ingress"), []
    steps = 4
    for step in range(steps + 1):
        if step:
            line = stage.run_load("handshakes", "--distinct", "--connections", 16, *stage.target(proxy), "--count", options.peers // steps)
            check_line(line)
            time.sleep(3)
        found.append({"peers": step * options.peers // steps, "kib": proxy.memory_kib()})
        show(f"{found[-1]['peers']:6} different peers: {found[-1]['kib'] / 1024:6.1f} MiB PSS")
    growth = [later["kib"] - earlier["kib"] for earlier, later in zip(found, found[1:])]
    show(f"each quarter adds {', '.join(f'{kib / 1024:.1f}' for kib in growth)} MiB")
    proxy.stop()
    return found


SCALES = {"connections": connections, "rotation": rotation, "listeners": listeners, "workers": workers, "peers": peers}
