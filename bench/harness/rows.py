"""What is measured: each measurement with its load, and the rows of the table that come of it."""
import dataclasses
import subprocess
import time

from .stage import MissingFeature

MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table; less is better in all of them."""
    title: str
    unit: str
    figure: object


def cpu_per_request(line):
    return line["cpu"]["proxy"] / line["done"] * 1e6


def cpu_per_gib(line):
    return line["cpu"]["proxy"] / (line["done"] * MIB) * (1 << 30)


def latency(key):
    return lambda line: line["latency_us"][key]


def load(command, *arguments):
    """Load as the options say, on a proxy that has just been started."""
    def measure(stage, proxy, options):
        work = [str(options.rate) if part == "RATE" else part for part in arguments]
        return stage.measure(proxy, command, *work, "--warm", options.warm, "--seconds", options.seconds)
    return measure


def resumed(stage, proxy, options):
    line = load("handshakes", "--connections", 16, "--resume")(stage, proxy, options)
    if line["resumed"] == 0 and proxy.name != "sidekey":
        raise MissingFeature("it resumes no session")
    if line["resumed"] < 0.99 * line["done"]:
        raise RuntimeError(f"only {line['resumed']} of {line['done']} sessions were resumed")
    return line


def start_memory(stage, proxy, options):
    """A second after the start and the few connections that the checks of the stage have made."""
    time.sleep(1.0)
    return {"kib": proxy.memory_kib(), "own_kib": proxy.memory_kib("Pss_Anon")}


def idle(protocol):
    """What connections cost that wait: the memory that they add, and whether they are still there after it."""
    def measure(stage, proxy, options):
        # The first connections bring what is only needed once.
        stage.measure(proxy, "requests", "--connections", 16, "--seconds", 0.3, "--protocol", protocol)
        time.sleep(options.quiet)
        before = proxy.memory_kib()
        with Held(stage, proxy, options.idle, protocol) as held:
            time.sleep(options.quiet)
            after = proxy.memory_kib()
            held.release()
        return {"kib_per_connection": (after - before) / options.idle, "connections": options.idle}
    return measure


class Held:
    """Connections that are held open."""

    def __init__(self, stage, proxy, count, protocol="h1"):
        self.stage = stage
        self.process = stage.start_load("hold", "--connections", count, "--protocol", protocol, *stage.target(proxy),
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = stage.read_line(self.process)
        if line.get("open") != count:
            raise RuntimeError(f"{count} connections could not be opened: {line}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stage.end_load(self.process)

    def release(self):
        """Sends one more request on each; those that are gone are an error."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.stage.read_line(self.process)
        if line.get("lost") != 0:
            raise RuntimeError(f"connections were lost while they were idle: {line}")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One run against one proxy, and what is read from it."""
    rows: dict
    run: object
    side: str = "ingress"
    settings: dict = dataclasses.field(default_factory=dict)
    only_sidekey: bool = False
    each_round: bool = True


CPU = "µs CPU a request"
MEASUREMENTS = {
    "h1": Measurement({"h1": Row("HTTP/1.1, 128 B, 64 connections", CPU, cpu_per_request)},
                      load("requests", "--connections", 64)),
    "access": Measurement({"access": Row("the same with the access log", CPU, cpu_per_request)},
                          load("requests", "--connections", 64), settings={"access_log": True}, only_sidekey=True),
    "h2": Measurement({"h2": Row("HTTP/2, 128 B, 8 × 8 streams", CPU, cpu_per_request)},
                      load("requests", "--protocol", "h2", "--connections", 8, "--streams", 8)),
    "full": Measurement({"full": Row("full TLS 1.3 handshake and a request", CPU, cpu_per_request)},
                        load("handshakes", "--connections", 16)),
    "resumed": Measurement({"resumed": Row("resumed handshake and a request", CPU, cpu_per_request)}, resumed),
    "download": Measurement({"download": Row("responses of 1 MiB", "CPU s a GiB", cpu_per_gib)},
                            load("requests", "--connections", 4, "--download", MIB)),
    "upload": Measurement({"upload": Row("requests of 1 MiB", "CPU s a GiB", cpu_per_gib)},
                          load("requests", "--connections", 4, "--upload", MIB)),
    "egress": Measurement({"egress": Row("egress, HTTP/1.1, 64 connections", CPU, cpu_per_request)},
                          load("requests", "--connections", 64), side="egress"),
    "latency": Measurement({"p50": Row("fixed rate: median", "µs", latency("p50")),
                            "p99": Row("fixed rate: p99", "µs", latency("p99")),
                            "p999": Row("fixed rate: p99.9", "µs", latency("p999"))},
                           load("requests", "--connections", 32, "--rate", "RATE")),
    "idle-h1": Measurement({"idle-h1": Row("idle mTLS connection, HTTP/1.1", "KiB PSS", lambda line: line["kib_per_connection"])},
                           idle("h1"), each_round=False),
    "idle-h2": Measurement({"idle-h2": Row("idle mTLS connection, HTTP/2", "KiB PSS", lambda line: line["kib_per_connection"])},
                           idle("h2"), each_round=False),
    "start": Measurement({"start": Row("memory after the start", "MiB PSS", lambda line: line["kib"] / 1024),
                          "start-own": Row("of it not of the program's file", "MiB PSS", lambda line: line["own_kib"] / 1024)},
                         start_memory, each_round=False),
}
ROWS = {key: row for measurement in MEASUREMENTS.values() for key, row in measurement.rows.items()}
