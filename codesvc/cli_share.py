"""``codesvc ingest`` of many files: one process's share of them, told file by file."""

import argparse
import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from rich.console import Console

from codesvc.app import open_service
from codesvc.cli_output import DRY_RUN, EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_OK, complain, print_line
from codesvc.drain import Drain
from codesvc.errors import CodesvcError, SettingsError, SourceNotFoundError
from codesvc.ingest.shares import FileFailure, LoadReport, Share
from codesvc.loading import ingest_share
from codesvc.models import CodeType, SourceFile, UploadReport
from codesvc.progress import UploadProgress
from codesvc.settings import load_settings

INDEX_VARIABLE: Final = "JOB_COMPLETION_INDEX"
"""Kubernetes sets it in the pods of an Indexed Job."""
TOTAL_VARIABLE: Final = "JOB_COMPLETIONS"
"""The Job's manifest sets it to its ``completions``."""


def names_many(source: str) -> bool:
    """Tell whether a source is a directory, a prefix or a pattern, rather than one file.

    A directory needs its slash, as a prefix does: who means one file must not load a folder.
    """
    return not Path(source).is_file() and (source.endswith("/") or "*" in source)


async def ingest(options: argparse.Namespace) -> int:
    """Load the share that the options or the environment name; print a report and return the exit code.

    SIGTERM and Ctrl-C end it at the next batch, a second one at once.

    Raises:
        SettingsError: the share is malformed or only half told, or a setting is.
        CodesvcError: there are no such files, or they cannot be listed.

    """
    settings = load_settings()
    share = _share(options.index, options.total)
    drain = Drain()
    drain.listen()
    with _Told(Console(stderr=True, highlight=False)) as told:
        async with open_service(settings) as service:
            hurrying = asyncio.create_task(_when_signalled(drain, service.uploads.drain))
            try:
                report = await ingest_share(
                    service,
                    options.source,
                    share=share,
                    told=told,
                    campaign_id=options.campaign,
                    code_type=None if options.type is None else CodeType(options.type),
                    header=options.header,
                    strict=options.strict,
                    dry_run=options.dry_run,
                )
            except SourceNotFoundError as error:
                raise CodesvcError(f"{options.source}: {error}") from None
            finally:
                hurrying.cancel()
    _print_report(report, share, seconds=told.seconds, options=options)
    if report.complete:
        return EXIT_OK
    left = report.files - report.loaded
    done = "were not gone through" if options.dry_run else "are not loaded"
    complain(f"{left:,} of {report.files:,} files {done}: to run this again is safe")
    return EXIT_INTERRUPTED if drain.begun() else EXIT_FAILURE


async def _when_signalled(drain: Drain, hurry: Callable[[], None]) -> None:
    await drain.signalled()
    hurry()


def _share(index: int | None, total: int | None) -> Share:
    if index is None:
        index = _number(INDEX_VARIABLE)
    if total is None:
        total = _number(TOTAL_VARIABLE)
    if index is None and total is None:
        return Share()
    if total is None:
        raise SettingsError(f"--total: is not set, nor is {TOTAL_VARIABLE}, so the share's size is not known")
    if index is None:
        raise SettingsError(
            f"--index: is not set, nor is {INDEX_VARIABLE}, so which share it is is not known"
        )
    if total < 1:
        raise SettingsError("--total: is not 1 or more")
    if not 0 <= index < total:
        raise SettingsError(f"--index: is not 0 to {total - 1}")
    return Share(index, total)


def _number(variable: str) -> int | None:
    text = os.environ.get(variable, "").strip()
    if text and not (text.isascii() and text.isdigit()):
        raise SettingsError(f"{variable}: is no whole number")
    return int(text) if text else None


class _Told:
    """Tells how a share comes on: a line for each file, and the bar or the lines of ``UploadProgress`` over all."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown = UploadProgress(console)
        self._size: int | None = None

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return self._shown.seconds

    def found(self, report: LoadReport) -> None:
        """Show how much there is to do."""
        self._size = report.size
        self._line(f"{report.files:,} of {report.listed:,} files, {report.size / 1e6:,.1f} MB")

    def moved(self, *, codes: int, bytes_done: int) -> None:
        """Move the bar."""
        self._shown.update(codes=codes, bytes_done=bytes_done, bytes_total=self._size)

    def loaded(self, file: SourceFile, report: UploadReport, seconds: float) -> None:
        """Show what a file held."""
        counts = report.counts
        self._line(
            f"{file.name}: {counts.total:,} codes in {seconds:.2f} s, {counts.inserted:,} inserted, "
            f"{counts.updated:,} updated, {report.invalid_count:,} invalid rows"
        )

    def failed(self, failure: FileFailure) -> None:
        """Show why a file is not loaded."""
        self._line(f"{failure.file}: FAILED: {failure.reason}")

    def __enter__(self) -> Self:
        self._shown.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._shown.__exit__(None, None, None)

    def _line(self, text: str) -> None:
        # A key may hold anything, and a terminal obeys some of it.
        printable = "".join(character if character.isprintable() else "?" for character in text)
        self._console.print(printable, markup=False, soft_wrap=True)


def _print_report(report: LoadReport, share: Share, *, seconds: float, options: argparse.Namespace) -> None:
    counts = report.counts
    if options.json:
        told: dict[str, Any] = {
            "share": {"index": share.index, "total": share.total},
            "files": {"listed": report.listed, "in": report.files, "loaded": report.loaded},
            "failed": {
                "count": report.failed,
                "samples": [{"file": one.file, "reason": one.reason} for one in report.failures],
            },
            "count": {"in": counts.total, "inserted": counts.inserted, "updated": counts.updated},
            "invalid": {"count": report.invalid_count},
            "seconds": round(seconds, 3),
        }
        line = json.dumps(told | {"dryRun": True} if options.dry_run else told)
    else:
        rate = f"{counts.total / max(seconds, 0.001):,.0f} codes/s"
        line = f"{DRY_RUN}\n" if options.dry_run else ""
        line += (
            f"{report.loaded:,} files, {counts.total:,} codes in {seconds:.2f} s ({rate})\n"
            f"{counts.inserted:,} inserted, {counts.updated:,} updated, {report.invalid_count:,} invalid rows"
        )
    print_line(line)
