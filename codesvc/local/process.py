"""A child process of the embedded stack: it never outlives its parent, and says why it died."""

import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from codesvc.errors import CodesvcError

LOOPBACK: Final = "127.0.0.1"

# Runs between fork and the real program. A preexec_fn would run Python code after the fork of a process that
# may hold threads; a program of its own can do so safely. The look at the parent closes the gap in which it
# died before prctl took effect (prctl(2), PR_SET_PDEATHSIG).
_DIE_WITH_PARENT: Final = """
import os, signal, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None, use_errno=True).prctl(1, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent is gone")
try:
    os.execv(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]}: {error.strerror}")
"""

_POLL_SECONDS: Final = 0.02


class LocalStackError(CodesvcError):
    """A part of the embedded stack cannot start, or died; the message is one line that says why."""


class ProcessDiedError(LocalStackError):
    """A child process ended by itself. ``log_lines`` are the last that it wrote."""

    def __init__(self, message: str, log_lines: Sequence[str]) -> None:
        super().__init__(message)
        self.log_lines = tuple(log_lines)


class ChildProcess:
    """One program, in a session of its own so that a terminal's Ctrl-C reaches only the parent.

    On Linux the kernel kills it when the thread that started it ends, SIGKILL of the parent included: start
    it from the main thread.

    Attributes:
        name: what people call it, in messages.
        log: the file that its standard output and error go to (appended).

    """

    def __init__(
        self, arguments: Sequence[str | Path], *, name: str, log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        self._arguments = [str(argument) for argument in arguments]
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process's id, also after its end."""
        if self._process is None:
            raise LocalStackError(f"{self.name} was never started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the signal's number after a signal, or None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start the program; returns at once."""
        command = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *self._arguments]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own programs only
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise ProcessDiedError, with the last lines of the log, unless the process runs."""
        code = self.returncode
        if code is not None:
            raise ProcessDiedError(f"{self.name} ended {_how(code)}", self.last_log_lines())

    def stop(self, *, limit: float = 20.0) -> int:
        """Ask the process to end with SIGTERM, kill it after ``limit`` seconds, and return its exit code."""
        if self._process is None:
            return 0
        self._signal(signal.SIGTERM)
        try:
            return self._process.wait(limit)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """End the process with SIGKILL, as a crash would, and return its exit code."""
        if self._process is None:
            return 0
        self._signal(signal.SIGKILL)
        return self._process.wait()

    def last_log_lines(self, count: int = 10) -> list[str]:
        """Return the last lines that the process wrote, the latest last."""
        return tail(self.log, count)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def free_port() -> int:
    """Return a TCP port that nothing listens on at the moment; another process may still take it first."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def check_port(port: int, *, host: str = LOOPBACK, wanted_by: str) -> None:
    """Raise LocalStackError if ``port`` cannot be listened on."""
    with socket.socket() as probe:
        # A server that has ended leaves connections in TIME_WAIT; they do not stop the next from listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            raise LocalStackError(
                f"port {port} for {wanted_by} needs a privilege that this user lacks"
            ) from None
        except OSError:
            raise LocalStackError(f"port {port} for {wanted_by} is in use") from None


def wait_for_port(process: ChildProcess, port: int, *, limit: float) -> None:
    """Wait until something accepts connections on ``port``; raise as soon as the process has died."""
    deadline = time.monotonic() + limit
    while True:
        with suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1.0):
            return
        process.check()
        if time.monotonic() > deadline:
            raise ProcessDiedError(
                f"{process.name} did not listen within {limit:.0f} s", process.last_log_lines()
            )
        time.sleep(_POLL_SECONDS)


def make_directory(directory: Path) -> None:
    """Make a directory, and raise LocalStackError if it cannot be made or written to."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".probe-{os.getpid()}"
        probe.write_bytes(b"?")
        probe.unlink()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise LocalStackError(f"the disk of {directory} is full") from None
        raise LocalStackError(f"{directory} cannot be written to: {error.strerror}") from None


def check_room(directory: Path, *, least: int) -> None:
    """Raise LocalStackError if the disk of an existing directory has fewer than ``least`` bytes free."""
    free = shutil.disk_usage(directory).free
    if free < least:
        raise LocalStackError(
            f"the disk of {directory} is full: {free >> 20} MB are free, at least {least >> 20} MB are needed"
        )


def locked_by_another(file: Path) -> bool:
    """Tell whether another process holds flock(2) on ``file``."""
    try:
        handle: IO[bytes] = file.open("rb+")
    except FileNotFoundError:
        return False
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def tail(file: Path, count: int) -> list[str]:
    """Return the last ``count`` lines of a text file, or fewer; none if it does not exist."""
    with suppress(OSError), file.open("rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - (64 << 10)))
        return handle.read().decode(errors="replace").splitlines()[-count:]
    return []


def _how(code: int) -> str:
    if code >= 0:
        return f"with exit code {code}"
    with suppress(ValueError):
        return f"by {signal.Signals(-code).name}"
    return f"by signal {-code}"
