"""How lines leave the process: whole, in their order, and without holding it up.

Standard output is mostly a pipe, and a pipe whose reader stands still is full after 64 KiB: a plain write would then
stop the event loop, and with it every request and probe. So the pipe is asked first, and never given more at a time
than it is sure to take then (``select.PIPE_BUF``, 4 KiB on Linux). Those are whole lines as far as they fit, which
POSIX writes in one piece: processes that share a pipe do not mix theirs. What the reader does not take waits, 4 MiB of
it; what comes on top is dropped, and counted in a line of its own as soon as there is room.
"""

import asyncio
import fcntl
import logging
import os
import select
import stat
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TextIO

_GATHER_SECONDS: Final = 0.005
_RETRY_SECONDS: Final = 0.05
_CLOSE_SECONDS: Final = 1.0
_POLL_MILLISECONDS: Final = 20
_LOCK_SECONDS: Final = 0.001
_WAITING_BYTES: Final = 4 << 20
_FILE_BYTES: Final = 64 << 10


Access = tuple[float, str | None, tuple[str, str] | None, str, str, int, float, int, str | None]
"""When (seconds since the epoch), correlation id, trace and span, method, route, status, seconds, bytes, campaign."""


class LineHandler(logging.Handler):
    """Writes each record as one line, or whatever ``form`` makes of it.

    Attributes:
        json: whether requests are written past ``logging``, by ``access_form``.

    """

    def __init__(
        self,
        stream: TextIO,
        form: Callable[[logging.LogRecord], bytes],
        *,
        access_form: "Callable[[Access], bytes] | None" = None,
        lock: int | None = None,
    ) -> None:
        super().__init__()
        self.json = access_form is not None
        self._form = form
        self._output = _Output(stream, self._told, access_form, lock)
        self._loop: asyncio.AbstractEventLoop | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; whatever is wrong with it, something is written, and nothing raised."""
        try:
            line = self._form(record)
        except Exception as error:  # noqa: BLE001 - logging must never break what it tells of
            line = self._form(
                _record(
                    record.name, logging.ERROR, "a log line could not be made", reason=type(error).__name__
                )
            )
        self.write(line)

    def write(self, line: bytes) -> None:
        """Write a line, after those that wait."""
        self._output.put(line)
        if not self._output.flush() and not self._flush_in(_RETRY_SECONDS) and self._output.contended:
            # Another process writes at this moment, and nobody here would come back to the line before the next.
            self._output.wait(_RETRY_SECONDS)

    def write_soon(self, access: Access) -> None:
        """Write a request's line together with what else is written within a few milliseconds: one call for all."""
        self._output.put_soon(access)
        if self._output.is_file:
            if self._loop is not None and self._loop.is_running():
                return
            if self._flush_in(_GATHER_SECONDS):
                return
        self._output.flush()

    def flush(self) -> None:
        """Write the lines that wait, as far as somebody takes them."""
        self._output.flush()

    def close(self) -> None:
        """Write the lines that wait, for a second at most."""
        self._output.finish(_CLOSE_SECONDS)
        super().close()

    def _flush_in(self, seconds: float) -> bool:
        """Let the loop flush later, if this is its thread; False if not."""
        if self._loop is not None and self._loop.is_running():
            return True
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        self._loop = loop
        loop.call_later(seconds, self._flush_now)
        return True

    def _flush_now(self) -> None:
        self._loop = None
        if not self._output.flush():
            self._flush_in(_RETRY_SECONDS)

    def _told(self, dropped: int) -> bytes:
        return self._form(
            _record(__name__, logging.WARNING, "log lines were dropped: they are not read", lines=dropped)
        )


