"""Holds a running sidecar to its API's document: the document is valid, every answer is one that it describes and
shows every schema, schemathesis finds no fault, and metrics are text that OpenMetrics' own parser reads.

Usage: api.py URL SCHEMA…   (SCHEMA: schemas that this sidecar cannot show; all others have to be seen)
"""

import json
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request

from jsonschema import Draft202012Validator, FormatChecker, validators
from openapi_spec_validator import validate
from prometheus_client.openmetrics.parser import text_string_to_metric_families

URL, HIDDEN = sys.argv[1], set(sys.argv[2:])


def get(path, accept=None):
    """The text of an answer; any status but 200 is an error."""
    request = urllib.request.Request(URL + path, headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read().decode(), answer.headers


def read(path):
    """The JSON of an answer."""
    text, headers = get(path)
    assert headers["Content-Type"] == "application/json", headers
    return json.loads(text)


def validator_of(document, seen):
    """A validator that records every schema through which a value went."""
    usual = Draft202012Validator.VALIDATORS["$ref"]

    def follow(validator, reference, instance, schema):
        # Where a value may be absent, the schema is tried on null too.
        if instance is not None:
            seen.add(reference.rsplit("/", 1)[1])
        yield from usual(validator, reference, instance, schema)

    return validators.extend(Draft202012Validator, {"$ref": follow})


def arguments_of(operation):
    """Values for a path's parameters, taken from the lists."""
    if operation == "keyring":
        return [keyring["name"] for keyring in read("/api/v1/keyrings")["keyrings"]]
    if operation == "handshake":
        return [str(handshake["connection"]) for handshake in read("/api/v1/handshakes")["entries"]]
    peers = read("/api/v1/peers")["entries"]
    if operation == "peer":
        return [peer["identity"] for peer in peers]
    ours = [pair["key_pair"] for keyring in read("/api/v1/keyrings")["keyrings"] for pair in keyring["key_pairs"]]
    anchors = [voucher["id"] for trust in read("/api/v1/rotation")["trusts"] for voucher in trust["vouchers"]]
    return ours + anchors + [certificate for peer in peers for certificate in peer["certificates"]]


def check_answers(document):
    """Every operation's answers are what the document says, and together they show every schema."""
    seen = set()
    strict = validator_of(document, seen)
    for path, item in document["paths"].items():
        operation = item["get"]
        targets = [path]
        if "{" in path:
            before = path.split("{")[0]
            targets = [before + urllib.parse.quote(value, safe="") for value in arguments_of(operation["operationId"])]
            assert targets, f"nothing to ask {path} for"
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        whole = {**schema, "components": document["components"]}
        for target in targets:
            for error in strict(whole, format_checker=FormatChecker()).iter_errors(read(target)):
                raise SystemExit(f"{target}: {error.json_path}: {error.message[:400]}")
    unseen = set(document["components"]["schemas"]) - seen - HIDDEN - {"Problem"}
    assert not unseen, f"no answer shows {sorted(unseen)}"
    wrong = HIDDEN & seen
    assert not wrong, f"{sorted(wrong)} are shown all the same"


def check_metrics():
    """Both formats carry the same samples."""
    plain, headers = get("/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4"), headers
    text, headers = get("/metrics", "application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0"), headers
    names = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    shown = {line.split("{")[0].split(" ")[0] for line in plain.splitlines() if line and not line.startswith("#")}
    assert names == shown, names ^ shown


def check_promises(phases):
    """schemathesis: whatever is asked, the answer is one that the document describes."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", URL + "/api/v1/openapi.json", "--url", URL, "--checks", "all"]
    command += ["--phases", phases, "--max-examples", "15", "--seed", "7", "--generation-deterministic", "--no-color"]
    command += ["--request-timeout", "20", "--suppress-health-check", "all"]
    # It keeps a cache in the folder that it runs in.
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    print(done.stdout[-1500:])


DOCUMENT = read("/api/v1/openapi.json")
validate(DOCUMENT)
check_answers(DOCUMENT)
check_metrics()
check_promises("examples,coverage,fuzzing")
