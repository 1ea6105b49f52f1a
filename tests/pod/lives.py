"""Plays pods' lives through for tests/pod/run: start order, probes, load balancers, rotation, crash, termination, Jobs.

Each life is a function; its docstring says what must hold. They use the manifests of deploy/kubernetes as kustomize renders
them. One line a life, then `N passed, M failed, K skipped`; exit 1 if one failed.
"""
import argparse, copy, datetime, http.client, http.server, json, os, pathlib, socket, ssl, struct, subprocess, sys, tempfile, threading, time, traceback

import yaml

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
from kubelet import IMAGES, NODE, ROOT, Pod, dockerfile_settings, run
from load import Load
from pki import CLIENT, SERVER, Authority, days_ago

NAME = "example-api.default.svc"


class Cluster:
    """The objects, the authorities and the node of one run."""

    def __init__(self, folder, sidekey):
        self.folder, self.pods = pathlib.Path(folder), []
        self.authority, self.partner = Authority("Partners CA"), Authority("Public CA")
        self.issued = 0
        env, entry = dockerfile_settings()
        program = str(pathlib.Path(__file__).with_name("application.py"))
        mine = {"/usr/local/bin/sidekey": str(pathlib.Path(sidekey).resolve())}
        application = {"/app/application.py": program, **mine}
        IMAGES["sidekey"] = (env, [entry], mine)
        IMAGES["example-api"] = ({}, ["/usr/bin/python3", "/app/application.py"], application)
        IMAGES["nightly-sync"] = ({}, ["/usr/bin/python3", "/app/application.py", "work", "0"], application)
        certificate, key = self.authority.issue("peer", days_ago(1), CLIENT, ["peer.example"])
        (self.folder / "peer.pem").write_bytes(certificate + key)
        (self.folder / "ca.pem").write_bytes(self.authority.pem)
        run("ip", "link", "set", "lo", "up")
        run("ip", "address", "add", f"{NODE}/32", "dev", "lo")

    def pair(self):
        """The next key pair of the API, as a Secret's data."""
        self.issued += 1
        # Ascending, an hour apart, all in the past: each is newer than the one before.
        born = days_ago(20) + datetime.timedelta(hours=self.issued)
        certificate, key = self.authority.issue(NAME, born, SERVER, [NAME])
        return {"tls.crt": certificate, "tls.key": key, "ca.crt": self.authority.pem}

    def rendered(self, folder, *components):
        with tempfile.TemporaryDirectory(dir=ROOT / "deploy/kubernetes") as own:
            text = {"resources": [f"../{folder}"], "components": [f"../components/{one}" for one in components]}
            pathlib.Path(own, "kustomization.yaml").write_text(yaml.safe_dump(text))
            done = subprocess.run(["kubectl", "kustomize", own], capture_output=True, text=True, check=True)
        return list(yaml.safe_load_all(done.stdout))

    def pod(self, name, resources, secrets, change=None, **options):
        """A pod of the one workload among `resources`; `change` may rewrite its spec."""
        spec = next(one for one in resources if one["kind"] in ("Deployment", "Job"))["spec"]["template"]["spec"]
        spec = copy.deepcopy(spec)
        if change:
            change(spec)
        objects = {("ConfigMap", one["metadata"]["name"]): {k: v.encode() for k, v in one["data"].items()} for one in resources if one["kind"] == "ConfigMap"}
        objects.update({("Secret", key): value for key, value in secrets.items()})
        pod = Pod(self.folder, name, spec, objects, **options)
        self.pods.append(pod)
        return pod

    def api(self, name, change=None, secret=None, components=()):
        return self.pod(name, self.rendered("base", *components), {"api-tls": self.pair() if secret is None else secret}, change)

    def context(self):
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        context.load_cert_chain(self.folder / "peer.pem")
        return context

    def load(self, pod, **options):
        return Load((pod.address, 8443), NAME, self.context(), **options).start()

    def get(self, pod, path="/", timeout=30):
        one = Load((pod.address, 8443), NAME, self.context())
        connection = one.connect()
        connection.sock.settimeout(timeout)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def fetch(pod, path):
    connection = http.client.HTTPConnection(pod.address, 9901, timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def metric(pod, name, **labels):
    """The sum of a metric's samples that have these labels."""
    total = 0.0
    for line in fetch(pod, "/metrics")[1].splitlines():
        if line.startswith(name) and all(f'{key}="{value}"' in line for key, value in labels.items()):
            total += float(line.rsplit(" ", 1)[1])
    return total


def plain_containers(*order):
    """The same containers without native sidecars, as before Kubernetes 1.29: in this order, ended all at once."""

    def change(spec):
        every = {one["name"]: one for one in spec.pop("initContainers") + spec["containers"]}
        every["sidekey"].pop("restartPolicy", None)
        spec["containers"] = [every[name] for name in order]

    return change


def expect(holds, what):
    if not holds:
        raise AssertionError(what)


def lines(pod):
    """What the sidecar has logged."""
    return [json.loads(line) for line in pod.container("sidekey").log.read_text().splitlines() if line.startswith("{")]


def undisturbed(pod):
    sidecar = pod.container("sidekey")
    expect(sidecar.restarts == 0, f"the sidecar was restarted {sidecar.restarts} times")
    expect(sidecar.liveness_failures == 0, f"{sidecar.liveness_failures} liveness probes failed")


# ---------------------------------------------------------------- lives of a Deployment's pod


def native_sidecar_starts_before_the_application(cluster):
    """The application starts when the sidecar has started up; then the pod becomes ready and answers a peer by name."""
    pod = cluster.api("native")
    pod.start()
    pod.wait(pod.ready)
    expect(pod.happened(("sidekey", "started"), ("sidekey", "started up"), ("api", "started")), pod.events)
    expect(cluster.get(pod) == (200, "hello dns:peer.example\n"), cluster.get(pod))
    undisturbed(pod)
    warnings = [line for line in lines(pod) if line["level"] not in ("info", "debug")]
    expect(warnings == [], warnings)


def sidecar_waits_for_its_key_pair(cluster):
    """An empty Secret: alive, not ready, and the application starts; ready when the Secret is filled, without a restart."""
    pod = cluster.api("late", secret={})
    pod.start()
    pod.wait(lambda: pod.container("api").process is not None)
    expect(fetch(pod, "/livez")[0] == 200, "not alive")
    expect(fetch(pod, "/readyz")[0] == 503 and not pod.ready(), "ready without a key pair")
    pod.volumes.objects[("Secret", "api-tls")] = cluster.pair()
    pod.volumes.update()
    pod.wait(pod.ready)
    expect(cluster.get(pod)[0] == 200, cluster.get(pod))
    undisturbed(pod)


def trust_is_projected_beside_the_pair(cluster):
    """components/trust-bundle: the pair from a Secret, the peers' CA from a ConfigMap, in one folder."""
    pair = cluster.pair()
    del pair["ca.crt"]
    pod = cluster.api("projected", secret=pair, components=["trust-bundle"])
    pod.volumes.objects[("ConfigMap", "partner-cas")] = {"ca-bundle.crt": cluster.authority.pem}
    pod.volumes.update()
    pod.start()
    pod.wait(pod.ready)
    expect(cluster.get(pod)[0] == 200, cluster.get(pod))


def previous_pair_comes_from_a_second_secret(cluster):
    """components/previous-pair: a pod that has never seen the rotation holds both pairs."""
    previous, current = cluster.pair(), cluster.pair()
    del previous["ca.crt"]
    secrets = {"api-tls": current, "api-tls-previous": previous}
    pod = cluster.pod("previous", cluster.rendered("base", "previous-pair"), secrets)
    pod.start()
    pod.wait(pod.ready)
    expect(standings(pod) == ["current", "previous"], standings(pod))
    expect(cluster.get(pod)[0] == 200, cluster.get(pod))


def application_starts_first(cluster):
    """Plain containers, the application first: the sidecar finds it there."""
    pod = cluster.api("api-first", plain_containers("api", "sidekey"))
    pod.applications[0].start()
    pod.wait(lambda: connects_inside(pod, 8080))
    pod.applications[1].start()
    pod.wait(pod.ready)
    expect(cluster.get(pod)[0] == 200, cluster.get(pod))


def sidecar_starts_first(cluster):
    """Plain containers, the sidecar first: ready by its own key pair; 502, and the pod not ready, until the application listens."""
    pod = cluster.api("sidecar-first", plain_containers("sidekey", "api"))
    pod.applications[0].start()
    pod.wait(lambda: pod.applications[0].ready)
    expect(cluster.get(pod)[0] == 502 and not pod.ready(), cluster.get(pod))
    pod.applications[1].start()
    pod.wait(pod.ready)
    expect(cluster.get(pod)[0] == 200, cluster.get(pod))
    undisturbed(pod)


def connects_inside(pod, port):
    test = f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)"
    command = ["nsenter", f"--net=/proc/{pod.pause.pid}/ns/net", "/usr/bin/python3", "-c", test]
    return subprocess.run(command, capture_output=True).returncode == 0