class _Output:
    """The lines on their way to a stream; any thread may use it.

    ``lock`` is the descriptor of a file that is locked (lockf) while lines are written, so that one that is too long
    for one write is whole all the same; nobody waits for it, as nobody waits for the reader.
    """

    def __init__(
        self,
        stream: TextIO,
        told: Callable[[int], bytes],
        access_form: "Callable[[Access], bytes] | None",
        lock: int | None,
    ) -> None:
        self._stream = stream
        self._told = told
        self._access_form = access_form
        self._soon: deque[Access] = deque()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._rest = b""
        self._dropped = 0
        self._flushing = False
        self._begun = False
        self._lock = threading.RLock()
        self._lock_file = lock
        self._locked = False
        self.contended = False
        try:
            stream.flush()
            self._fd = stream.fileno()
        except (OSError, ValueError, AttributeError):
            self.is_file = False
            return
        self.is_file = True
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLOUT)
        self._most = _FILE_BYTES if stat.S_ISREG(os.fstat(self._fd).st_mode) else select.PIPE_BUF
        _outputs.add(self)

    def put(self, line: bytes) -> None:
        """Take a line, unless too many wait."""
        with self._lock:
            self._make_lines()
            self._take(line)

    def put_soon(self, access: Access) -> None:
        """Take a request, whose line is made when it is written."""
        self._soon.append(access)

    def _make_lines(self) -> None:
        # NOTE: popped one by one, so that two threads never take the same, nor lose one.
        with suppress(IndexError):
            while self._access_form is not None:
                self._take(self._access_form(self._soon.popleft()))

    def _take(self, line: bytes) -> None:
        if self._size + len(line) > _WAITING_BYTES:
            self._dropped += 1
            return
        self._waiting.append(line)
        self._size += len(line)

    def flush(self) -> bool:
        """Write what is taken without waiting; tell whether that was everything."""
        with self._lock:
            if self._flushing:
                # A line that was logged while one is written, as by the garbage collector: the loop below finds it.
                return True
            self._flushing = True
            try:
                return self._write(0)
            finally:
                self._flushing = False

    def wait(self, seconds: float) -> None:
        """Write everything, but wait no longer than that."""
        deadline = time.monotonic() + seconds
        with self._lock:
            while not self._write(_POLL_MILLISECONDS) and time.monotonic() < deadline:
                time.sleep(_LOCK_SECONDS)

    def finish(self, seconds: float) -> None:
        """Write everything, for the last time."""
        self.wait(seconds)
        self._unlock()
        _outputs.discard(self)

    def forget(self) -> None:
        """Leave what waits to the process that this one is a fork of."""
        self._lock = threading.RLock()
        self._soon.clear()
        self._waiting.clear()
        self._size = self._dropped = 0
        self._rest = b""
        self._flushing = self._begun = self._locked = False

    def _write(self, patience: int) -> bool:
        self._make_lines()
        if not self._get_lock():
            return False
        try:
            return self._write_locked(patience)
        finally:
            if not self._begun:
                self._unlock()

    def _get_lock(self) -> bool:
        if self._lock_file is not None and not self._locked and (self._waiting or self._rest):
            self.contended = False
            try:
                fcntl.lockf(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.contended = True
                return False
            except OSError:
                self._lock_file = None  # it was closed: lines may mix, but none is lost
            else:
                self._locked = True
        return True

    def _unlock(self) -> None:
        if self._locked and self._lock_file is not None:
            self._locked = False
            with suppress(OSError):
                fcntl.lockf(self._lock_file, fcntl.LOCK_UN)

    def _write_locked(self, patience: int) -> bool:
        while self._stream.closed is False:
            if not self._rest:
                self._rest = self._next()
                if not self._rest:
                    return True
            if not self.is_file:
                self._stream.write(self._rest.decode("utf-8", "backslashreplace"))
                self._stream.flush()
                self._rest = b""
                continue
            if not self._poll.poll(patience):
                return False
            try:
                written = os.write(self._fd, self._rest[: self._most])
            except BlockingIOError:
                return False
            except OSError:
                # Who reads the log is gone, or the disk full: requests are served all the same.
                written = len(self._rest)
            self._rest = self._rest[written:]
            self._begun = bool(self._rest)
        self._waiting.clear()
        self._size = 0
        self._rest = b""
        self._begun = False
        return True

    def _next(self) -> bytes:
        """Take as many whole lines as are written at once; one that is longer is taken alone."""
        most = self._most if self.is_file else _FILE_BYTES
        lines: list[bytes] = []
        length = 0
        while self._waiting and (not lines or length + len(self._waiting[0]) <= most):
            line = self._waiting.popleft()
            length += len(line)
            lines.append(line)
        self._size -= length
        if not lines and self._dropped:
            dropped, self._dropped = self._dropped, 0
            return self._told(dropped)
        return b"".join(lines)


_outputs: "weakref.WeakSet[_Output]" = weakref.WeakSet()


def _after_fork() -> None:
    for output in _outputs:
        output.forget()


os.register_at_fork(after_in_child=_after_fork)


def _record(name: str, level: int, message: str, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord(name, level, "", 0, message, None, None)
    record.__dict__.update(extra)
    return record
