"""What kubelet does with a pod, as far as its containers notice: order, probes, restarts, volumes, termination.

A pod is a network namespace (held by a process that only waits, as the pause container does) with a veth pair to the node.
A container is a process in it: its own read-only root, the user, the group and no capability that the manifest says.
"""
import http.client, os, pathlib, re, signal, socket, subprocess, threading, time

from volumes import Volumes

ROOT = pathlib.Path(__file__).resolve().parents[2]
NODE = "10.77.0.1"
# Where a user's images would be looked up: what a container runs that names no command.
IMAGES = {}


def run(*command):
    subprocess.run([str(one) for one in command], check=True, capture_output=True)


def dockerfile_settings():
    """ENV and ENTRYPOINT of our image."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    env = dict(pair.split("=", 1) for line in re.findall(r"^ENV (.*)$", text.split("FROM ${RUNTIME}")[1], re.M) for pair in line.split())
    return env, re.search(r'^ENTRYPOINT \["([^"]+)"\]', text, re.M).group(1)


class Container:
    """One container of a pod; `sidecar`: an init container that kubelet keeps running."""

    def __init__(self, pod, spec, sidecar):
        self.pod, self.spec, self.sidecar, self.name = pod, spec, sidecar, spec["name"]
        self.process, self.restarts, self.code = None, 0, None
        self.started, self.ready, self.stopping = threading.Event(), False, False
        self.liveness_failures = 0
        self.log = pod.folder / f"{self.name}.log"
        image_env, command, extra = IMAGES[spec["image"]]
        self.env = {**image_env, **{one["name"]: one.get("value", "") for one in spec.get("env", [])}}
        self.command = (spec.get("command") or command) + spec.get("args", [])
        self.root = pod.make_root(self.name, spec, extra)

    def inside(self, command):
        """`command`, in the pod's namespace and this container's root, without any privilege."""
        context = {**self.pod.spec.get("securityContext", {}), **self.spec.get("securityContext", {})}
        user, group = str(context["runAsUser"]), str(context["runAsGroup"])
        env = [f"{key}={value}" for key, value in {"PATH": "/usr/bin:/bin", "HOSTNAME": self.pod.name, **self.env}.items()]
        return [
            "nsenter", f"--net=/proc/{self.pod.pause.pid}/ns/net", "chroot", str(self.root), "/usr/bin/setpriv",
            "--reuid", user, "--regid", group, "--groups", str(context.get("fsGroup", context["runAsGroup"])), "--no-new-privs",
            "--bounding-set", "-all", "--inh-caps", "-all", "/usr/bin/env", "-i", *env, *command,
        ]

    def start(self):
        self.pod.note(self.name, "started")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.inside(self.command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        threading.Thread(target=self.watch, args=(self.process,), daemon=True).start()
        threading.Thread(target=self.probe, args=(self.process,), daemon=True).start()

    def watch(self, process):
        code = process.wait()
        self.code, self.ready = code, False
        self.pod.note(self.name, f"exited {code}")
        always = self.sidecar or self.pod.spec.get("restartPolicy", "Always") == "Always"
        if always and not self.stopping:
            self.restarts += 1
            self.start()
        self.pod.changed()

    # -- probes

    def port(self, port):
        return port if isinstance(port, int) else next(one["containerPort"] for one in self.spec["ports"] if one["name"] == port)

    def ask(self, probe):
        """One probe: whether it succeeded."""
        patience = probe.get("timeoutSeconds", 1)
        try:
            if "exec" in probe:
                command = self.inside(probe["exec"]["command"])
                return subprocess.run(command, capture_output=True, timeout=patience + 1).returncode == 0
            if "httpGet" in probe:
                connection = http.client.HTTPConnection(self.pod.address, self.port(probe["httpGet"]["port"]), timeout=patience)
                connection.request("GET", probe["httpGet"]["path"], headers={"User-Agent": "kube-probe/1.36"})
                return 200 <= connection.getresponse().status < 400
            socket.create_connection((self.pod.address, self.port(probe["tcpSocket"]["port"])), patience).close()
            return True
        except (OSError, http.client.HTTPException, subprocess.TimeoutExpired):
            return False

    def probe(self, process):
        """Startup until it succeeds, then readiness and liveness side by side, as long as this process runs."""
        startup = self.spec.get("startupProbe")
        failures = 0
        while startup and not self.started.is_set() and process.poll() is None:
            if self.ask(startup):
                break
            failures += 1
            if failures >= startup.get("failureThreshold", 3):
                self.pod.note(self.name, "startup probe failed")
                process.kill()
                return
            process_ended(process, startup.get("periodSeconds", 10))
        if process.poll() is not None:
            return
        self.pod.note(self.name, "started up")
        self.started.set()
        self.pod.changed()
        for kind in ("readinessProbe", "livenessProbe"):
            if kind in self.spec:
                threading.Thread(target=self.repeat, args=(kind, process), daemon=True).start()
        if "readinessProbe" not in self.spec:
            self.ready = True
            self.pod.changed()

    def repeat(self, kind, process):
        probe, failures = self.spec[kind], 0
        # A pod that ends is still asked whether it is ready, but no longer whether it lives.
        while process.poll() is None and not (kind == "livenessProbe" and self.stopping):
            succeeded = self.ask(probe)
            failures = 0 if succeeded else failures + 1
            if kind == "readinessProbe" and (succeeded or failures >= probe.get("failureThreshold", 3)):
                if self.ready != succeeded:
                    self.pod.note(self.name, "ready" if succeeded else "not ready")
                self.ready = succeeded
                self.pod.changed()
            if kind == "livenessProbe" and not succeeded and process.poll() is None and not self.stopping:
                self.liveness_failures += 1
                if failures >= probe.get("failureThreshold", 3):
                    process.terminate()
                    return
            process_ended(process, probe.get("periodSeconds", 10))

    # -- the end

    def terminate(self, deadline):
        """preStop, SIGTERM, and SIGKILL at the deadline."""
        self.stopping = True
        hook = self.spec.get("lifecycle", {}).get("preStop", {})
        if "sleep" in hook:
            process_ended(self.process, hook["sleep"]["seconds"])
        elif "exec" in hook:
            subprocess.run(self.inside(hook["exec"]["command"]), capture_output=True)
        if self.process.poll() is None:
            self.pod.note(self.name, "SIGTERM")
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.pod.note(self.name, "SIGKILL")
            self.process.kill()
            self.process.wait()


def process_ended(process, seconds):
    """Waits for a process, but only so long."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass


