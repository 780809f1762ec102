"""Requests per second through everything that stands around a handler, beside a bare aiohttp handler."""

import http.client
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Final

import pytest

from benchmarks.micro.client import CONNECTIONS, KeepAlive
from benchmarks.micro.measure import Measure
from benchmarks.micro.results import TRACED
from benchmarks.micro.servers import PATHS, SECRET
from codesvc.local.process import ChildProcess, free_port, wait_for_port
from codesvc.web.auth import mint_token

_CONTENDERS: Final = {"codesvc": "codesvc", TRACED: "codesvc", "bare aiohttp": "bare"}


@pytest.fixture(scope="session")
def ports(server_core: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """The servers' ports, by contender; both run all the time, one at a time with something to do."""
    logs = tmp_path_factory.mktemp("servers")
    with ExitStack() as stack:

        def start(name: str, kind: str, tracing: dict[str, str]) -> int:
            port = free_port()
            command = [sys.executable, "-m", "benchmarks.micro.servers", kind, str(port), str(server_core)]
            process = ChildProcess(command, name=name, log=logs / f"{name}.log", env=os.environ | tracing)
            process.start()
            stack.callback(process.kill)
            wait_for_port(process, port, limit=30.0)
            return port

        collector = start("collector", "collector", {})
        sampled = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector}",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.01",
        }
        yield {
            contender: start(contender, kind, sampled if contender == TRACED else {})
            for contender, kind in _CONTENDERS.items()
        }


@pytest.mark.parametrize("contender", _CONTENDERS)
@pytest.mark.parametrize("case", PATHS)
def test_middleware(measure: Measure, ports: dict[str, int], contender: str, case: str, quick: bool) -> None:
    """Hazard: each layer costs a little, and together they cost more than the request.

    `heartbeat` is the chain alone: correlation id, metrics, access log. `count` has the token and the parsing of
    parameters on top. Traced, one request in a hundred is sampled, as an operator would. The server has one core, the
    client another where there are two.
    """
    path, body = PATHS[case]
    token = mint_token(secret=SECRET)
    requests = CONNECTIONS * (40 if quick else 1_000)
    with KeepAlive(ports[contender], path, token=token, body=body) as client:
        measure(
            case,
            contender,
            partial(client.get, requests),
            amount=requests,
            right=partial(
                _right, ports[contender], path, token, body, guarded=_CONTENDERS[contender] == "codesvc"
            ),
        )


def _right(port: int, path: str, token: str, body: bytes, *, guarded: bool) -> bool:
    """Tell whether the reply is the expected one, and where a token is asked for, one that is forged gets none."""
    good, refused = (_get(port, path, one) for one in (token, f"{token[:-4]}AAAA"))
    wanted = 401 if guarded and path.startswith("/v1/") else 200
    return good == (200, body) and refused[0] == wanted


def _get(port: int, path: str, token: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
