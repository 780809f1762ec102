"""The whole API against its own document: schemathesis makes the requests, real parts answer them.

FUZZ_SECONDS=600 lets it go on for ten minutes, FUZZ_SEED=7 repeats what another run did (`make fuzz`).
"""

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from .harness import Service, base_environment, csv_of, running, token

SECONDS: Final = int(os.environ.get("FUZZ_SECONDS", "0"))
SEED: Final = int(os.environ.get("FUZZ_SEED", str(random.randrange(2**32) if SECONDS else 1)))
EXAMPLES: Final = 30
"""Requests of each operation in each phase, beside those that cover every boundary of its schemas."""

COUNTER: Final = "http_request_count{"
HERE: Final = Path(__file__).parent

SMALL: Final = {
    "CODESVC_DEV": "1",
    # Lists up to the limit, and beyond it, without megabytes of them.
    "CODESVC_MAX_CODES_PER_REQUEST": "40",
    "CODESVC_MAX_RESERVE": "50",
    "CODESVC_MAX_ROW_BYTES": "1000",
    "CODESVC_RESERVATION_TTL": "2",
}

FILES: Final = {
    "codes/fuzz-1/tm/plain.csv": csv_of(f"tm-{number:04}" for number in range(500)),
    "codes/fuzz-1/external/plain.csv": csv_of(f"external-{number:04}" for number in range(500)),
    "codes/fuzz.2/tm/plain.csv": csv_of(f"tm-{number:04}" for number in range(500)),
    "codes/fuzz.2/tm/empty.csv": b"",
    "codes/fuzz.2/tm/invalid rows.csv": b'tm-0001\n"tm-0002"x\n\x01\n',
    "codes/fuzz.2/external/not csv.csv": b'"' + b"x" * 2000,
}


@pytest.mark.timeout(120 + SECONDS)
def test_no_request_gets_an_answer_that_the_document_does_not_have(
    s3: Any,
    api_bucket: str,
    api_settings: dict[str, str | None],
    new_database: Callable[[str], str],
    logs: Path,
) -> None:
    for key, content in FILES.items():
        s3.put_object(Bucket=api_bucket, Key=key, Body=content)
    settings = api_settings | SMALL | {"CODESVC_MONGO_DATABASE": new_database("fuzz")}
    with running(Service(logs / "fuzz.log", **settings)) as service:
        for key in FILES:
            assert service.upload(key).status in {200, 422}
        arguments = ["--max-examples", str(EXAMPLES), "--seed", str(SEED)]
        if SECONDS:
            arguments += ["--max-time", str(SECONDS)]
        ended = fuzz(service, *arguments)
        answers = answered(service)
        wanted = operations(service)
    assert ended.returncode == 0, f"FUZZ_SEED={SEED}\n{ended.stdout[-12_000:]}{ended.stderr[-2_000:]}"
    assert not {each for each in answers if each[2] >= 500}
    # Beyond the edge: refusals alone would show little.
    succeeded = {(method, path) for method, path, status in answers if status < 300}
    assert wanted <= succeeded


def fuzz(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run schemathesis as a developer would."""
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(HERE / "schemathesis.toml"),
        "run",
    ]
    return subprocess.run(
        [*command, f"http://127.0.0.1:{service.port}/openapi.json", "--no-color", *arguments],
        cwd=HERE,
        env=base_environment({"FUZZ_TOKEN": token(), "COLUMNS": "120"}),
        capture_output=True,
        text=True,
        timeout=100 + SECONDS,
        check=False,
    )


def answered(service: Service) -> set[tuple[str, str, int]]:
    """Return the method, route and status of every answer so far, as the service counted them."""
    text = service.get("/metrics", auth=None).body.decode()
    labels = [dict(re.findall(r'(\w+)="([^"]*)"', line)) for line in text.splitlines() if COUNTER in line]
    return {(each["method"], each["path"], int(each["status"])) for each in labels}


def operations(service: Service) -> set[tuple[str, str]]:
    """Return the method and path of every operation of the document."""
    document = service.get("/openapi.json", auth=None).json()
    return {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if method in {"get", "post", "delete"}
    }
