"""Log lines: one JSON object each, with stable names, and no secret."""

import asyncio
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from codesvc.observability import output
from codesvc.observability.logs import PROBES, AccessLog, configure_logging, correlation_id, remote_trace
from codesvc.settings import LogFormat

SECRET = "PROMO-CODE-1"


class Capture:
    """What was written, line by line."""

    def __init__(self, stream: io.StringIO) -> None:
        self.stream = stream

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.text.splitlines()]


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers[:] = []
    yield
    root.handlers[:], root.level = before


@pytest.fixture
def log() -> Capture:
    stream = io.StringIO()
    configure_logging("DEBUG", stream)
    return Capture(stream)


logger = logging.getLogger("codesvc.test")


def access(status: int = 200) -> None:
    AccessLog()(method="GET", route="/x", status=status, seconds=0.0015, size=7, campaign_id="1")


def raise_driver_error() -> None:
    try:
        raise KeyError(SECRET)  # noqa: TRY301 - a cause is wanted
    except KeyError as error:
        raise RuntimeError(f"E11000 duplicate key error: {SECRET}") from error


def test_a_line_is_one_object(log: Capture) -> None:
    logger.info("two\nlines %d", 7, extra={"campaignId": "1", "number": Decimal("1.5")})
    (line,) = log.lines
    timestamp = line.pop("timestamp")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", timestamp)
    assert line == {
        "level": "INFO",
        "logger": "codesvc.test",
        "message": "two\nlines 7",
        "campaignId": "1",
        "number": "1.5",
    }


def test_timestamps_are_the_records_own(log: Capture) -> None:
    record = logging.makeLogRecord({"name": "codesvc.test", "levelno": 20, "levelname": "INFO", "msg": "x"})
    for record.created in (0.0, 1700000000.25, 1700000000.999, 1699999999.5):
        logger.handle(record)
    assert [line["timestamp"] for line in log.lines] == [
        "1970-01-01T00:00:00.000Z",
        "2023-11-14T22:13:20.250Z",
        "2023-11-14T22:13:20.999Z",
        "2023-11-14T22:13:19.500Z",
    ]


async def test_every_line_of_a_request_carries_its_ids(log: Capture) -> None:
    async def request(number: int) -> None:
        correlation_id.set(f"c-{number}")
        remote_trace.set(("a" * 32, "b" * 16))
        await asyncio.sleep(0)
        logger.info("x", extra={"number": number})

    await asyncio.gather(*(asyncio.create_task(request(number)) for number in range(3)))
    logger.info("outside")
    assert [line.get("correlationId") for line in log.lines] == ["c-0", "c-1", "c-2", None]
    assert (log.lines[0]["traceId"], log.lines[0]["spanId"]) == ("a" * 32, "b" * 16)
    assert "traceId" not in log.lines[3]


def test_an_error_is_told_without_its_words(log: Capture) -> None:
    try:
        raise_driver_error()
    except RuntimeError:
        logger.exception("it failed")
    assert SECRET not in log.text
    (line,) = log.lines
    error = line["error"]
    assert error["type"] == "RuntimeError"
    assert re.search(r"test_logs\.py:\d+ raise_driver_error$", error["stack"][-1])
    assert [cause["type"] for cause in error["causes"]] == ["KeyError"]


def test_an_error_keeps_its_number(log: Capture) -> None:
    class DriverError(Exception):
        code = 11000

    logger.error("x", exc_info=DriverError(SECRET))
    logger.error("x", exc_info=FileNotFoundError(2, SECRET))
    assert [line["error"].get("code") for line in log.lines] == [11000, None]
    assert log.lines[1]["error"]["errno"] == 2
    assert SECRET not in log.text


def test_an_error_among_the_fields_is_its_type(log: Capture) -> None:
    logger.warning("x", extra={"cause": ValueError(SECRET), "group": [ValueError(SECRET)]})
    assert (log.lines[0]["cause"], log.lines[0]["group"]) == ("ValueError", ["ValueError"])


def test_a_group_of_errors(log: Capture) -> None:
    logger.error("x", exc_info=ExceptionGroup(SECRET, [ValueError(SECRET), OSError(5, SECRET)]))
    assert [each["type"] for each in log.lines[0]["error"]["exceptions"]] == ["ValueError", "OSError"]
    assert SECRET not in log.text


def test_errors_without_end(log: Capture) -> None:
    def recurse(depth: int) -> None:
        try:
            if depth:
                recurse(depth - 1)
            raise ValueError(SECRET)  # noqa: TRY301 - a chain is wanted
        except ValueError:
            raise RuntimeError(SECRET)  # noqa: B904 - a chain is wanted

    try:
        recurse(100)
    except RuntimeError:
        logger.exception("x")
    assert len(log.text) < 30_000


