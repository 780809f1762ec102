"""A load of many files by many processes: which files there are, which are the share of one, and the way through them.

    codes/12345/tm/ ──listing, in pages──▶ files that match ──▶ those of share 3 of 16 ──one after another──▶ totals

Nobody hands out files and nobody keeps a list of them. Whose a file is depends on its name and on the number of shares
alone: each process finds its own by itself, one that starts again finds the same, and a file that comes or goes
meanwhile moves no other.
"""

import hashlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

from codesvc.errors import (
    CodesvcError,
    DatabaseUnavailableError,
    DrainingError,
    SourceNotFoundError,
    StorageUnavailableError,
)
from codesvc.models import Progress, SourceFile, UploadCounts, UploadReport

# 2**64 divided by the golden ratio: multiples of it, modulo 2**64, lie as far apart as any sequence's can.
# Knuth, The Art of Computer Programming, vol. 3, section 6.4 (Fibonacci hashing).
_GOLDEN: Final = 0x9E3779B97F4A7C15
_BITS: Final = 64
_LAST_NUMBER: Final = re.compile(r"([0-9]+)(?=[^0-9]*\Z)")

# Files in a row that may fail for want of MongoDB or S3: then those that follow would, too.
_UNAVAILABLE_IN_A_ROW: Final = 3
_MOST_FAILURES_KEPT: Final = 100

_NOT_HIDDEN: Final = "(?![._])"


class Listing(Protocol):
    """Where files are found."""

    def files(self, prefix: str, /) -> AsyncIterator[SourceFile]:
        """Yield every file whose name begins with ``prefix``; raises StorageUnavailableError."""


@dataclass(frozen=True, slots=True)
class Share:
    """One of ``total`` equal shares; the first has the index 0."""

    index: int = 0
    total: int = 1

    def holds(self, name: str) -> bool:
        """Tell whether a file belongs to it; each belongs to one share out of ``total``.

        Files that are numbered in a row are dealt out evenly, others at random. By their size they are not: that would
        take a list that all processes agree on.
        """
        number = _LAST_NUMBER.search(name)
        rest = name if number is None else name[: number.start()] + name[number.end() :]
        digest = hashlib.blake2b(rest.encode(errors="surrogatepass"), digest_size=_BITS // 8).digest()
        place = int.from_bytes(digest) + (0 if number is None else int(number[0]) * _GOLDEN)
        return (place % (1 << _BITS)) * self.total >> _BITS == self.index


@dataclass(frozen=True, slots=True)
class Selection:
    """The files of a load: everything that begins with ``prefix`` and fits ``pattern``."""

    prefix: str
    pattern: re.Pattern[str] = field(repr=False)

    @classmethod
    def of(cls, name: str) -> Self:
        """Read a name that ends in ``/`` (all files below it) or has a ``*`` in it.

        ``*`` stands for anything but ``/``, and ``**`` for that as well. As in a shell, neither stands for a name that
        begins with a dot; nor for one with an underscore, by which Hadoop and its kin mark what is no data.
        """
        pattern = f"{name}**" if name.endswith("/") or not name else name
        parts = re.split(r"(\*\*/|\*\*|\*)", pattern)
        expression = ""
        for index, part in enumerate(parts):
            before = "".join(parts[:index])
            start = _NOT_HIDDEN if not before or before.endswith("/") else ""
            match part:
                case "**/":
                    expression += f"(?:{_NOT_HIDDEN}[^/]+/)*"
                case "**":
                    expression += f"(?:{_NOT_HIDDEN}[^/]+/)*{start}[^/]*"
                case "*":
                    expression += f"{start}[^/]*"
                case _:
                    expression += re.escape(part)
        return cls(parts[0], re.compile(expression))

    def holds(self, name: str) -> bool:
        """Tell whether a file is one of them."""
        return not name.endswith("/") and self.pattern.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class FileFailure:
    """A file that was not loaded to its end, and why."""

    file: str
    reason: str


@dataclass(slots=True)
class LoadReport:
    """What became of a share.

    Attributes:
        listed: the files of all shares.
        files: those of this share.
        size: their bytes.
        loaded: those that were stored to their end.
        counts: the codes of those.
        invalid_count: their invalid rows.
        failed: those that were not stored to their end; of an upload that broke off, some codes may be.
        failures: the first hundred of them.

    """

    listed: int = 0
    files: int = 0
    size: int = 0
    loaded: int = 0
    counts: UploadCounts = field(default_factory=UploadCounts)
    invalid_count: int = 0
    failed: int = 0
    failures: list[FileFailure] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every file of the share was stored to its end."""
        return not self.failed and self.loaded >= self.files


class Told(Protocol):
    """Who hears how a load comes on."""

    def found(self, report: LoadReport) -> None:
        """Hear how many files there are; loading begins."""

    def moved(self, *, codes: int, bytes_done: int) -> None:
        """Hear how many codes are stored, and how many bytes of the share are done."""

    def loaded(self, file: SourceFile, report: UploadReport, seconds: float) -> None:
        """Hear of a file that is stored."""

    def failed(self, failure: FileFailure) -> None:
        """Hear of one that is not."""


async def load_share(
    listing: Listing,
    selection: Selection,
    share: Share,
    load: Callable[[str, Callable[[Progress], None]], Awaitable[UploadReport]],
    told: Told,
) -> LoadReport:
    """Load the files of a share, one after another, with ``load``; a file that fails does not keep back the others.

    The listing is gone through twice, first to know how much there is, and never kept. When MongoDB or the object store
    fails three files in a row, or the process is to go, the rest is given up: ``LoadReport.complete`` tells.

    Raises:
        SourceNotFoundError: there is no such file in any share.
        StorageUnavailableError: the files cannot be listed.

    """
    report = LoadReport()
    async for file in _matching(listing, selection):
        report.listed += 1
        if share.holds(file.name):
            report.files += 1
            report.size += file.size
    if not report.listed:
        raise SourceNotFoundError("There is no file of that name or below it.")
    told.found(report)
    done = unavailable = 0
    async for file in _matching(listing, selection):
        if not share.holds(file.name):
            continue
        before = report.counts.total

        def moved(progress: Progress, done: int = done, before: int = before) -> None:
            told.moved(codes=before + progress.counts.total, bytes_done=done + progress.bytes_done)

        started = time.monotonic()
        try:
            stored = await load(file.name, moved)
        except DrainingError:
            break
        except CodesvcError as error:
            unavailable += isinstance(error, DatabaseUnavailableError | StorageUnavailableError)
            report.failed += 1
            failure = FileFailure(file.name, str(error))
            if len(report.failures) < _MOST_FAILURES_KEPT:
                report.failures.append(failure)
            told.failed(failure)
            if unavailable >= _UNAVAILABLE_IN_A_ROW:
                break
        else:
            unavailable = 0
            report.loaded += 1
            report.counts += stored.counts
            report.invalid_count += stored.invalid_count
            told.loaded(file, stored, time.monotonic() - started)
        done += file.size
        told.moved(codes=report.counts.total, bytes_done=done)
    return report


async def _matching(listing: Listing, selection: Selection) -> AsyncIterator[SourceFile]:
    async for file in listing.files(selection.prefix):
        if selection.holds(file.name):
            yield file
