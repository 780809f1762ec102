"""Kubernetes takes every manifest of every overlay: the oldest version that is supported, and the newest."""

import copy
import json
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.manifests import KUBERNETES, MONITORED, OVERLAYS, ROOT, Manifest, kinds, one

# Without types of their own.
jsonschema: Any = import_module("jsonschema")
kubernetes_validate: Any = import_module("kubernetes_validate")

OLDEST = "1.30"
"""The first in which a pod may sleep before it stops; docs/operations.md names it."""
NEWEST = kubernetes_validate.latest_version()

CUSTOM = ("ServiceMonitor", "PrometheusRule")
SCHEMAS = Path(__file__).parent / "schemas"


def check(manifest: Manifest, version: str) -> None:
    """Raise unless a cluster of that version takes it; a field that is unknown to it is refused as well."""
    if manifest["kind"] in CUSTOM:
        schema = json.loads((SCHEMAS / f"{manifest['kind'].lower()}.json").read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator(schema).validate(manifest)
    else:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("overlay", [*OVERLAYS, MONITORED])
def test_a_cluster_takes_every_manifest(
    overlays: dict[str, list[Manifest]], overlay: str, version: str
) -> None:
    manifests = overlays[overlay]
    assert len(manifests) > 8
    for manifest in manifests:
        check(manifest, version)
    names = [(each["kind"], each["metadata"]["name"]) for each in manifests]
    assert len(names) == len({*names})


def test_every_overlay_is_among_those_that_are_checked() -> None:
    assert {path.name for path in (KUBERNETES / "overlays").iterdir() if path.is_dir()} == {*OVERLAYS}


@pytest.mark.parametrize(
    ("kind", "name", "path", "value"),
    [
        ("Deployment", "codesvc", ("spec", "template", "spec", "hostNet"), True),
        ("Deployment", "codesvc", ("spec", "replicas"), "three"),
        ("HorizontalPodAutoscaler", "codesvc", ("spec", "behavior", "scaleUp", "policies", 0, "type"), 3),
        ("Job", "codesvc-indexes", ("spec", "podFailurePolicy", "rule"), []),
        ("NetworkPolicy", "codesvc", ("spec", "policyTypes"), "Ingress"),
        ("ServiceMonitor", "codesvc", ("spec", "endpoints", 0, "interval"), "often"),
        ("ServiceMonitor", "codesvc", ("spec", "endpoints", 0, "ports"), "http"),
        ("PrometheusRule", "codesvc", ("spec", "groups", 0, "rules", 0, "while"), "5m"),
    ],
)
def test_a_mistake_is_refused(
    overlays: dict[str, list[Manifest]], kind: str, name: str, path: tuple[Any, ...], value: Any
) -> None:
    manifest = copy.deepcopy(one(overlays[MONITORED], kind, name))
    inner: Any = manifest
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        check(manifest, NEWEST)


def test_a_cluster_without_the_operator_needs_none_of_its_kinds(overlays: dict[str, list[Manifest]]) -> None:
    for overlay in OVERLAYS:
        assert not any(kinds(overlays[overlay], kind) for kind in CUSTOM)
    assert all(len(kinds(overlays[MONITORED], kind)) == 1 for kind in CUSTOM)


def test_the_prometheus_rule_is_that_of_prometheus_own_files(
    overlays: dict[str, list[Manifest]], program: Callable[..., Path], tmp_path: Path
) -> None:
    files = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yaml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]
    rule = one(overlays[MONITORED], "PrometheusRule", "codesvc")
    assert rule["spec"]["groups"] == groups, "python deploy/prometheus_rule.py"
    # What the operator hands on to Prometheus is just the specification.
    handed_on = tmp_path / "rules.yaml"
    handed_on.write_text(yaml.safe_dump(rule["spec"]), encoding="utf-8")
    told = subprocess.run(
        [program("promtool"), "check", "rules", handed_on], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr


def test_the_dashboard_is_the_file_in_the_repository(overlays: dict[str, list[Manifest]]) -> None:
    data = one(overlays[MONITORED], "ConfigMap", "codesvc-dashboard")["data"]
    text = (ROOT / "deploy" / "grafana" / "codesvc.json").read_text(encoding="utf-8")
    assert data == {"codesvc.json": text}
    # What the API server takes at most.
    assert len(text.encode()) < 1 << 20
