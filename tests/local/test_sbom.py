"""The document of what the image holds: valid, complete, and the same as the lock file."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # ships no types
import pytest
from referencing import Registry, Resource

ROOT = Path(__file__).parents[2]
PROD = ROOT / "requirements" / "prod.txt"


def written(lock: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "deploy" / "sbom.py"), str(lock), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def sbom() -> dict[str, Any]:
    done = written(PROD)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def lock_entries() -> dict[str, tuple[str, set[str]]]:
    """Read the lock file line by line, and not as the script does."""
    found: dict[str, tuple[str, set[str]]] = {}
    name = ""
    for line in PROD.read_text().splitlines():
        if not line.startswith(" "):
            name, version = line.removesuffix(" \\").partition(" ;")[0].split("==")
            found[name] = (version, set())
        if "--hash=sha256:" in line:
            found[name][1].add(line.partition("--hash=sha256:")[2][:64])
    return found


def test_it_is_a_cyclonedx_document(sbom: dict[str, Any]) -> None:
    schemas = files("cyclonedx.schema._res")
    names = {
        "bom-1.6.SNAPSHOT.schema.json": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "spdx.SNAPSHOT.schema.json": "http://cyclonedx.org/schema/spdx.SNAPSHOT.schema.json",
        "jsf-0.82.SNAPSHOT.schema.json": "http://cyclonedx.org/schema/jsf-0.82.SNAPSHOT.schema.json",
    }
    loaded = {uri: json.loads(schemas.joinpath(name).read_text()) for name, uri in names.items()}
    registry: Any = Registry().with_resources(
        [(uri, Resource.from_contents(schema)) for uri, schema in loaded.items()]
    )
    validator = jsonschema.Draft7Validator(loaded[names["bom-1.6.SNAPSHOT.schema.json"]], registry=registry)
    assert [error.message for error in validator.iter_errors(sbom)] == []
    # The validator does look: it knows what is none.
    broken = {
        **sbom,
        "components": [{"type": "none", "name": "x", "licenses": [{"license": {"id": "None"}}]}],
    }
    assert not validator.is_valid(broken)


def test_it_agrees_with_the_lock_file(sbom: dict[str, Any]) -> None:
    entries = lock_entries()
    assert len(entries) > 40
    libraries = [each for each in sbom["components"] if each["type"] == "library"]
    shown = {
        each["name"]: (each["version"], {one["content"] for one in each["hashes"]}) for each in libraries
    }
    assert len(shown) == len(libraries)
    assert {name: entries.get(name) for name in shown} == shown
    for name in entries.keys() - shown.keys():
        assert re.search(rf"^{re.escape(name)}==\S+ ;", PROD.read_text(), re.MULTILINE), (
            f"{name} has no marker"
        )
    assert {one["alg"] for each in libraries for one in each["hashes"]} == {"SHA-256"}


def test_it_says_what_each_is_and_under_which_licence(sbom: dict[str, Any]) -> None:
    for each in sbom["components"]:
        assert each["licenses"], each["name"]
        assert each["purl"].endswith(f"/{each['name']}@{each['version']}")
    by_name = {each["name"]: each["licenses"] for each in sbom["components"]}
    assert by_name["motor"] == [{"license": {"id": "Apache-2.0"}}]
    assert by_name["cryptography"] == [{"expression": "Apache-2.0 OR BSD-3-Clause"}]
    root = sbom["metadata"]["component"]
    assert (root["name"], root["version"]) == ("codesvc", distribution("codesvc").version)
    assert root["licenses"] == [{"license": {"id": "Apache-2.0"}}]


def test_everything_in_it_is_needed_by_something(sbom: dict[str, Any]) -> None:
    graph = {each["ref"]: set(each["dependsOn"]) for each in sbom["dependencies"]}
    reached: set[str] = set()
    new = {sbom["metadata"]["component"]["bom-ref"]}
    while new:
        reached |= new
        new = {needed for each in new for needed in graph.get(each, ())} - reached
    assert {each["bom-ref"] for each in sbom["components"]} <= reached


def test_the_same_installation_gives_the_same_document(sbom: dict[str, Any]) -> None:
    assert json.loads(written(PROD).stdout) == sbom


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda text: re.sub(r"^motor==\S+", "motor==0.0.1", text, flags=re.MULTILINE),
            "motor is locked as 0.0.1",
        ),
        (
            lambda text: text + "no-such-package==1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n",
            "not installed",
        ),
        (lambda text: text + "motor==1.0\n", "has no hash"),
        (lambda text: text + "motor>=1.0\n", "not an entry"),
    ],
)
def test_it_fails_where_they_disagree(tmp_path: Path, change: Callable[[str], str], told: str) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(change(PROD.read_text()))
    done = written(lock)
    assert done.returncode == 1
    assert told in done.stderr
    assert done.stdout == ""


def test_what_was_not_locked_has_no_place_in_the_image() -> None:
    """The environment of the tests has much that the image has not."""
    done = written(PROD, "--exact")
    assert done.returncode == 1
    assert "installed, and not locked:" in done.stderr
    assert "pytest" in done.stderr