def test_what_the_loop_says_of_a_failed_task(log: Capture) -> None:
    async def fail() -> None:
        raise RuntimeError(SECRET)

    loop = asyncio.new_event_loop()
    task = loop.create_task(fail())
    loop.run_until_complete(asyncio.wait([task]))
    # What Task.__del__ does with an exception that nobody fetched.
    loop.call_exception_handler(
        {"task": task, "exception": task.exception(), "message": "Task exception was never retrieved"}
    )
    loop.close()
    (line,) = [line for line in log.lines if line["level"] == "ERROR"]
    assert line["message"] == "Task exception was never retrieved"
    assert line["error"]["type"] == "RuntimeError"
    assert SECRET not in log.text


@pytest.mark.parametrize("name", ["pymongo.command", "botocore.auth", "urllib3", "aiohttp.client"])
def test_libraries_do_not_tell_their_details(log: Capture, name: str) -> None:
    logging.getLogger(name).debug("command: %s", SECRET)
    logger.debug("ours")
    assert [line["message"] for line in log.lines] == ["ours"]


def test_aiohttps_own_access_log_is_off(log: Capture) -> None:
    logging.getLogger("aiohttp.access").info("GET /v1/1/reserve?token=%s", SECRET)
    assert log.text == ""


def test_the_level_holds() -> None:
    stream = io.StringIO()
    configure_logging("WARNING", stream)
    logger.info("not this")
    access()
    logger.warning("this")
    assert [line["message"] for line in Capture(stream).lines] == ["this"]


def test_configuring_again_replaces(log: Capture) -> None:
    stream = io.StringIO()
    configure_logging("INFO", stream)
    logger.info("once")
    assert log.text == ""
    assert len(stream.getvalue().splitlines()) == 1


def test_the_access_log(log: Capture) -> None:
    access()
    (line,) = log.lines
    assert (line["level"], line["logger"], line["message"]) == ("INFO", "codesvc.access", "request")
    assert (line["method"], line["route"], line["status"], line["campaignId"]) == ("GET", "/x", 200, "1")
    assert (line["durationMs"], line["bytes"]) == (1.5, 7)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("a\ud800b", "a?b"),
        (2**70, 2**70),
        (float("nan"), None),
        ([1, "\udfff", ValueError(SECRET)], [1, "?", "ValueError"]),
        ({1: 2}, {"1": 2}),
    ],
)
def test_values_that_json_hardly_knows(log: Capture, value: object, written: object) -> None:
    logger.info("x", extra={"value": value})
    (line,) = [json.loads(line) for line in log.text.splitlines()]
    assert (line["message"], line["value"]) == ("x", written)


def test_what_cannot_be_written_is_told(log: Capture, capsys: pytest.CaptureFixture[str]) -> None:
    endless: list[object] = []
    endless.append(endless)
    logger.info("x", extra={"endless": endless, "fine": 1})
    record = logging.makeLogRecord({"name": "codesvc.test", "msg": "%d and %d", "args": (1,)})
    # Past the handler of the tests themselves, which raises.
    logging.getLogger().handlers[0].handle(record)
    lines = log.lines
    assert (lines[0]["message"], lines[0]["endless"], lines[0]["fine"]) == ("x", "list", 1)
    assert lines[1]["reason"] == "TypeError"
    assert capsys.readouterr() == ("", "")


def test_names_that_every_line_has_are_its_own(log: Capture) -> None:
    logger.info("x", extra={"level": "of the water", "timestamp": "never", "logger": "wood"})
    (line,) = log.lines
    assert (line["level"], line["logger"]) == ("INFO", "codesvc.test")
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize("form", list(LogFormat))
def test_nobody_forges_a_line(form: LogFormat) -> None:
    stream = io.StringIO()
    configure_logging("INFO", stream, form=form)
    hostile = "x\nFORGED\r\x1b[31m\x00\x7f\x85\x9b2J\u2028\u2029\u202e"
    logger.info("%s", hostile, extra={"value": hostile, "values": [hostile]})
    assert len(stream.getvalue().splitlines()) == 1
    assert all(character.isprintable() for character in stream.getvalue().rstrip("\n"))
    if form is not LogFormat.CONSOLE:
        assert orjson.loads(stream.getvalue())["value"] == hostile


