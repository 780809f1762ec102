"""`codesvc serve --workers 2`: one service for its callers, several processes for whoever looks."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from codesvc.local.process import free_port

from .harness import (
    ROOT,
    Service,
    assert_counts,
    assert_problem,
    base_environment,
    eventually,
    in_parallel,
    run_command,
)
from .proxy import Proxy
from .stalled import CODES, Upload
from .world import Hosting, World

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
COUNTERS = ("_total", "_count", "_bucket", "_sum")


@pytest.fixture
def pair(
    hosting: Hosting,
    new_database: Callable[[str], str],
    fragile_settings: dict[str, str | None],
    s3_proxy: Proxy,
) -> Iterator[World]:
    """A service of two workers, both of which serve; whose reads from S3 can be held up."""
    with hosting(fragile_settings | {"CODESVC_WORKERS": "2"}, new_database("workers")) as world:
        eventually(lambda: len(workers(world.service)) == 2, limit=30)
        yield world
        s3_proxy.resume()


def workers(service: Service) -> dict[int, int]:
    """Return the process id of each worker that has begun to serve, the latest of each place."""
    lines = service.log_lines()
    return {line["worker"]: line["pid"] for line in lines if line["message"] == "listening"}


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def scrape(service: Service) -> Samples:
    """Return every sample, asked for over a connection of its own."""
    reply = service.get("/metrics", auth=None)
    assert reply.status == 200, reply
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(reply.body.decode())
        for sample in family.samples
    }


def total(service: Service, name: str, **labels: str) -> float:
    """Return the sum of all samples of the name that have the labels; the parser appends _total to a counter's."""
    return sum(
        value
        for (found, of), value in scrape(service).items()
        if found in {name, f"{name}_total"} and labels.items() <= dict(of).items()
    )


def assert_nothing_fell(scrapes: Sequence[Samples]) -> None:
    """Check that every counter, and every part of a histogram, was at least what it was before."""
    for earlier, later in pairwise(scrapes):
        for series, value in earlier.items():
            if series[0].endswith(COUNTERS):
                assert later.get(series, 0) >= value, series


class Caller:
    """One connection that is kept open; ``worker`` is the one that serves it."""

    def __init__(self, service: Service) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
        self._service = service
        self.name = uuid.uuid4().hex
        self.worker = 0

    def ask(self) -> int:
        """Send a request; return the status."""
        return self._get("/livez")[0]

    def scrape(self) -> list[str]:
        """Return the lines of the metrics."""
        status, body = self._get("/metrics")
        assert status == 200
        return body.decode().splitlines()

    def _get(self, path: str) -> tuple[int, bytes]:
        self._connection.request("GET", path, headers={"X-Correlation-ID": self.name})
        response = self._connection.getresponse()
        return response.status, response.read()

    def find_worker(self) -> int:
        """Look up who serves it."""
        self.worker = self._service.log_lines_of(self.name)[0]["worker"]
        return self.worker

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def closing_later() -> Iterator[Callable[[Caller], Caller]]:
    """Takes callers whose connections are closed at the end of the test, whatever its end is."""
    with contextlib.ExitStack() as stack:

        def take(caller: Caller) -> Caller:
            stack.callback(caller.close)
            return caller

        yield take


def test_connections_are_spread_and_any_worker_tells_the_figures_of_all(
    pair: World, campaign: str, closing_later: Callable[[Caller], Caller]
) -> None:
    service = pair.service
    callers = [closing_later(Caller(service)) for _ in range(64)]
    assert set(in_parallel([caller.ask for caller in callers], workers=64)) == {200}
    spread = Counter(caller.find_worker() for caller in callers)
    assert set(spread) == {1, 2}
    # Taken at random, one in ten thousand runs would have fewer.
    assert min(spread.values()) > 16, spread

    assert service.count(campaign) == {"available": 0, "reserved": 0, "assigned": 0}
    in_parallel([lambda: service.count(campaign)] * 39, workers=8)
    labels = {"path": "/v1/{campaignId}/codes/count", "status": "200"}
    for number, caller in enumerate(callers):
        lines = caller.scrape()
        count = [float(line.split()[-1]) for line in lines if line.startswith("http_request_count{")
                 and all(f'{key}="{value}"' in line for key, value in labels.items())]  # fmt: skip
        assert count == [40], f"scrape {number}, worker {caller.worker}"
        for line in ("codesvc_workers 2", "codesvc_worker_restarts_total 0"):
            assert line in lines
    assert total(service, "http_response_duration_seconds_count", **labels) == 40
    # Those of the scrapes themselves, whoever was asked: each is counted by the next.
    seen = [total(service, "http_request_count", path="/metrics", status="200") for _ in range(5)]
    assert seen == [seen[0] + index for index in range(5)]
    # Three processes, of which a worker alone has more than 60 MB.
    assert total(service, "process_resident_memory_bytes") > 2 * (60 << 20)
    started = total(service, "process_start_time_seconds")
    assert time.time() - 300 < started < time.time()


