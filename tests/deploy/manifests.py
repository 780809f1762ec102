"""What kubectl makes of the directories in deploy/kubernetes, and how to find one's way in it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
KUBERNETES: Final = DEPLOY / "kubernetes"
OVERLAYS: Final = ("dev", "production", "bulk-load")
MONITORED: Final = "production with monitoring"
"""The overlay for production as docs/operations.md says to change it where the Prometheus operator runs."""

OWN: Final = "app.kubernetes.io/name"

Manifest = dict[str, Any]


def kustomize(kubectl: Path, directory: Path) -> list[Manifest]:
    """Build a directory; a warning is as bad as an error."""
    done = subprocess.run([kubectl, "kustomize", directory], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest is not None]


def one(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """Return the one manifest of a kind and a name."""
    found = [each for each in manifests if each["kind"] == kind and each["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def kinds(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """Return all manifests of a kind."""
    return [each for each in manifests if each["kind"] == kind]


def pod_templates(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yield the template of every workload's pods, under the workload's name."""
    for manifest in manifests:
        template = manifest.get("spec", {}).get("template")
        if template is not None:
            yield f"{manifest['kind']}/{manifest['metadata']['name']}", template


def own_templates(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Return those whose pods run codesvc."""
    return {
        name: template
        for name, template in pod_templates(manifests)
        if template["metadata"]["labels"][OWN] == "codesvc"
    }


def container(template: Manifest) -> Manifest:
    """Return the only container of a pod."""
    (only,) = template["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def environment(manifests: list[Manifest], template: Manifest, secret: dict[str, str]) -> dict[str, str]:
    """Return the environment that the kubelet would give to a pod's container, with the Secret as told."""
    found: dict[str, str] = {}
    inside = container(template)
    for source in inside.get("envFrom", []):
        found |= one(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in inside.get("env", []):
        if "value" in variable:
            value = variable["value"]
            for name, known in found.items():
                value = value.replace(f"$({name})", known)
            found[variable["name"]] = value
        elif "secretKeyRef" in variable["valueFrom"]:
            reference = variable["valueFrom"]["secretKeyRef"]
            if reference["key"] in secret:
                found[variable["name"]] = secret[reference["key"]]
            else:
                assert reference.get("optional") is True, f"{variable['name']} has to be in the Secret"
        else:
            found[variable["name"]] = "of the pod"
    return found
