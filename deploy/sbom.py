"""Writes a CycloneDX 1.6 document of what an installation of requirements/prod.txt holds.

    python deploy/sbom.py requirements/prod.txt > sbom.cdx.json

Versions and hashes are those of the lock file; licences and dependencies are what the installed packages say of
themselves. It fails where the two disagree: a package of another version, or one that is not there though no marker
excuses it. With --exact, one that the lock file does not name fails it, too: the image is then known to carry what was
locked, and codesvc.

The same installation always gives the same document. Needs the standard library only.
"""

import argparse
import json
import platform
import re
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Final

OURS: Final = "codesvc"

_ENTRY: Final = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;\\]+)(?: *; *(?P<marker>[^\\]+?))? *(?:\\|$)"
)
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_REQUIREMENT: Final = re.compile(r"(?P<name>[A-Za-z0-9._-]+) *(?:\[(?P<extras>[^]]*)\])?")

# What packages without a License-Expression (PEP 639) say, and its SPDX identifier. "BSD License" may be any of four.
_SPDX: Final = {
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Apache-2.0": "Apache-2.0",
    "BSD-3-Clause": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT": "MIT",
    "MIT License": "MIT",
    "MIT license": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "MPL-2.0": "MPL-2.0",
    "PSF-2.0": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


@dataclass(frozen=True, slots=True)
class Locked:
    """One package of a lock file; ``hashes`` are of all its files that may be installed."""

    name: str
    version: str
    conditional: bool
    hashes: tuple[str, ...]


def normalized(name: str) -> str:
    """Return the one spelling of a package's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(text: str) -> Iterator[Locked]:
    """Read a lock file as `uv pip compile --generate-hashes` writes it."""
    for block in re.split(r"\n(?=\S)", text.strip()):
        entry = _ENTRY.match(block)
        if entry is None:
            raise SystemExit(f"not an entry of a lock file: {block.splitlines()[0]}")
        hashes = tuple(_HASH.findall(block))
        if not hashes:
            raise SystemExit(f"{entry['name']} has no hash")
        yield Locked(normalized(entry["name"]), entry["version"], entry["marker"] is not None, hashes)


def licences(found: Distribution) -> list[dict[str, Any]]:
    """Return the licences of a package in CycloneDX's form, as exactly as the package tells them."""
    told = found.metadata
    expression, named = (
        next(iter(told.get_all(field, [])), "") for field in ("License-Expression", "License")
    )
    if expression:
        simple = expression in _SPDX.values()
        return [{"license": {"id": expression}}] if simple else [{"expression": expression}]
    classified = [
        each.rpartition(" :: ")[2]
        for each in told.get_all("Classifier", [])
        if each.startswith("License :: OSI Approved ::")
    ]
    named = named.strip().partition("\n")[0]
    # The field may be an identifier or a whole text, and classifiers may be vague: what is exact counts.
    if named in _SPDX:
        return [{"license": {"id": _SPDX[named]}}]
    if classified:
        return [
            {"license": {"id": _SPDX[name]} if name in _SPDX else {"name": name}}
            for name in sorted({*classified})
        ]
    if named:
        return [{"license": {"name": named}}]
    raise SystemExit(f"{told['Name']} does not say what its licence is")


def reference(name: str, version: str) -> str:
    """Return a package's URL (purl), which is its id in the document."""
    return f"pkg:pypi/{name}@{version}"


def required(found: Distribution, extras: set[str]) -> dict[str, set[str]]:
    """Return what a package needs with these of its extras: names, and which of their extras."""
    needed: dict[str, set[str]] = {}
    for each in found.requires or ():
        requirement, _, marker = each.partition(";")
        wanted = re.findall(r"extra *== *['\"]([^'\"]+)", marker)
        match = _REQUIREMENT.match(requirement)
        if match is not None and (not wanted or extras & {*wanted}):
            told = {extra.strip() for extra in (match["extras"] or "").split(",")} - {""}
            needed.setdefault(normalized(match["name"]), set()).update(told)
    return needed


def graph(installed: dict[str, Distribution], names: set[str]) -> dict[str, set[str]]:
    """Return which of the packages each of them needs, codesvc first."""
    extras: dict[str, set[str]] = {OURS: set()}
    new = {OURS}
    while new:
        # A package is looked at again when somebody asks for another of its extras.
        again: set[str] = set()
        for name in new:
            for needed, asked in required(installed[name], extras[name]).items():
                if needed in names and (needed not in extras or asked - extras[needed]):
                    extras.setdefault(needed, set()).update(asked)
                    again.add(needed)
        new = again
    return {
        name: required(installed[name], extras.get(name, set())).keys() & names for name in {OURS, *names}
    }


def document(lock: str, *, exact: bool) -> dict[str, Any]:
    """Make the document of this interpreter's packages, as far as ``lock`` names them."""
    installed = {normalized(each.metadata["Name"]): each for each in distributions()}
    entries = list(locked(lock))
    for entry in entries:
        there = installed.get(entry.name)
        if there is None and not entry.conditional:
            raise SystemExit(f"{entry.name} is locked, and not installed")
        if there is not None and there.version != entry.version:
            raise SystemExit(f"{entry.name} is locked as {entry.version}, and installed as {there.version}")
    if OURS not in installed:
        raise SystemExit(f"{OURS} is not installed")
    more = installed.keys() - {entry.name for entry in entries} - {OURS}
    if exact and more:
        raise SystemExit(f"installed, and not locked: {', '.join(sorted(more))}")
    kept = [entry for entry in entries if entry.name in installed]
    references = {entry.name: reference(entry.name, entry.version) for entry in kept}
    ours = installed[OURS]
    root = {**_component(OURS, ours.version, ours), "type": "application"}
    python = {
        "type": "platform",
        "bom-ref": f"pkg:generic/cpython@{platform.python_version()}",
        "name": "cpython",
        "version": platform.python_version(),
        "purl": f"pkg:generic/cpython@{platform.python_version()}",
        "licenses": [{"license": {"id": "PSF-2.0"}}],
    }
    components = [
        {
            **_component(entry.name, entry.version, installed[entry.name]),
            "hashes": [{"alg": "SHA-256", "content": each} for each in entry.hashes],
        }
        for entry in kept
    ]
    ids = {OURS: root["bom-ref"], **references}
    needs = {
        ids[name]: {ids[each] for each in found} for name, found in graph(installed, {*references}).items()
    }
    needs[root["bom-ref"]].add(python["bom-ref"])
    body = {
        "metadata": {"component": root},
        "components": [*components, python],
        "dependencies": [{"ref": ref, "dependsOn": sorted(found)} for ref, found in sorted(needs.items())],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True))
    head = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
    }
    return {**head, **body}


def _component(name: str, version: str, found: Distribution) -> dict[str, Any]:
    ref = reference(name, version)
    return {
        "type": "library",
        "bom-ref": ref,
        "name": name,
        "version": version,
        "purl": ref,
        "licenses": licences(found),
    }


def main() -> None:
    """Write the document to standard output."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("lock", type=Path)
    parser.add_argument("--exact", action="store_true", help="fail where anything else is installed")
    options = parser.parse_args()
    json.dump(document(options.lock.read_text(encoding="utf-8"), exact=options.exact), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