class Pod:
    """A pod of `spec` (a template's). `hosts` maps names to addresses, as hostAliases do; `authorities` are the system's."""

    made = 0

    def __init__(self, folder, name, spec, objects, hosts=None, authorities=b""):
        Pod.made += 1
        self.name, self.spec, self.folder = name, spec, pathlib.Path(folder) / name
        self.folder.mkdir()
        self.address = f"10.77.{Pod.made}.2"
        self.hosts, self.authorities = hosts or {}, authorities
        self.events, self.condition, self.mounts = [], threading.Condition(), []
        self.volumes = Volumes(self.folder / "volumes", spec, objects)
        self.pause = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self.make_network()
        sidecars = [Container(self, one, True) for one in spec.get("initContainers", [])]
        self.sidecars, self.applications = sidecars, [Container(self, one, False) for one in spec["containers"]]

    def make_network(self):
        node_link, node_address = f"pod{Pod.made}", f"10.77.{Pod.made}.1"
        own = os.readlink("/proc/self/ns/net")
        self.wait(lambda: os.readlink(f"/proc/{self.pause.pid}/ns/net") != own, 10)
        run("ip", "link", "add", node_link, "type", "veth", "peer", "name", "eth0", "netns", self.pause.pid)
        run("ip", "address", "add", f"{node_address}/24", "dev", node_link)
        run("ip", "link", "set", node_link, "up")
        enter = ["nsenter", f"--net=/proc/{self.pause.pid}/ns/net", "ip"]
        run(*enter, "link", "set", "lo", "up")
        run(*enter, "address", "add", f"{self.address}/24", "dev", "eth0")
        run(*enter, "link", "set", "eth0", "up")
        run(*enter, "route", "add", "default", "via", node_address)

    def make_root(self, name, spec, extra):
        """A root of the machine's programs and libraries, own files in /etc, and the volumes; read-only."""
        root = self.folder / "roots" / name
        root.mkdir(parents=True)
        self.mount("--bind", root, root)
        for top in ("usr", "bin", "sbin", "lib", "lib64"):
            if pathlib.Path("/", top).is_symlink():
                (root / top).symlink_to(os.readlink(f"/{top}"))
        for path in [*(f"/usr/{one}" for one in ("bin", "sbin", "lib", "lib64", "share")), "/dev", "/proc", *extra]:
            source = extra.get(path, path)
            target = root / path.lstrip("/")
            if pathlib.Path(source).is_dir():
                target.mkdir(parents=True, exist_ok=True)
                self.mount("--rbind", source, target)
            elif pathlib.Path(source).exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
                self.mount("--bind", source, target)
        self.write_etc(root / "etc")
        mounts = [(one["mountPath"], self.volumes.paths[one["name"]], one.get("readOnly", False)) for one in spec.get("volumeMounts", [])]
        for path, source, read_only in sorted(mounts):
            target = root / path.lstrip("/")
            target.mkdir(parents=True, exist_ok=True)
            self.mount("--bind", source, target)
            if read_only:
                run("mount", "-o", "remount,bind,ro", target)
        if spec.get("securityContext", {}).get("readOnlyRootFilesystem"):
            run("mount", "-o", "remount,bind,ro", root)
        return root

    def mount(self, how, source, target):
        run("mount", how, source, target)
        self.mounts.append(target)

    def write_etc(self, etc):
        (etc / "ssl/certs").mkdir(parents=True)
        (etc / "passwd").write_text("root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532::/:/sbin/nologin\n")
        (etc / "group").write_text("root:x:0:\nnonroot:x:65532:\n")
        (etc / "nsswitch.conf").write_text("hosts: files dns\n")
        (etc / "resolv.conf").write_text("")
        names = "".join(f"{address} {name}\n" for name, address in self.hosts.items())
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n{names}")
        (etc / "ssl/certs/ca-certificates.crt").write_bytes(self.authorities)
        if os.path.exists("/etc/ld.so.cache"):
            (etc / "ld.so.cache").write_bytes(pathlib.Path("/etc/ld.so.cache").read_bytes())

    # -- what happened

    def note(self, container, what):
        with self.condition:
            self.events.append((container, what))
            self.condition.notify_all()

    def changed(self):
        with self.condition:
            self.condition.notify_all()

    def wait(self, holds, seconds=60):
        """Until `holds()`; asked at every event, and often."""
        deadline = time.monotonic() + seconds
        with self.condition:
            while not holds():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.name}: not within {seconds} s; so far: {self.events}\n{self.tail()}")
                self.condition.wait(0.05)

    def tail(self):
        return "\n".join(f"--- {one.name}\n{one.log.read_text()[-1500:]}" for one in self.containers() if one.log.exists())

    def containers(self):
        return [*getattr(self, "sidecars", []), *getattr(self, "applications", [])]

    def container(self, name):
        return next(one for one in self.containers() if one.name == name)

    def happened(self, *events):
        """Whether these (container, what) happened, in this order."""
        rest = iter(list(self.events))
        return all(any(one == wanted for one in rest) for wanted in events)

    def ready(self):
        return all(one.ready for one in self.containers())

    # -- its life

    def start(self):
        """Native sidecars one after the other, each until it has started up; then the applications."""
        for one in self.sidecars:
            one.start()
            self.wait(one.started.is_set, 90)
        for one in self.applications:
            one.start()

    def delete(self):
        """The applications together, then the sidecars from last to first, all within the grace period."""
        deadline = time.monotonic() + self.spec.get("terminationGracePeriodSeconds", 30)
        for one in self.containers():
            one.stopping = one.sidecar or one.stopping
        self.terminate_all(self.applications, deadline)
        for one in reversed(self.sidecars):
            one.terminate(deadline)

    def finish(self, seconds=60):
        """A Job's pod: its applications end by themselves, then kubelet ends the sidecars."""
        self.wait(lambda: all(one.code is not None for one in self.applications), seconds)
        for one in self.sidecars:
            one.stopping = True
        for one in reversed(self.sidecars):
            one.terminate(time.monotonic() + self.spec.get("terminationGracePeriodSeconds", 30))

    @staticmethod
    def terminate_all(containers, deadline):
        threads = [threading.Thread(target=one.terminate, args=(deadline,)) for one in containers]
        for one in threads:
            one.start()
        for one in threads:
            one.join()

    def remove(self):
        """Ends what still runs, and takes everything down."""
        for one in self.containers():
            one.stopping = True
            if one.process and one.process.poll() is None:
                one.process.kill()
                one.process.wait()
        self.pause.kill()
        self.pause.wait()
        for target in reversed(self.mounts):
            subprocess.run(["umount", "-l", str(target)], capture_output=True)