def test_a_line_is_short_enough_for_a_container_runtime(log: Capture) -> None:
    handler = logging.getLogger().handlers[0]
    for told in (
        {"msg": "m" * 50_000, "value": "v" * 50_000, "values": ["v" * 1000] * 1000},
        {"msg": "x", **{f"field{number}": "v" * 1000 for number in range(100)}},
    ):
        handler.handle(logging.makeLogRecord({"name": "codesvc.test", **told}))
    for text in log.text.splitlines():
        assert len(text) <= 16_000
        assert orjson.loads(text)["truncated"] is True
    assert log.lines[0]["message"].startswith("mmm")
    assert log.lines[0]["value"].startswith("vvv")


class TestProbes:
    """The access log's lines of what a cluster asks again and again."""

    def lines(self, probes: int, *statuses: int, route: str = "/livez") -> list[int]:
        stream = io.StringIO()
        configure_logging("INFO", stream, probes=probes)
        access = AccessLog()
        for status in statuses:
            access(method="GET", route=route, status=status, seconds=0, size=0, campaign_id=None)
        return [line["status"] for line in Capture(stream).lines]

    def test_one_in_so_many(self) -> None:
        assert self.lines(3, *[200] * 7) == [200] * 3
        assert self.lines(1, *[200] * 7) == [200] * 7
        assert self.lines(0, *[200] * 7) == []

    def test_those_that_fail_and_the_first_that_does_not(self) -> None:
        assert self.lines(0, 200, 503, 503, 200, 200, 503, 200) == [503, 503, 200, 503, 200]

    def test_each_route_has_its_turn(self) -> None:
        stream = io.StringIO()
        configure_logging("INFO", stream, probes=2)
        access = AccessLog()
        for _ in range(4):
            for route in sorted(PROBES):
                access(method="GET", route=route, status=200, seconds=0, size=0, campaign_id=None)
        assert [line["route"] for line in Capture(stream).lines] == sorted(PROBES) * 2

    def test_other_requests_are_all_there(self) -> None:
        assert self.lines(0, 200, 404, 200, route="/v1/{campaignId}/reserve") == [200, 404, 200]


async def test_lines_to_a_file_are_gathered_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w", encoding="utf-8") as stream:
        configure_logging("INFO", stream)
        for number in range(3):
            access(200 + number)
        logger.info("between", extra={"status": 203})
        assert [orjson.loads(line)["status"] for line in path.read_text().splitlines()] == [
            200,
            201,
            202,
            203,
        ]
        access()
        async with asyncio.timeout(5):
            while len(path.read_text().splitlines()) < 5:  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.001)


def test_lines_that_wait_are_written_as_the_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    # However slow the machine is, the loop ends before it would write.
    monkeypatch.setattr(output, "_GATHER_SECONDS", 60)

    async def request() -> None:
        access(201)

    with path.open("w", encoding="utf-8") as stream:
        configure_logging("INFO", stream)
        asyncio.run(request())
        assert path.read_text() == ""
        logging.getLogger().handlers[0].flush()
        assert orjson.loads(path.read_text())["status"] == 201
        # Another loop, another timer.
        asyncio.run(request())


def test_a_log_that_nobody_reads_stops_nothing() -> None:
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    configure_logging("INFO", stream)
    os.close(reader)
    logger.info("into the void")
    access()
    with suppress(BrokenPipeError):
        stream.close()
    logger.info("nor this")


async def test_other_handlers_see_requests_too(log: Capture) -> None:
    stream = Terminal()
    configure_logging("INFO", stream)
    correlation_id.set("c-1")
    access()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert re.search(r"INFO    codesvc\.access: request .*route=/x .*campaignId=1", plain)
    assert stream.getvalue().count("c-1") == 1
    assert log.text == ""


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_colour(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], coloured: bool) -> None:
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    configure_logging("INFO", stream)
    logger.warning("it failed")
    assert ("\x1b[33mWARNING" in stream.getvalue()) is coloured
    assert ("\x1b" in stream.getvalue()) is coloured


def test_a_form_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal, pipe = Terminal(), io.StringIO()
    configure_logging("INFO", terminal, form=LogFormat.JSON)
    logger.info("x")
    assert orjson.loads(terminal.getvalue())["message"] == "x"
    configure_logging("INFO", pipe, form=LogFormat.CONSOLE)
    logger.info("x", extra={"one": "two words", "empty": ""})
    assert re.fullmatch(r'[\d:]{8} INFO    codesvc\.test: x one="two words" empty=""\n', pipe.getvalue())


def test_lines_for_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    configure_logging("INFO", stream)
    correlation_id.set("c-1")
    try:
        raise_driver_error()
    except RuntimeError:
        logger.exception("it failed", extra={"campaignId": "1"})
    first, *rest = stream.getvalue().splitlines()
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d ERROR   codesvc\.test: it failed campaignId=1 correlationId=c-1", first
    )
    assert any("raise_driver_error" in line for line in rest)
    assert SECRET not in stream.getvalue()
