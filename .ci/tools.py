"""Gets the programs that only the tests need and PyPI does not have: a browser, Prometheus, and a compiler that fuzzes.

What is on PATH is taken. Else Debian's package is: that of Prometheus is unpacked into build/tools, since to install it
would start a server; those of Chromium and clang need their libraries, so they are installed, which takes root. Without
clang nothing is fuzzed, and all the rest is tested.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

UNPACKED = Path(__file__).parents[1] / "build" / "tools"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def has(*names):
    """Tell whether one of the programs is there."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(UNPACKED / "usr" / "bin")])
    return any(shutil.which(name, path=path) for name in names)


def run(*command, cwd=None):
    """Run a command, and show what it said only if it failed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
    return done.returncode == 0


def unpack(package):
    """Unpack a Debian package into build/tools."""
    UNPACKED.mkdir(parents=True, exist_ok=True)
    if not run("apt-get", "download", package, cwd=UNPACKED):
        return
    for file in UNPACKED.glob(f"{package}_*.deb"):
        run("dpkg", "-x", str(file), str(UNPACKED))
        file.unlink()


def missing():
    """Return the packages whose programs are not there, and without which no test can pass."""
    found = {"chromium": has(*BROWSERS), "prometheus": has("promtool") and has("prometheus")}
    return [package for package, there in found.items() if not there]


def fuzzer():
    """Return the packages that fuzzing takes, if they are not there."""
    return [] if has("clang") else ["clang", "libclang-rt-dev"]


def main():
    """Get what is missing; say in one line what cannot be got."""
    wanted = missing()
    packages = [*wanted, *fuzzer()]
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if packages and root and shutil.which("apt-get"):
        print(f"Getting {' and '.join(packages)}, which only the tests need", flush=True)
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        run("apt-get", "update", "-qq")
        if "prometheus" in wanted:
            unpack("prometheus")
            packages.remove("prometheus")
        for package in packages:
            run("apt-get", "install", "-qq", "-y", "--no-install-recommends", package)
        wanted = missing()
    if wanted:
        sys.exit(f"codesvc's tests need {' and '.join(wanted)}: apt-get install {' '.join(wanted)}")


main()