def test_one_is_killed_under_load(
    pair: World, campaign: str, closing_later: Callable[[Caller], Caller]
) -> None:
    """The other goes on, whoever comes is served, the dead one is replaced, and no counter falls."""
    service = pair.service
    callers = [closing_later(Caller(service)) for _ in range(16)]
    in_parallel([caller.ask for caller in callers], workers=16)
    survivors = [caller for caller in callers if caller.find_worker() == 1]
    assert 0 < len(survivors) < 16
    before = workers(service)
    stop = threading.Event()
    killed = threading.Event()

    def persist(caller: Caller) -> int:
        asked = 0
        while not stop.is_set():
            assert caller.ask() == 200
            asked += 1
        return asked

    def come() -> int:
        """Come on a new connection each time, once nobody can meet the one that is killed."""
        asked = 0
        killed.wait(30)
        while not stop.is_set():
            assert service.get(f"/v1/{campaign}/codes/count?type=tm").status == 200
            asked += 1
        return asked

    def watch() -> list[Samples]:
        seen = [scrape(service)]
        killed.wait(30)
        while not stop.is_set():
            seen.append(scrape(service))
            time.sleep(0.02)
        return seen

    with ThreadPoolExecutor(32) as pool:
        asked = [pool.submit(persist, caller) for caller in survivors[:6]]
        watched = pool.submit(watch)
        came = [pool.submit(come) for _ in range(4)]
        try:
            time.sleep(0.5)
            os.kill(before[2], signal.SIGKILL)
            eventually(lambda: not alive(before[2]), limit=5)
            killed.set()
            eventually(lambda: workers(service)[2] != before[2], limit=30)
            time.sleep(0.3)
        finally:
            killed.set()
            stop.set()
        assert all(each.result() > 0 for each in [*asked, *came])
        seen = watched.result()
    assert len(seen) > 3
    assert workers(service)[1] == before[1]
    assert_nothing_fell(seen)
    assert total(service, "codesvc_worker_restarts_total") == 1
    assert total(service, "codesvc_workers") == 2
    assert [line["exitCode"] for line in service.log_lines() if line["message"] == "worker ended"] == [
        -signal.SIGKILL
    ]


def test_sigterm_drains_all(pair: World, s3_proxy: Proxy, campaign: str) -> None:
    service = pair.service
    pids = workers(service).values()
    upload = Upload(pair, s3_proxy, campaign)
    service.signal(signal.SIGTERM)
    draining = eventually(
        lambda: found if (found := service.get("/readyz", auth=None)).status == 503 else None, limit=5
    )
    assert_problem(draining, 503, "draining")
    # The one that has nothing to do ends at once, and whoever it had accepted has had a reply.
    while all(alive(pid) for pid in pids):
        # 200 from one that is told a moment later than the other.
        assert service.get("/readyz", auth=None).status in {200, 503}
    # The other one answers until the upload has ended.
    assert_problem(service.get("/readyz", auth=None), 503, "draining")
    assert not upload.reply.done()
    assert total(service, "upload_codes_total", outcome="inserted") > 0
    s3_proxy.resume()
    assert_counts(upload.reply.result(30), CODES + 1000, CODES, 1000)
    upload.close()
    assert service.wait(limit=15) == 0
    assert not any(alive(pid) for pid in pids)
    with pytest.raises(OSError, match="refused"):
        service.get("/livez")