def only_the_ports_of_the_policy_are_reachable(cluster):
    """The application's port is refused from outside; what listens beyond loopback is what the NetworkPolicy admits."""
    pod = cluster.api("ports")
    pod.start()
    pod.wait(pod.ready)
    try:
        socket.create_connection((pod.address, 8080), 5).close()
        raise AssertionError("the application's port is open to the node")
    except ConnectionRefusedError:
        pass
    resources = cluster.rendered("base")
    policy = next(one for one in resources if one["kind"] == "NetworkPolicy")["spec"]
    ports = {one["name"]: one["containerPort"] for one in pod.container("sidekey").spec["ports"]}
    admitted = {ports.get(one["port"], one["port"]) for rule in policy["ingress"] for one in rule["ports"]}
    expect(policy["policyTypes"] == ["Ingress"] and listening_beyond_loopback(pod) == admitted, (listening_beyond_loopback(pod), admitted))


def listening_beyond_loopback(pod):
    found = set()
    for table, loopback in (("tcp", "0100007F"), ("tcp6", "00000000000000000000000001000000")):
        for line in pathlib.Path(f"/proc/{pod.pause.pid}/net/{table}").read_text().splitlines()[1:]:
            address, port = line.split()[1].split(":")
            if line.split()[3] == "0A" and address != loopback:
                found.add(int(port, 16))
    return found


def health_checks_of_a_load_balancer_disturb_nothing(cluster):
    """Two hundred TCP connections that close or reset without a byte, under load: counted, not logged, nothing lost."""
    pod = cluster.api("balancer")
    pod.start()
    pod.wait(pod.ready)
    load = cluster.load(pod, kept=1, fresh=1)
    for number in range(200):
        with socket.create_connection((pod.address, 8443), 5) as one:
            if number % 2:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pod.wait(lambda: metric(pod, "sidekey_handshakes_total", reason="closed_without_byte") >= 200)
    expect(load.stop() == [], load.failed[:3])
    failures = [line for line in lines(pod) if line.get("target") == "handshake" and line.get("outcome") != "accepted"]
    expect(failures == [], failures[:2])
    undisturbed(pod)


def rotation_by_kubelet_loses_nothing(cluster):
    """The Secret is renewed three times under load: every new pair is shown, no request fails."""
    pod = cluster.api("rotation")
    pod.start()
    pod.wait(pod.ready)
    load = cluster.load(pod)
    for number in range(3):
        pod.wait(lambda: len(load.shown) == number + 1)
        pod.volumes.objects[("Secret", "api-tls")] = cluster.pair()
        pod.volumes.update()
    pod.wait(lambda: len(load.shown) == 4)
    expect(load.stop() == [] and load.answered > 20, (load.answered, load.failed[:3]))
    undisturbed(pod)


