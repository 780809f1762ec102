"""A log whose reader stands still, goes away, or shares its pipe with other processes."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import orjson
import pytest

from codesvc.observability import output
from codesvc.observability.logs import AccessLog, configure_logging

ROOT = Path(__file__).parents[3]
logger = logging.getLogger("codesvc.test")


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers[:] = []
    yield
    root.handlers[:], root.level = before


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w", encoding="utf-8")
    yield reader, stream
    with suppress(OSError):
        stream.close()
    with suppress(OSError):
        os.close(reader)


def take(reader: int, until: str) -> list[dict[str, Any]]:
    """Read lines until one has the message."""
    text = b""
    while f'"message":"{until}"'.encode() not in text or not text.endswith(b"\n"):
        chunk = os.read(reader, 1 << 16)
        assert chunk, "it ended before"
        text += chunk
    return [orjson.loads(line) for line in text.splitlines()]


async def test_a_reader_that_stands_still_does_not_stop_the_loop(
    pipe: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_WAITING_BYTES", 1 << 20)
    reader, stream = pipe
    configure_logging("INFO", stream)
    access = AccessLog()
    logger.info("before")
    # A plain write would not come back from here: nobody reads, and a pipe holds 64 KiB.
    for number in range(20_000):
        access(method="GET", route="/x", status=200, seconds=0, size=number, campaign_id=None)
        if number % 1000 == 0:
            logger.info("among them", extra={"number": number})
            await asyncio.sleep(0)
    taken = asyncio.create_task(asyncio.to_thread(take, reader, "log lines were dropped: they are not read"))
    lines = await asyncio.wait_for(taken, 30)
    assert lines[0]["message"] == "before"
    sizes = [line["bytes"] for line in lines if "bytes" in line]
    assert sizes == list(range(len(sizes))), "those that came are the first, in their order"
    numbers = [line["number"] for line in lines if "number" in line]
    (dropped,) = [line["lines"] for line in lines if "lines" in line]
    assert len(sizes) + len(numbers) + dropped == 20_020
    assert dropped > 1000
    logger.info("after")
    assert await asyncio.to_thread(take, reader, "after")


async def test_a_line_that_is_longer_than_the_pipe_takes_at_once(pipe: tuple[int, TextIO]) -> None:
    reader, stream = pipe
    configure_logging("INFO", stream)
    for number in range(20):
        logger.info("x" * 10_000, extra={"number": number})
    logger.info("last")
    lines = await asyncio.wait_for(asyncio.to_thread(take, reader, "last"), 30)
    assert [line["number"] for line in lines[:-1]] == list(range(20))


def test_the_end_does_not_wait_for_a_reader(
    pipe: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_CLOSE_SECONDS", 0.1)
    _, stream = pipe
    configure_logging("INFO", stream)
    for _ in range(2000):
        logger.info("x" * 100)
    handler = logging.getLogger().handlers[0]
    ending = threading.Thread(target=handler.close, daemon=True)
    ending.start()
    ending.join(30)
    assert not ending.is_alive()


def test_the_end_waits_for_a_slow_reader(pipe: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_CLOSE_SECONDS", 60)
    reader, stream = pipe
    configure_logging("INFO", stream)
    for _ in range(2000):
        logger.info("x" * 100)
    logger.info("last")
    ending = threading.Thread(target=logging.getLogger().handlers[0].close)
    ending.start()
    time.sleep(0.05)
    assert len(take(reader, "last")) == 2001
    ending.join()


@pytest.mark.parametrize(("longest", "lock"), [(700, False), (12_000, True)])
def test_processes_that_share_a_pipe_do_not_mix_their_lines(
    pipe: tuple[int, TextIO], tmp_path: Path, longest: int, lock: bool
) -> None:
    reader, stream = pipe
    program = (
        "import logging, os, sys\n"
        "from codesvc.observability import output\n"
        "from codesvc.observability.logs import configure_logging\n"
        "output._CLOSE_SECONDS = 60\n"
        f"file = os.open({str(tmp_path / 'lock')!r}, os.O_RDWR | os.O_CREAT) if {lock} else None\n"
        "configure_logging('INFO', lock=file)\n"
        "for number in range(500):\n"
        f"    message = 'x' * (number * 7919 % {longest})\n"
        "    logging.getLogger('codesvc').info(message, extra={'writer': sys.argv[1]})\n"
    )
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "PATH": os.environ["PATH"]}
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(number)], stdout=stream, env=environment)
        for number in range(3)
    ]
    stream.close()
    with os.fdopen(reader, "rb") as everything:
        lines = [orjson.loads(line) for line in everything]
    for writer in writers:
        assert writer.wait() == 0
    # No writer has more than may wait, and each waits for the reader at its end.
    assert len(lines) == 1500
    assert {line["writer"] for line in lines} == {"0", "1", "2"}


def test_a_fork_leaves_what_waits_to_its_parent(pipe: tuple[int, TextIO]) -> None:
    reader, stream = pipe
    program = (
        "import asyncio, logging, os\n"
        "from codesvc.observability.logs import AccessLog, configure_logging\n"
        "async def main():\n"
        "    configure_logging('INFO')\n"
        "    AccessLog()(method='GET', route='/x', status=200, seconds=0, size=0, campaign_id=None)\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        logging.getLogger('codesvc').info('child')\n"
        "        logging.shutdown()\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "asyncio.run(main())\n"
    )
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", program], stdout=stream, env=environment, check=True)
    assert done.returncode == 0
    stream.close()
    with os.fdopen(reader, "rb") as everything:
        messages = sorted(orjson.loads(line)["message"] for line in everything)
    assert messages == ["child", "request"]


def test_what_python_would_write_by_itself_is_a_line(tmp_path: Path) -> None:
    program = (
        "import threading, warnings\n"
        "from codesvc.observability.logs import configure_logging, log_the_rest\n"
        "configure_logging('INFO')\n"
        "log_the_rest()\n"
        "warnings.warn('of a library')\n"
        "def fail(): raise RuntimeError('SECRET')\n"
        "thread = threading.Thread(target=fail)\n"
        "thread.start()\n"
        "thread.join()\n"
        "class Gone:\n"
        "    def __del__(self): fail()\n"
        "Gone()\n"
        "fail()\n"
    )
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, env=environment, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    lines = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert [line["level"] for line in lines] == ["WARNING", "CRITICAL", "CRITICAL", "CRITICAL"]
    assert "of a library" in lines[0]["message"]
    assert {line["error"]["type"] for line in lines[1:]} == {"RuntimeError"}
    assert "SECRET" not in done.stdout
