"""Programs that check files."""

import subprocess
from pathlib import Path


def run(*command: str | Path) -> None:
    """Run a program to its end; it must find nothing wrong."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
