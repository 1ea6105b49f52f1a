"""Processes, ports and what the machine is. Which proxy runs with which settings is left to `proxies`."""
import contextlib
import datetime
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import sys
import time

BENCH = pathlib.Path(__file__).resolve().parent.parent
ROOT = BENCH.parent


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def free_ports(count):
    """Many of them, below those that the system gives to connections."""
    found = []
    for port in range(12000, 32000):
        with contextlib.suppress(OSError), socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"only {len(found)} ports are free")


def end_on_signal():
    """A signal to end becomes an exit, so that all that was started ends too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def start(command, log=subprocess.DEVNULL, cores=None, environment=None, **pipes):
    """A process in the background, on these cores."""
    pinned = ["taskset", "-c", cores] if cores else []
    pipes = {"stdin": subprocess.DEVNULL, "stdout": log, **pipes}
    return subprocess.Popen([str(part) for part in [*pinned, *command]], stderr=log, env={**os.environ, **(environment or {})},
                            **pipes)


def stop(process, seconds=30):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_port(port, process, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} has ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args} does not listen")


def process_tree(first):
    """A process and all below it."""
    found, children = [first], {}
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(entry.read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    for one in found:
        found.extend(children.get(one, []))
    return found


def memory_kib(processes, of="Pss"):
    """Their proportional set size; `Pss_Anon` without the pages of the program's file, which the system can drop and share."""
    total = 0
    for process in processes:
        with contextlib.suppress(OSError):
            text = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text()
            total += int(re.search(rf"^{of}:\s+(\d+)", text, re.M)[1])
    return total


def raise_descriptors():
    """As many as the machine lets a process have, for all that is started from here; how many that is."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 17, 1 << 17))
        return 1 << 17
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def steal_ticks():
    """What the host has taken from this machine so far."""
    return int(pathlib.Path("/proc/stat").read_text().split()[8])


def describe():
    """The machine and the day, for a result."""
    cpu = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu[1] if cpu else "unknown", "cores": os.cpu_count(), "kernel": os.uname().release,
    }
