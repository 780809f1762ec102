"""How far an upload has come: a bar on a terminal, a line every few seconds elsewhere."""

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

_LINE_SECONDS: Final = 3.0


class UploadProgress:
    """Shows codes, codes/s, bytes and the time left, from first to last ``with``.

    Attributes:
        codes: the codes stored so far.

    """

    def __init__(self, console: Console, *, bytes_total: int = 0, codes_total: int | None = None) -> None:
        self.codes = 0
        self._console = console
        self._codes_total = codes_total
        self._bytes_total = bytes_total
        self._bytes_done = 0
        self._started = time.monotonic()
        self._next_line = self._started + _LINE_SECONDS
        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[told]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("upload", total=1.0, told="")

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return time.monotonic() - self._started

    def update(self, *, codes: int, bytes_done: int, bytes_total: int | None = None) -> None:
        """Show a new state; cheap enough to be called for every batch."""
        self.codes = codes
        self._bytes_done = bytes_done
        self._bytes_total = self._bytes_total if bytes_total is None else bytes_total
        if self._console.is_terminal:
            self._bar.update(self._task, completed=self._share(), told=self._told())
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_SECONDS
            self._console.print(f"{self._share():4.0%}  {self._told()}", soft_wrap=True)

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._next_line = self._started + _LINE_SECONDS
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def _share(self) -> float:
        if self._codes_total is not None:
            return min(1.0, self.codes / max(1, self._codes_total))
        return min(1.0, self._bytes_done / max(1, self._bytes_total))

    def _told(self) -> str:
        seconds = self.seconds
        share = self._share()
        of_codes = "" if self._codes_total is None else f"/{self._codes_total:,}"
        left = _clock(seconds * (1 - share) / share) if share else "-:--"
        return (
            f"{self.codes:,}{of_codes} codes  {self.codes / max(seconds, 0.001):,.0f} codes/s  "
            f"{self._bytes_done / 1e6:,.1f}/{self._bytes_total / 1e6:,.1f} MB  ETA {left}"
        )


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    if hours:
        return f"{hours}:{rest // 60:02}:{rest % 60:02}"
    return f"{rest // 60}:{rest % 60:02}"