def killed_sidecar_comes_back_with_its_overlap(cluster):
    """SIGKILL after a rotation: kubelet starts it again, the application stays, and the previous pair is still previous."""
    pod = cluster.api("killed")
    pod.start()
    pod.wait(pod.ready)
    pod.volumes.objects[("Secret", "api-tls")] = cluster.pair()
    pod.volumes.update()
    pod.wait(lambda: standings(pod) == ["current", "previous"])
    sidecar = pod.container("sidekey")
    sidecar.process.kill()
    pod.wait(lambda: sidecar.restarts == 1 and pod.ready())
    expect(standings(pod) == ["current", "previous"], standings(pod))
    expect(cluster.get(pod)[0] == 200 and pod.container("api").restarts == 0, pod.events)


def standings(pod):
    sidecar = pod.container("sidekey")
    done = subprocess.run(sidecar.inside(["/usr/local/bin/sidekey", "keyring", "list", "--json"]), capture_output=True, text=True)
    found = []

    def walk(value):
        if isinstance(value, dict):
            if isinstance(value.get("standing"), str):
                found.append(value["standing"])
            value = list(value.values())
        for one in value if isinstance(value, list) else []:
            walk(one)

    walk(json.loads(done.stdout or "[]"))
    return sorted(found)


def deleted_pod_answers_what_runs_and_what_still_comes(cluster):
    """Deletion under load, and peers that notice it only 3 s later: nothing is lost, the application ends first, both with 0."""
    pod = cluster.api("deleted")
    pod.start()
    pod.wait(pod.ready)
    delete_under_load(cluster, pod)
    expect(pod.happened(("api", "SIGTERM"), ("api", "exited 0"), ("sidekey", "SIGTERM"), ("sidekey", "exited 0")), pod.events)


def plain_sidecar_drains_while_the_application_stays(cluster):
    """Plain containers, ended at once: the sidecar answers until it has drained; the application, as kubelet's preStop has it, ends later."""
    pod = cluster.api("drained", plain_containers("sidekey", "api"))
    pod.spec["containers"][1]["lifecycle"] = {"preStop": {"sleep": {"seconds": 12}}}
    pod.start()
    pod.wait(pod.ready)
    delete_under_load(cluster, pod)
    expect(pod.happened(("sidekey", "SIGTERM"), ("sidekey", "exited 0"), ("api", "SIGTERM"), ("api", "exited 0")), pod.events)


def delete_under_load(cluster, pod):
    load, slow = cluster.load(pod), []
    pod.wait(lambda: load.answered > 20)
    request = threading.Thread(target=lambda: slow.append(cluster.get(pod, "/slow/6")))
    request.start()
    pod.wait(lambda: "slow request" in pod.container("api").log.read_text())
    deletion = threading.Thread(target=pod.delete)
    deletion.start()
    # The endpoint is taken out of every node's tables only some time after the deletion.
    deletion.join(3)
    failed = load.stop()
    deletion.join()
    request.join()
    expect(failed == [], failed[:3])
    expect(slow and slow[0][0] == 200, f"the request that ran: {slow}")


# ---------------------------------------------------------------- lives of a Job's pod


