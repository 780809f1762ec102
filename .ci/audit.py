"""Looks every version of the lock files up among the known vulnerabilities (pip-audit), and tells what it could not.

The exit code is 0 if all were looked up and none is known to be vulnerable, 1 if some are, and 2 if the data could not
be had. Not a part of `make lint`, `make test` or CI: what it says depends on the day and the network, not on the code.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LOCKS = ("requirements/prod.txt", "requirements/build.txt")
NETWORK = "the data could not be had; is there a way to the network?"


def audited(lock, options):
    """Return what pip-audit found for the packages of a lock file, or None."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [
            sys.executable,
            "-m",
            "pip_audit",
            "--require-hashes",
            "--disable-pip",
            "--progress-spinner",
            "off",
        ]
        command += ["--requirement", lock, "--format", "json", "--output", str(report), *options]
        # pip's settings name indexes; the auditor's data is not in those.
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        try:
            subprocess.run(command, env=clean, capture_output=True, timeout=600, check=False)  # noqa: S603
            return json.loads(report.read_text(encoding="utf-8"))["dependencies"]
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return None


def main(locks, options):
    """Print a line for each vulnerability, or one that says that there is none, or that nobody knows."""
    found, unknown, known = [], [], 0
    for lock in locks:
        packages = audited(lock, options)
        if packages is None:
            print(f"Not audited: {lock}: {NETWORK}")
            return 2
        for package in packages:
            name = package["name"]
            if "skip_reason" in package:
                unknown.append(name)
                continue
            known += 1
            for each in package["vulns"]:
                fixed = ", ".join(each["fix_versions"]) or "no version"
                found.append(f"{name} {package['version']}: {each['id']}, mended in {fixed}")
    print(*sorted(set(found)), sep="\n", end="\n" if found else "")
    if unknown:
        print(
            f"Not audited: {len(unknown)} of {len(unknown) + known} packages ({', '.join(unknown[:5])}): {NETWORK}"
        )
    elif not found:
        print(f"No known vulnerability in {known} packages")
    return 1 if found else 2 if unknown else 0


if __name__ == "__main__":
    arguments = sys.argv[1:]
    given = [each for each in arguments if each.endswith(".txt")]
    sys.exit(main(given or LOCKS, [each for each in arguments if each not in given]))