def test_a_second_signal_ends_all_at_once(pair: World, s3_proxy: Proxy, campaign: str) -> None:
    service = pair.service
    pids = workers(service).values()
    upload = Upload(pair, s3_proxy, campaign)
    service.signal(signal.SIGTERM)
    eventually(lambda: service.get("/readyz", auth=None).status == 503, limit=5)
    began = time.monotonic()
    service.signal(signal.SIGTERM)
    with pytest.raises(OSError, match=r".*"):
        upload.reply.result(10)
    upload.close()
    assert service.wait(limit=5) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 3
    assert not any(alive(pid) for pid in pids)


def test_no_worker_outlives_its_supervisor(pair: World, s3_proxy: Proxy, campaign: str) -> None:
    """Nor does any of them keep the address; but what is under way ends well."""
    service = pair.service
    pids = workers(service).values()
    upload = Upload(pair, s3_proxy, campaign)
    service.signal(signal.SIGKILL)
    service.wait(limit=5)

    def free() -> bool:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", service.port))
            probe.listen()
            return True
        return False

    eventually(free, limit=5)
    assert not upload.reply.done()
    s3_proxy.resume()
    assert_counts(upload.reply.result(30), CODES + 1000, CODES, 1000)
    upload.close()
    eventually(lambda: not any(alive(pid) for pid in pids), limit=15)


def test_one_worker_that_is_told_to_go_is_replaced(pair: World) -> None:
    """As whoever runs `kill` on one of them expects; nobody is turned away meanwhile."""
    service = pair.service
    before = workers(service)
    os.kill(before[1], signal.SIGTERM)
    os.kill(before[1], signal.SIGTERM)
    while workers(service)[1] == before[1]:
        assert service.get("/readyz", auth=None).status == 200
    assert workers(service)[2] == before[2]


@pytest.mark.parametrize(
    ("name", "value"),
    # The last of these is found out by a worker only.
    [("CODESVC_JWT_SECRET", ""), ("CODESVC_PORT", "in use"), ("CODESVC_MONGO_URI", "mongodb://host:port/")],
)
def test_what_is_wrong_is_said_in_one_line(
    service: Service, api_settings: dict[str, str | None], name: str, value: str
) -> None:
    wrong = str(service.port) if value == "in use" else value
    settings = {**api_settings, "CODESVC_HOST": "127.0.0.1", "CODESVC_PORT": "0", name: wrong}
    ended = run_command("serve", "--workers", "3", settings=settings, timeout=30)
    assert ended.returncode == 2, ended
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert name in ended.stderr
    assert "listening" not in ended.stdout


def test_lines_of_the_log_are_whole_in_a_pipe(api_settings: dict[str, str | None]) -> None:
    """Which mixes what several write into it, as soon as it is full: it is read slowly here."""
    port = free_port()
    settings = {
        **api_settings,
        "CODESVC_HOST": "127.0.0.1",
        "CODESVC_PORT": str(port),
        "CODESVC_LOG_PROBES": "1",
    }
    command = [sys.executable, "-m", "codesvc", "serve", "--workers=2"]
    with _ended(
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=base_environment(settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    ) as process:
        assert process.stdout is not None
        output = process.stdout.fileno()
        text = b""
        while text.count(b'"listening"') < 2:
            text += os.read(output, 4096)
        pipelined = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 200
        connections = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(16)]
        for connection in connections:
            connection.sendall(pipelined)
        # By now it is full, and both stand still with some pages to write; then there is room for one page at a time.
        time.sleep(1)
        while text.count(b"\n") < 2000:
            text += os.read(output, 4096)
            time.sleep(0.003)
        process.send_signal(signal.SIGTERM)
        while more := os.read(output, 65536):
            text += more
        for connection in connections:
            connection.close()
    assert process.returncode == 0
    lines = [json.loads(line) for line in text.splitlines()]
    requests = Counter(line["worker"] for line in lines if line["message"] == "request")
    assert set(requests) == {1, 2}
    assert sum(requests.values()) > 1000


@contextlib.contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    """Wait for the end of a process, which a test that fails would wait for in vain."""
    with process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise
