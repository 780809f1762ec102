"""Every example of docs/client.md runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from api.harness import ROOT, base_environment, csv_of, make_codes
from api.world import World

TEXT = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def environment(world: World) -> dict[str, str]:
    """What a reader has: a service, a token, and a file in its bucket."""
    world.put("summer", csv_of(make_codes(40)), name="batch-001.csv")
    scripts = Path(sys.executable).parent
    return base_environment(
        {
            "CODESVC_URL": f"http://127.0.0.1:{world.service.port}",
            "CODESVC_TOKEN": world.service.token,
            "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": str(ROOT),
        }
    )


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_programs(program: str, environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text(program, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-W", "error", file], env=environment, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout


def test_commands(environment: dict[str, str], tmp_path: Path) -> None:
    (commands,) = COMMANDS
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended
    assert "10 sent, 10 assigned\n" in ended.stdout
    assert "10 sent, 10 released\n" in ended.stdout


def test_types(tmp_path: Path) -> None:
    """The examples pass the strictest type check: the client is typed to a caller, too."""
    files = []
    for number, program in enumerate(PROGRAMS):
        file = tmp_path / f"example_{number}.py"
        file.write_text(program, encoding="utf-8")
        files.append(str(file))
    # The project's own settings, so that what lint has kept in .mypy_cache serves here.
    command = [sys.executable, "-m", "mypy", "--strict"]
    ended = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
