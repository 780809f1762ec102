"""Says in one line what this machine lacks to build codesvc; runs on every python3 since 3.6."""

import os
import shutil
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path


def lacking():
    """Return what is missing and how to get it, or None."""
    version = sys.version_info
    python = f"python{version[0]}.{version[1]}"
    if version < (3, 11):
        return f"{python} is too old, 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."
    if find_spec("venv") is None or find_spec("ensurepip") is None:
        return f"{python} has no venv or no ensurepip module: apt-get install {python}-venv"
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler ({compiler}): apt-get install gcc libc6-dev"
    include = sysconfig.get_path("include")
    if not (Path(include) / "Python.h").exists():
        return f"there is no Python.h in {include}: apt-get install {python}-dev"
    return None


problem = lacking()
if problem:
    sys.exit(f"codesvc cannot be built: {problem}")
