"""`codesvc dev`: the embedded stack with its demonstration, up until Ctrl-C."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rich.console import Console

from codesvc.local.demo import demonstrate
from codesvc.local.process import LocalStackError, ProcessDiedError
from codesvc.local.stack import Stack, StackOptions
from codesvc.version import __version__

_WATCH_SECONDS = 0.25


class StopRequested(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived."""


def run(options: StackOptions, *, codes: int) -> int:
    """Start the stack, show the demonstration, and stay until a signal or the death of a process.

    Returns the exit code: 0 after a signal, 1 if something could not start, failed or died.
    """
    console = Console(highlight=False)
    stack = Stack(options, told=lambda line: _say(console, f"  [green]✓[/] {line}"))
    with _signals_as_exceptions():
        try:
            code = _work(stack, console, codes=codes)
            return max(code, _stop(stack, broken=code != 0))
        except StopRequested:
            # A second one: whoever sent it does not want to wait.
            stack.kill()
            return 0


def _work(stack: Stack, console: Console, *, codes: int) -> int:
    try:
        console.rule(f"[bold]codesvc {__version__}[/], data in {stack.directory}", align="left")
        stack.start()
        demonstrate(stack, console, codes=codes)
        _say(console, f"\n[bold]{stack.url}/console[/] shows stock and uploads, and lends codes.")
        _say(console, f"[bold]{stack.url}/docs[/] shows every request. Ctrl-C ends everything.")
        while True:
            time.sleep(_WATCH_SECONDS)
            stack.check()
    except StopRequested:
        _say(console, "\nStopping (Ctrl-C again: at once)")
        return 0
    except (LocalStackError, OSError) as error:
        _tell(error)
        return 1


def _stop(stack: Stack, *, broken: bool) -> int:
    """End every process in order; a failure on the way ends them at once."""
    try:
        stack.stop(broken=broken)
    except (LocalStackError, OSError) as error:
        stack.kill()
        _tell(error)
        return 1
    return 0


def _tell(error: Exception) -> None:
    """Write one line, and below it the last lines of a dead process's log."""
    reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
    lines = error.log_lines if isinstance(error, ProcessDiedError) else ()
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.write("".join([f"codesvc dev: {reason}\n", *(f"    {line}\n" for line in lines)]))
        sys.stderr.flush()


def _say(console: Console, line: str) -> None:
    # The terminal may be gone while the stack still has to be stopped in order.
    with suppress(OSError, SystemExit):
        console.print(line, soft_wrap=True)


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise StopRequested

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