class Partner:
    """An upstream at the node's address: mutual TLS, with a certificate of an authority that the system trusts."""

    def __init__(self, cluster):
        certificate, key = cluster.partner.issue("partner", days_ago(1), SERVER, ["api.partner.example"])
        (cluster.folder / "partner.pem").write_bytes(certificate + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cluster.folder / "partner.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cluster.folder / "ca.pem")

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((NODE, 443), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None
        plain = self.server.get_request

        def accept():
            stream, address = plain()
            return context.wrap_socket(stream, server_side=True, do_handshake_on_connect=False), address

        self.server.get_request = accept
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def job(cluster, name, change=None):
    certificate, key = cluster.authority.issue("sync", days_ago(1), CLIENT, ["sync.example"])
    secrets = {"partner-tls": {"tls.crt": certificate, "tls.key": key}}
    options = {"hosts": {"api.partner.example": NODE}, "authorities": cluster.partner.pem}
    return cluster.pod(name, cluster.rendered("job"), secrets, change, **options)


def job_ends_when_its_work_has_ended(cluster):
    """The work starts when the egress listens, calls the partner, exits with 0; then the sidecar gets SIGTERM and exits with 0."""
    pod = job(cluster, "job")
    pod.start()
    pod.finish()
    expect(pod.happened(("sidekey", "started up"), ("sync", "started"), ("sync", "exited 0"), ("sidekey", "SIGTERM"), ("sidekey", "exited 0")), pod.events)


def job_that_fails_says_so(cluster):
    """The work's exit code is the Job's: the sidecar ends with 0 all the same."""

    def change(spec):
        spec["containers"][0]["command"] = ["/usr/bin/python3", "/app/application.py", "work", "3"]

    pod = job(cluster, "job-fails", change)
    pod.start()
    pod.finish()
    expect(pod.happened(("sync", "exited 3"), ("sidekey", "exited 0")), pod.events)


def job_of_plain_containers_stops_its_sidecar(cluster):
    """Both are plain containers that share the control socket's folder: the work ends the sidecar with `sidekey stop`."""

    def change(spec):
        plain_containers("sidekey", "sync")(spec)
        spec["volumes"].append({"name": "control", "emptyDir": {}})
        for one in spec["containers"]:
            one.setdefault("volumeMounts", []).append({"name": "control", "mountPath": "/run/sidekey"})
            one.setdefault("env", []).append({"name": "SIDEKEY_CONTROL", "value": "/run/sidekey/control.sock"})
        work = next(one for one in spec["containers"] if one["name"] == "sync")
        work["env"].append({"name": "SIDEKEY_PROBES", "value": "127.0.0.1:9901"})
        work["command"] = ["/usr/bin/python3", "/app/application.py", "stop", "0"]

    pod = job(cluster, "job-stop", change)
    pod.start()
    pod.wait(lambda: all(one.code is not None for one in pod.applications))
    expect(sorted(one.code for one in pod.applications) == [0, 0], pod.tail())
    expect(("sidekey", "SIGTERM") not in pod.events, pod.events)


LIVES = [
    native_sidecar_starts_before_the_application,
    sidecar_waits_for_its_key_pair,
    trust_is_projected_beside_the_pair,
    previous_pair_comes_from_a_second_secret,
    application_starts_first,
    sidecar_starts_first,
    only_the_ports_of_the_policy_are_reachable,
    health_checks_of_a_load_balancer_disturb_nothing,
    rotation_by_kubelet_loses_nothing,
    killed_sidecar_comes_back_with_its_overlap,
    deleted_pod_answers_what_runs_and_what_still_comes,
    plain_sidecar_drains_while_the_application_stays,
    job_ends_when_its_work_has_ended,
    job_that_fails_says_so,
    job_of_plain_containers_stops_its_sidecar,
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sidekey", required=True)
    parser.add_argument("names", nargs="*", help="only lives that have one of these in their names")
    arguments = parser.parse_args()
    chosen = [one for one in LIVES if not arguments.names or any(name in one.__name__ for name in arguments.names)]
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="sidekey-pod.") as folder:
        # The pods' users must be able to pass.
        os.chmod(folder, 0o755)
        cluster = Cluster(folder, arguments.sidekey)
        Partner(cluster)
        for life in chosen:
            begin, before = time.monotonic(), len(cluster.pods)
            try:
                life(cluster)
                passed += 1
                print(f"ok      {life.__name__} ({time.monotonic() - begin:.1f} s)", flush=True)
            except Exception:
                failed += 1
                print(f"FAILED  {life.__name__}: {life.__doc__}", flush=True)
                print("        " + traceback.format_exc().replace("\n", "\n        "), flush=True)
                for pod in cluster.pods[before:]:
                    print("        " + pod.tail().replace("\n", "\n        "), flush=True)
            finally:
                for pod in cluster.pods[before:]:
                    pod.remove()
    print(f"{passed} passed, {failed} failed, 0 skipped")
    sys.exit(1 if failed else 0)


main()
