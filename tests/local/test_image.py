"""The Dockerfile's steps, done in a directory instead of an image: no Docker engine is needed to know they work."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from codesvc.local.process import free_port
from codesvc.settings import Settings

ROOT = Path(__file__).parents[2]

# Neither this working tree nor the virtual environment of the tests may be found from inside.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}

# What the steps name in the image, and therefore gets another place here.
IMAGE_PATHS = ("/src", "/opt/codesvc", "/opt/build", "/wheels")

# Users and Debian's packages are the machine's own business.
SKIPPED = ("apt-get", "groupadd")


@dataclass(frozen=True, slots=True)
class Step:
    instruction: str
    text: str


@dataclass(slots=True)
class Stage:
    name: str
    steps: list[Step] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [step.text for step in self.steps if step.instruction == instruction]


def stages() -> dict[str, Stage]:
    """Read the Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    found: dict[str, Stage] = {}
    stage = Stage("")
    for line in lines:
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            stage = found[rest.split()[-1]] = Stage(rest.split()[-1])
        else:
            stage.steps.append(Step(instruction, rest.strip()))
    return found


class Place:
    """A directory in which a stage's steps run."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def moved(self, text: str) -> str:
        for path in IMAGE_PATHS:
            text = re.sub(rf"(?<![\w./]){path}\b", f"{self.root}{path}", text)
        return text

    def run(self, step: Step) -> None:
        if step.instruction == "COPY" and not step.text.startswith("--from"):
            *sources, target = self.moved(step.text).split()
            for source in sources:
                copy_context(source, Path(target))
        elif step.instruction == "RUN" and not any(name in step.text for name in SKIPPED):
            command = self.moved(step.text)
            # The image's python and pip are this interpreter and its pip.
            command = re.sub(r"^pip ", f"{sys.executable} -m pip ", command)
            command = re.sub(r"^python ", f"{sys.executable} ", command)
            done = subprocess.run(
                ["sh", "-eu", "-c", command], env=CLEAN, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def copy_context(source: str, target: Path) -> None:
    """Copy a file, or the whole context, as far as .dockerignore lets it."""
    names = context() if source == "." else [source]
    for name in names:
        place = target / name if source == "." else target / Path(name).name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place)


def context() -> list[str]:
    """Return the files that .dockerignore leaves in the build's context; the last rule that matches wins."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    tracked = ["codesvc", "deploy", "requirements", "tests", "docs", "benchmarks"]
    names = [path for folder in tracked for path in (ROOT / folder).rglob("*") if path.is_file()]
    names += [path for path in ROOT.iterdir() if path.is_file()]
    kept = []
    for name in sorted(str(path.relative_to(ROOT)) for path in names):
        ignored = False
        for rule in rules:
            pattern = rule.removeprefix("!")
            if _matches(name, pattern):
                ignored = not rule.startswith("!")
        if not ignored:
            kept.append(name)
    return kept


