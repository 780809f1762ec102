"""Checks an installation as the image carries it; the Dockerfile runs it, and so does tests/local/test_image.py."""

# ruff: noqa: S101, S603, SLF001

import importlib.machinery
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import bson

import codesvc._fastcsv
from codesvc._fastcsv import Extractor
from codesvc.web.pages import served_pages
from codesvc.web.schemas import Limits

DEVELOPMENT_ONLY = (
    "cython",
    "flask",
    "fiftyone",
    "hypothesis",
    "moto",
    "mypy",
    "pip",
    "pytest",
    "ruff",
    "setuptools",
)


def check_extension() -> None:
    """Send a file of two codes through the native core, and read it back with the driver's decoder."""
    loaded = Path(codesvc._fastcsv.__file__).name
    assert loaded.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)), f"{loaded} is no extension"
    extractor = Extractor(campaign_id="1", code_type="tm", saved_ms=0)
    batches = [*extractor.feed(b'A,x\r\n"B ""1""",y'), *extractor.finish()]
    ids = [document["_id"] for batch in batches for document in bson.decode_all(batch.documents)]
    assert ids == [{"campaign_id": "1", "code": "A"}, {"campaign_id": "1", "code": 'B "1"'}], ids


def check_contents() -> None:
    """Look for what only developers need."""
    found = [name for name in DEVELOPMENT_ONLY if find_spec(name) is not None]
    assert not found, f"the image carries {', '.join(found)}"


def check_pages() -> None:
    """Read the pages with all that they load."""
    paths = {each.path for each in served_pages(Limits(), dev=False, console=True)}
    assert {"/docs", "/docs/docs.js", "/console", "/console/console.js", "/openapi.json"} <= paths, paths


def check_command() -> None:
    """Run the command: it helps, and it refuses to serve without settings, in one line and with exit code 2."""
    command = Path(sys.executable).with_name("codesvc")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CODESVC_")}
    told = subprocess.run([command, "--help"], env=environment, capture_output=True, text=True, check=True)
    assert "serve" in told.stdout, told.stdout
    refused = subprocess.run([command, "serve"], env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2, (refused.returncode, refused.stderr)
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert "CODESVC_S3_BUCKET" in refused.stderr, refused.stderr


check_extension()
check_contents()
check_pages()
check_command()
