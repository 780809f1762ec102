"""Log lines: one JSON object each, with stable names, and no secret."""

import asyncio
import io
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

from codesvc.observability.logs import AccessLog, configure_logging, correlation_id, remote_trace

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


def test_text_that_is_no_unicode_does_not_stop_the_log(
    capsys: pytest.CaptureFixture[str], log: Capture
) -> None:
    logger.info("x", extra={"name_": "\ud800"})
    logger.info("y")
    assert log.lines[-1]["message"] == "y"
    capsys.readouterr()


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


def test_lines_that_wait_are_written_as_the_process_ends(tmp_path: Path) -> None:
    path = tmp_path / "log"

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
    assert re.search(r"INFO    codesvc\.access: request .*route=/x .*campaignId=1", stream.getvalue())
    assert stream.getvalue().count("c-1") == 1
    assert log.text == ""


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        return True


def test_lines_for_a_person() -> None:
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