def _matches(name: str, pattern: str) -> bool:
    """Tell whether a rule of .dockerignore matches a file or one of its directories."""
    parts = name.split("/")
    prefixes = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    if pattern.startswith("**/"):
        return any(fnmatch.fnmatchcase(part, pattern[3:]) for part in parts)
    return any(fnmatch.fnmatchcase(prefix, pattern) for prefix in prefixes)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The virtual environment that the builder stage makes."""
    place = Place(tmp_path_factory.mktemp("image"))
    for step in stages()["builder"].steps:
        place.run(step)
    yield place.root / "opt" / "codesvc"
    shutil.rmtree(place.root)


@pytest.mark.timeout(900)
def test_the_image_carries_what_it_needs_and_nothing_else(image: Path) -> None:
    python = image / "bin" / "python"
    check = subprocess.run(
        [python, ROOT / "deploy" / "check_image.py"],
        env=CLEAN,
        cwd=image,
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stderr
    assert "deploy/check_image.py" in " ".join(stages()["runtime"].all("RUN"))
    # Wheels only: what is tested is what was built, not this working tree.
    where = [str(python), "-c", "import codesvc._fastcsv as core; print(core.__file__)"]
    loaded = subprocess.run(where, env=CLEAN, capture_output=True, text=True, cwd=image, check=True).stdout
    assert Path(loaded).is_relative_to(image)


@pytest.mark.timeout(900)
def test_the_image_tells_what_it_holds(image: Path) -> None:
    listing = (
        "from importlib.metadata import distributions\nfor d in distributions(): print(d.name, d.version)"
    )
    told = subprocess.run(
        [image / "bin" / "python", "-c", listing],
        env=CLEAN,
        cwd=image,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    installed = [line.split() for line in told.splitlines()]
    sbom = json.loads((image / "sbom.cdx.json").read_text(encoding="utf-8"))
    shown = [*sbom["components"], sbom["metadata"]["component"]]
    assert {(each["name"], each["version"]) for each in shown if each["type"] != "platform"} == {
        (re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in installed
    }


@pytest.mark.timeout(900)
def test_the_image_serves_and_its_health_check_sees_it(
    image: Path, mongo_uri: str, database_name: str
) -> None:
    runtime = stages()["runtime"]
    entrypoint, arguments = json.loads(runtime.all("ENTRYPOINT")[0]), json.loads(runtime.all("CMD")[0])
    health = json.loads(runtime.all("HEALTHCHECK")[0].partition("CMD ")[2])
    environment = {
        **CLEAN,
        "PATH": f"{image}/bin:{os.environ['PATH']}",
        "CODESVC_PORT": str(free_port()),
        "CODESVC_MONGO_URI": mongo_uri,
        "CODESVC_MONGO_DATABASE": database_name,
        "CODESVC_S3_BUCKET": "codes",
        "CODESVC_JWT_SECRET": "a secret of thirty-two bytes or more",
    }
    command = [shutil.which(entrypoint[0], path=environment["PATH"]) or "", *entrypoint[1:], *arguments]
    check = [str(image / "bin" / health[0]), *health[1:]]
    assert subprocess.run(check, env=environment, cwd=image, capture_output=True, check=False).returncode == 1
    service = subprocess.Popen(command, env=environment, cwd=image, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while (
            subprocess.run(check, env=environment, cwd=image, capture_output=True, check=False).returncode
            != 0
        ):
            assert service.poll() is None
            assert time.monotonic() < deadline
    finally:
        service.terminate()
    assert service.wait(30) == 0


def test_the_image_runs_without_root_as_one_process() -> None:
    runtime = stages()["runtime"]
    uid, gid = runtime.all("USER")[-1].split(":")
    assert int(uid) > 0
    assert int(gid) > 0
    assert "curl" not in runtime.all("HEALTHCHECK")[0]
    assert json.loads(runtime.all("ENTRYPOINT")[0]) == ["codesvc"]
    environment = dict(
        shlex.split(pair)[0].split("=", 1) for line in runtime.all("ENV") for pair in line.split()
    )
    assert environment["PYTHONUNBUFFERED"] == "1"


def test_the_context_holds_the_sources_and_nothing_that_was_built() -> None:
    names = context()
    assert {
        "pyproject.toml",
        "setup.py",
        "codesvc/_fastcsv.pyx",
        "codesvc/web/routes.py",
        "requirements/prod.txt",
    } <= {*names}
    assert [name for name in names if name.endswith((".so", ".pyc")) or name == "codesvc/_fastcsv.c"] == []
    assert [name for name in names if name.startswith(("tests/", ".git", ".venv", "benchmarks/"))] == []


def test_compose_sets_only_what_the_service_reads() -> None:
    yaml: Any = import_module("yaml")
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    service = services["codesvc"]
    known = {f"CODESVC_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in service["environment"] if name.startswith("CODESVC_")} <= known
    assert service["environment"] == services["indexes"]["environment"]
    assert services["indexes"]["command"] == ["indexes"]
    assert service["depends_on"]["indexes"] == {"condition": "service_completed_successfully"}
    assert service["ports"] == ["127.0.0.1:8080:8080"]
