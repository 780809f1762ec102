"""The commands of docs/operations.md, "On Kubernetes", carried out by kubectl itself, in their order."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from codesvc.cli import _parser
from deploy.apiserver import Cluster, running
from deploy.manifests import ROOT

# They need a pod that runs; what they name is looked at all the same.
NEED_A_POD = ("exec", "port-forward", "logs", "undo")
SECRET_FILE = "CODESVC_MONGO_URI=mongodb://mongo.example/?replicaSet=rs0\nCODESVC_JWT_SECRET=secret\n"


def commands(title: str) -> list[str]:
    """Return the kubectl commands of a part of the page, each on one line and without its comment."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (part,) = re.findall(rf"^### {title}\n(.*?)(?=^##)", page, re.MULTILINE | re.DOTALL)
    lines = "\n".join(re.findall(r"^    (.*)$", part, re.MULTILINE)).replace("\\\n", " ").splitlines()
    found = [re.sub(r"\s+#.*$|\s*&$", "", line) for line in lines]
    return [re.sub(r"^TOKEN=\$\((.*)\)$", r"\1", line) for line in found if "kubectl" in line]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running() as server:
        yield server


def carry_out(kubectl: Path, cluster: Cluster, command: str, place: Path) -> str:
    """Run one command as the page has it, against the cluster, and return what it prints."""
    words = shlex.split(command)
    assert words[0] == "kubectl"
    words[0] = str(kubectl)
    shown = "secret" in words
    if shown:
        # It would send its own binary form; made, but not sent, it is the same.
        words += ["--dry-run=client", "-o", "json"]
    elif "apply" in words:
        # The server here checks everything itself, but has no OpenAPI document to say so.
        words.append("--validate=false")
    words = [str(ROOT / word) if word.startswith("deploy/kubernetes/") else word for word in words]
    (place / "codesvc-secret.env").write_text(SECRET_FILE, encoding="utf-8")
    done = subprocess.run(
        [*words, "--server", cluster.url, "--cache-dir", str(place / "cache")],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    if shown:
        secret = json.loads(done.stdout)
        assert {"CODESVC_MONGO_URI", "CODESVC_JWT_SECRET"} <= secret["data"].keys()
        cluster.put("Secret", secret["metadata"]["namespace"], secret["metadata"]["name"], secret)
    return done.stdout


@pytest.mark.parametrize(
    ("title", "namespace", "least"),
    [("Production, step by step", "codesvc", 10), ("A cluster on one's own machine", "codesvc-dev", 4)],
)
def test_a_newcomer_gets_there(
    kubectl: Path, cluster: Cluster, tmp_path: Path, title: str, namespace: str, least: int
) -> None:
    done = 0
    # What is for later, after a change, is tried last.
    for command in sorted(commands(title), key=lambda command: "restart" in command):
        if any(word in command.split() for word in NEED_A_POD):
            check_names(cluster, command, namespace)
        else:
            carry_out(kubectl, cluster, command, tmp_path)
            done += 1
    assert done >= least
    assert ("Deployment", namespace, "codesvc") in cluster.objects
    written = [(what, kind) for what, kind, _ in cluster.written]
    assert written.index(("put", "Namespace")) < written.index(("put", "ConfigMap"))
    if namespace == "codesvc":
        assert written.index(("put", "Job")) < written.index(("put", "Deployment"))


def test_the_second_roll_out_needs_the_first_ones_job_gone(
    kubectl: Path, cluster: Cluster, tmp_path: Path
) -> None:
    every = commands("Production, step by step")
    first = [line for line in every if "namespace.yaml" in line]
    steps = every[next(at for at, line in enumerate(every) if "delete job" in line) :][:5]
    for command in [*first, *steps]:
        carry_out(kubectl, cluster, command, tmp_path)
    job = cluster.objects["Job", "codesvc", "codesvc-indexes"]
    # As it was with the image of the version before.
    job["spec"] = json.loads(json.dumps(job["spec"]).replace("/codesvc:", "/codesvc:0."))
    before = len(cluster.written)
    with pytest.raises(AssertionError, match="field is immutable"):
        carry_out(kubectl, cluster, steps[1], tmp_path)
    for command in steps:
        carry_out(kubectl, cluster, command, tmp_path)
    again = cluster.written[before:]
    assert ("delete", "Job", "codesvc-indexes") in again
    # Nothing of the API is touched before the indexes are there.
    held = again[
        : again.index(("put", "Job", "codesvc-indexes"), again.index(("delete", "Job", "codesvc-indexes")))
    ]
    assert not {"Deployment", "HorizontalPodAutoscaler", "Service"} & {kind for _, kind, _ in held}


def test_a_bulk_load_applies_its_job_and_nothing_else(
    kubectl: Path, cluster: Cluster, tmp_path: Path
) -> None:
    for command in [line for line in commands("Production, step by step") if "namespace.yaml" in line]:
        carry_out(kubectl, cluster, command, tmp_path)
    before = len(cluster.written)
    for command in commands("Loads of many files"):
        if "logs" not in command.split():
            carry_out(kubectl, cluster, command, tmp_path)
    assert cluster.written[before:] == [("put", "Job", "codesvc-bulk-load")]


def test_the_commands_of_codesvc_are_some() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (part,) = re.findall(r"^### Loads of many files\n(.*?)(?=^##)", page, re.MULTILINE | re.DOTALL)
    found = [
        shlex.split(line, comments=True) for line in re.findall(r"^    codesvc (.*)$", part, re.MULTILINE)
    ]
    assert len(found) == 3
    for words in found:
        assert _parser().parse_args(words).source == words[1]


def check_names(cluster: Cluster, command: str, namespace: str) -> None:
    """Check that what a command needs a pod of is there."""
    assert f"-n {namespace}" in command, command
    kinds = {"deployment": "Deployment", "service": "Service", "job": "Job"}
    named = re.findall(r"\b(deployment|service|job)/([a-z-]+)", command)
    assert named, command
    for kind, name in named:
        assert (kinds[kind], namespace, name) in cluster.objects, command
    for words in re.findall(r" -- codesvc (.*)$", command):
        _parser().parse_args(shlex.split(words))
