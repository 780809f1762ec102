"""Fixtures of the tests of deploy/."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.manifests import DEPLOY, KUBERNETES, MONITORED, OVERLAYS, Manifest, kustomize


@pytest.fixture(scope="session")
def kubectl(program: Callable[..., Path]) -> Path:
    """kubectl itself."""
    return program("kubectl")


@pytest.fixture(scope="session")
def overlays(kubectl: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Manifest]]:
    """What each overlay is made of, and the one for production with the component of the Prometheus operator."""
    found = {name: kustomize(kubectl, KUBERNETES / "overlays" / name) for name in OVERLAYS}
    found["base"] = kustomize(kubectl, KUBERNETES / "base")
    # A copy, whose line is changed as its comment says.
    root = tmp_path_factory.mktemp("deploy")
    shutil.copytree(DEPLOY, root, dirs_exist_ok=True)
    production = root / "kubernetes" / "overlays" / "production" / "kustomization.yaml"
    text = production.read_text(encoding="utf-8")
    assert text.count("# components: [../../components/monitoring]") == 1
    production.write_text(text.replace("# components: [", "components: ["), encoding="utf-8")
    return found | {MONITORED: kustomize(kubectl, production.parent)}
