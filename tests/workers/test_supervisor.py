"""The supervisor with workers that hang, die at their start, or want nothing: real processes of a few lines."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from codesvc.workers.shared import SharedPage
from codesvc.workers.supervisor import Patience, Supervisor

HEAD = """
import os, signal, socket, struct, sys, time
number, workers, channel, page, *_ = map(int, sys.argv[-1].split(","))
channel = socket.socket(fileno=channel)
with open(sys.argv[1], "a") as file:
    file.write(f"{number} {os.getpid()}\\n")
def ready():
    channel.sendall(struct.pack("!BII", 1, 0, 0))
def live():
    # Says every few milliseconds that it lives, until it is told something.
    channel.settimeout(0.05)
    while True:
        channel.sendall(struct.pack("!BII", 2, 0, 2) + b"{}")
        try:
            if channel.recv(1):
                return
        except TimeoutError:
            pass
"""
SHUT = '{"sums":{},"gauges":{}}'
GOOD = HEAD.replace('2) + b"{}"', f"{len(SHUT)}) + b'{SHUT}'") + "ready(); live()\n"
IMPATIENT = Patience(drain=10, first=0.05, longest=0.1, tick=0.05, warned=2, hung=60)


@dataclass(frozen=True)
class Rig:
    """A supervisor that runs a program of a test's own; ``starts`` are the workers' numbers and process ids."""

    program: Path
    book: Path

    @asynccontextmanager
    async def running(self, workers: int, patience: Patience = IMPATIENT) -> AsyncIterator[asyncio.Task[int]]:
        page = SharedPage.create()
        supervisor = Supervisor([], page, workers, patience=patience, command=self.command)
        task = asyncio.create_task(supervisor.run())
        try:
            yield task
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            loop = asyncio.get_running_loop()
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            page.close()

    @property
    def command(self) -> tuple[str, ...]:
        return (sys.executable, "-S", str(self.program), str(self.book))

    def starts(self) -> list[tuple[int, int]]:
        if not self.book.exists():
            return []
        lines = self.book.read_text().splitlines()
        return [(int(number), int(pid)) for number, pid in map(str.split, lines)]

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not true():  # noqa: ASYNC110 - files and processes tell nobody
                await asyncio.sleep(0.02)

    async def end(self, task: asyncio.Task[int]) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(30):
            return await task


def make(tmp_path: Path, source: str) -> Rig:
    program = tmp_path / "worker.py"
    program.write_text(source)
    return Rig(program, tmp_path / "starts")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_every_place_is_filled_and_all_end_together(tmp_path: Path) -> None:
    rig = make(tmp_path, GOOD)
    async with rig.running(3) as task:
        await rig.until(lambda: len(rig.starts()) == 3)
        assert rig.starts()[0][0] == 1
        assert {number for number, _ in rig.starts()} == {1, 2, 3}
        assert await rig.end(task) == 0
    assert not any(alive(pid) for _, pid in rig.starts())


async def test_one_that_hangs_is_killed_and_replaced(tmp_path: Path) -> None:
    """The first process of each place serves, and then says nothing for ever."""
    hangs = GOOD.replace("ready(); live()", "ready()\nif number == 2 and not os.path.exists(sys.argv[1] + 'x'):\n"
                         "    open(sys.argv[1] + 'x', 'w').close()\n    time.sleep(600)\nlive()")  # fmt: skip
    rig = make(tmp_path, hangs)
    async with rig.running(2) as task:
        await rig.until(lambda: len(rig.starts()) == 3)
        places = rig.starts()
        assert [number for number, _ in places].count(2) == 2
        hung = next(pid for number, pid in places if number == 2)
        await rig.until(lambda: not alive(hung))
        assert await rig.end(task) == 0


async def test_one_that_somebody_has_stopped_is_left_alone(tmp_path: Path) -> None:
    rig = make(tmp_path, GOOD)
    async with rig.running(2) as task:
        await rig.until(lambda: len(rig.starts()) == 2)
        _, stopped = rig.starts()[1]
        os.kill(stopped, signal.SIGSTOP)
        # Longer than one that hangs is given.
        await asyncio.sleep(1.5 * IMPATIENT.hung * IMPATIENT.tick)
        assert alive(stopped)
        os.kill(stopped, signal.SIGCONT)
        assert await rig.end(task) == 0
    assert len(rig.starts()) == 2


async def test_one_that_does_not_drain_is_killed(tmp_path: Path) -> None:
    rig = make(tmp_path, HEAD + "ready(); time.sleep(600)\n")
    patience = Patience(drain=0.3, hung=1000)
    async with rig.running(2, patience) as task:
        await rig.until(lambda: len(rig.starts()) == 2)
        assert await rig.end(task) == 1
    assert not any(alive(pid) for _, pid in rig.starts())


async def test_a_setting_that_cannot_be_used_ends_the_whole_at_once(tmp_path: Path) -> None:
    rig = make(tmp_path, HEAD + "sys.exit(2)\n")
    async with rig.running(4) as task, asyncio.timeout(30):
        assert await task == 2
    assert len(rig.starts()) == 1, "the others are not even started"


async def test_what_never_starts_is_not_tried_for_ever(tmp_path: Path) -> None:
    rig = make(tmp_path, HEAD + "os.kill(os.getpid(), signal.SIGKILL)\n")
    async with rig.running(3) as task, asyncio.timeout(30):
        assert await task == 1
    assert len(rig.starts()) == IMPATIENT.tries


async def test_while_others_serve_one_is_tried_again_and_again_but_not_in_a_storm(tmp_path: Path) -> None:
    rig = make(tmp_path, GOOD.replace("ready();", "number == 2 and sys.exit(2); ready();"))
    patience = Patience(drain=10, first=0.2, longest=0.4)
    async with rig.running(2, patience) as task:
        began = asyncio.get_running_loop().time()
        await rig.until(lambda: len(rig.starts()) == 7)
        # Six tries of the second: at once, then after 0.2, 0.4, 0.4 and 0.4 s.
        assert asyncio.get_running_loop().time() - began > 1.3
        assert not task.done()
        assert [number for number, _ in rig.starts()].count(1) == 1
        assert await rig.end(task) == 0


@pytest.mark.parametrize("moment", ["starting", "serving"])
async def test_a_signal_is_never_lost(tmp_path: Path, moment: str) -> None:
    """Neither where a worker has not begun to listen to its supervisor yet."""
    rig = make(tmp_path, GOOD.replace("ready();", "time.sleep(0.5); ready();"))
    async with rig.running(2) as task:
        await rig.until(lambda: len(rig.starts()) == (1 if moment == "starting" else 2))
        assert await rig.end(task) == 0
    assert not any(alive(pid) for _, pid in rig.starts())
