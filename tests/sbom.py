"""Compares a list of components with cargo's own metadata, for tests/sbom: sbom.py LIST METADATA."""
import json, sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

text, metadata = open(sys.argv[1]).read(), json.load(open(sys.argv[2]))
wrong = []
error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)
if error:
    wrong.append(f"not CycloneDX 1.5: {error}")
listed = {(one["name"], one["version"]): one for one in json.loads(text).get("components", [])}

# What is linked: from our package along dependencies that are neither for tests nor for builds.
nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
packages = {one["id"]: one for one in metadata["packages"]}
root = metadata["resolve"]["root"]


def linked(node):
    return [one["pkg"] for one in nodes[node]["deps"] if any(kind["kind"] is None for kind in one["dep_kinds"])]


direct, seen, waiting = linked(root), set(), linked(root)
while waiting:
    one = waiting.pop()
    if one not in seen:
        seen.add(one)
        waiting += linked(one)
named = lambda one: (packages[one]["name"], packages[one]["version"])
wrong += [f"{named(one)} of Cargo.toml is not listed" for one in direct if named(one) not in listed]
wrong += [f"{named(one)}, which is linked, is not listed" for one in seen if named(one) not in listed]
wrong += [f"{key} has no licence" for key, one in listed.items() if not one.get("licenses")]
wrong += [f"{key} has no hash" for key, one in listed.items() if not one.get("hashes")]
tests_only = {one["name"] for one in packages[root]["dependencies"] if one["kind"] == "dev"}
wrong += [f"{name} is for tests alone" for name, _ in listed if name in tests_only - {named(one)[0] for one in seen}]
for one in wrong:
    print(f"FAILED  {one}")
print(f"{len(listed)} components, {len(direct)} of them named in Cargo.toml: {'wrong' if wrong else 'complete'}")
print(f"{int(not wrong)} passed, {len(wrong)} failed, 0 skipped")
sys.exit(1 if wrong else 0)
