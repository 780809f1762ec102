"""The commands that ask a running service, through codesvc.client."""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from codesvc import cli_export, cli_help
from codesvc.cli_output import EXIT_INTERRUPTED, EXIT_OK, complain, print_line, print_report, run
from codesvc.errors import CodesvcError, SettingsError
from codesvc.models import CodeType, Status, UploadReport

if TYPE_CHECKING:
    from codesvc.client import Change, Client, Upload

DEFAULT_URL: Final = "http://127.0.0.1:8080"
_TOKEN_SECONDS: Final = 600.0
_DONE: Final = {"assign": "assigned", "release": "released"}
_TYPES: Final = [str(one) for one in CodeType]


class Add(Protocol):
    """Adds a command to the parser."""

    def __call__(
        self, name: str, summary: str, text: str, epilog: str, command: Callable[[argparse.Namespace], int], /
    ) -> argparse.ArgumentParser:
        """Return the command's own parser."""
        ...


def add_commands(add: Add) -> None:
    """Add the commands of this module."""
    upload = add(
        "upload", "have a service load a file", cli_help.UPLOAD, cli_help.REMOTE, partial(_remote, _upload)
    )
    upload.add_argument("file_key", metavar="FILE_KEY", help="codes/CAMPAIGN/TYPE/NAME, in its bucket")
    upload.add_argument("--header", action="store_true", help="pass over the first record")
    upload.add_argument("--strict", action="store_true", help="end at the first invalid row, and fail")
    upload.add_argument("--dry-run", action="store_true", help="store nothing, and tell what would be stored")
    upload.add_argument("--no-wait", action="store_true", help="only begin it, and print its id")
    upload.add_argument("--cancel-on-interrupt", action="store_true", help="let Ctrl-C cancel it")

    uploads = add(
        "uploads",
        "look at a campaign's uploads",
        cli_help.UPLOADS,
        cli_help.REMOTE,
        partial(_remote, _uploads),
    )
    uploads.add_argument("campaign", metavar="CAMPAIGN")
    uploads.add_argument("upload_id", metavar="UPLOAD_ID", nargs="?", help="one of them")
    uploads.add_argument("--limit", type=int, default=20, metavar="N", help="list so many at the most (20)")
    what = uploads.add_mutually_exclusive_group()
    what.add_argument("--follow", action="store_true", help="show how far it is until it has ended")
    what.add_argument("--cancel", action="store_true", help="cancel it, if it is under way")
    what.add_argument(
        "--take-back", action="store_true", help="delete those of its codes that are still available"
    )

    count = add("count", "count codes", cli_help.COUNT, cli_help.REMOTE, partial(_remote, _count))
    count.add_argument("campaign", metavar="CAMPAIGN")
    count.add_argument("--type", choices=_TYPES, required=True)
    count.add_argument("--status", choices=[str(one) for one in Status], help="only that one")

    reserve = add("reserve", "reserve codes", cli_help.RESERVE, cli_help.REMOTE, partial(_remote, _reserve))
    reserve.add_argument("campaign", metavar="CAMPAIGN")
    reserve.add_argument("--type", choices=_TYPES, required=True)
    reserve.add_argument("--count", type=int, required=True, metavar="N", help="how many")
    reserve.add_argument("--ttl", type=int, metavar="SECONDS", help="how long, if not as long as others")
    reserve.add_argument("--min", type=int, metavar="N", help="so many at least, or none, and fail")

    every = [upload, uploads, count, reserve]
    for name, text in (("assign", cli_help.ASSIGN), ("release", cli_help.RELEASE)):
        change = add(name, f"{name} codes", text, cli_help.CODES_EPILOG, partial(_remote, _change))
        change.set_defaults(action=name)
        change.add_argument("campaign", metavar="CAMPAIGN")
        change.add_argument("codes", metavar="CODE", nargs="*", help="codes, or - for standard input")
        change.add_argument("--file", type=Path, metavar="FILE", help="a file of codes, one a line")
        change.add_argument("--reservation", metavar="ID", help="all that it still holds")
        every.append(change)
    cli_export.add_arguments(
        add(
            "export",
            "write all codes of a campaign",
            cli_help.EXPORT,
            cli_help.REMOTE,
            partial(_remote, cli_export.export),
        )
    )
    for each in every:
        each.add_argument("--json", action="store_true", help="print JSON")


def _remote(
    command: Callable[["Client", argparse.Namespace], Awaitable[int]], options: argparse.Namespace
) -> int:
    from codesvc.client import CodesvcClientError  # noqa: PLC0415 - for --help to answer at once

    try:
        return run(_connected(command, options))
    except CodesvcClientError as error:
        if error.may_have_taken_effect and command is _reserve:
            raise CodesvcError(f"{error}; codes may be held all the same, until their hold ends") from None
        raise


async def _connected(
    command: Callable[["Client", argparse.Namespace], Awaitable[int]], options: argparse.Namespace
) -> int:
    from codesvc.client import Client  # noqa: PLC0415

    token = os.environ.get("CODESVC_TOKEN") or _Minted()
    try:
        client = Client(os.environ.get("CODESVC_URL") or DEFAULT_URL, token=token)
    except ValueError as error:
        raise SettingsError(f"CODESVC_URL: {error}") from None
    async with client:
        return await command(client, options)


class _Minted:
    """Tokens made with the service's secret, a new one when half the time of the last is over."""

    def __init__(self) -> None:
        if not os.environ.get("CODESVC_JWT_SECRET"):
            raise SettingsError("CODESVC_TOKEN: is not set, nor is CODESVC_JWT_SECRET")
        from codesvc.serving import mint_configured_token  # noqa: PLC0415 - slow to load, and seldom needed
        from codesvc.settings import load_settings  # noqa: PLC0415

        self._mint = partial(mint_configured_token, load_settings(), ttl=_TOKEN_SECONDS)
        self._token = ""
        self._until = float("-inf")

    def __call__(self) -> str:
        if time.monotonic() >= self._until:
            self._token = self._mint()
            self._until = time.monotonic() + _TOKEN_SECONDS / 2
        return self._token


async def _upload(client: "Client", options: argparse.Namespace) -> int:
    begun = partial(
        client.upload,
        options.file_key,
        header=options.header,
        strict=options.strict,
        dry_run=options.dry_run,
    )
    if options.no_wait:
        _print_upload(await begun(wait=False), as_json=options.json)
        return EXIT_OK
    campaign = options.file_key.partition("/")[2].partition("/")[0]
    cancel = options.cancel_on_interrupt
    return await _followed(client, campaign, begun, as_json=options.json, cancel_on_interrupt=cancel)


async def _followed(
    client: "Client",
    campaign: str,
    following: Callable[..., Awaitable["Upload"]],
    *,
    as_json: bool,
    cancel_on_interrupt: bool = False,
) -> int:
    """Show an upload until it has ended, and then what it did."""
    from rich.console import Console  # noqa: PLC0415

    from codesvc.client import UploadEndedError  # noqa: PLC0415
    from codesvc.progress import UploadProgress  # noqa: PLC0415

    last: Upload | None = None
    with ExitStack() as stack:
        bar = stack.enter_context(UploadProgress(Console(stderr=True, highlight=False)))

        def show(upload: "Upload") -> None:
            nonlocal last
            last = upload
            total = upload.bytes_total
            bar.update(codes=upload.counts.total, bytes_done=upload.bytes_done, bytes_total=total)

        try:
            upload = await following(progress=show)
        except UploadEndedError as error:
            if as_json:
                _print_upload(error.upload, as_json=True)
            raise
        except asyncio.CancelledError:
            stack.close()
            await _interrupted(client, campaign, last, cancel=cancel_on_interrupt)
            return EXIT_INTERRUPTED
    _print_upload(upload, as_json=as_json, seconds=bar.seconds)
    return EXIT_OK


async def _interrupted(client: "Client", campaign: str, last: "Upload | None", *, cancel: bool) -> None:
    if last is None or last.upload_id is None:
        complain("interrupted: the upload may go on in the service; to send the file again is safe")
    elif cancel:
        upload = await client.cancel_upload(campaign, last.upload_id)
        state = upload.state if upload.state.ended else "being cancelled"
        complain(f"interrupted: the upload {last.upload_id} is {state}; what it stored stays")
    else:
        look = f"codesvc uploads {campaign} {last.upload_id}"
        complain(f"interrupted: the upload goes on in the service; {look} shows it, --follow or --cancel")


async def _uploads(client: "Client", options: argparse.Namespace) -> int:
    campaign, upload_id = options.campaign, options.upload_id
    if upload_id is None:
        if options.follow or options.cancel or options.take_back:
            raise SettingsError("UPLOAD_ID: is needed to follow, to cancel or to take back an upload")
        every = await client.uploads(campaign, limit=options.limit)
        if options.json:
            print_line(json.dumps({"uploads": [_as_json(each) for each in every]}))
        else:
            for each in every:
                print_line(_one_line(each))
        return EXIT_OK
    if options.follow:
        following = partial(client.follow, campaign, upload_id)
        return await _followed(client, campaign, following, as_json=options.json)
    if options.take_back:
        upload = await client.take_back(campaign, upload_id)
    else:
        asked = client.cancel_upload if options.cancel else client.get_upload
        upload = await asked(campaign, upload_id)
    print_line(json.dumps(_as_json(upload)) if options.json else _one_line(upload))
    return EXIT_OK


async def _count(client: "Client", options: argparse.Namespace) -> int:
    if options.status is not None:
        number = await client.count_status(options.campaign, options.type, options.status)
        counts = {options.status: number}
    else:
        found = await client.count(options.campaign, options.type)
        counts = {"available": found.available, "reserved": found.reserved, "assigned": found.assigned}
    if options.json:
        print_line(json.dumps(counts))
    else:
        print_line("  ".join(f"{status} {number:,}" for status, number in counts.items()))
    return EXIT_OK


async def _reserve(client: "Client", options: argparse.Namespace) -> int:
    reservation = await client.reserve(
        options.campaign, options.type, options.count, ttl=options.ttl, minimum=options.min
    )
    until = None if reservation.expires is None else reservation.expires.isoformat()
    if options.json:
        codes = [{"code": each.code, "reserved": each.reserved.isoformat()} for each in reservation.codes]
        told = {"reserveId": reservation.reserve_id, "codes": codes, "count": len(codes), "expiresAt": until}
        print_line(json.dumps(told))
        return EXIT_OK
    for each in reservation.codes:
        print_line(each.code)
    held = len(reservation.codes)
    of = "" if held == options.count else f" of the {options.count:,} asked for"
    ending = "" if options.ttl is None else f", until {until}"
    sys.stderr.write(f"{held:,} codes{of}, reservation {reservation.reserve_id}{ending}\n")
    return EXIT_OK


async def _change(client: "Client", options: argparse.Namespace) -> int:
    from codesvc.client import CodesvcClientError  # noqa: PLC0415

    if options.reservation is not None:
        if options.codes or options.file is not None:
            raise SettingsError("--reservation: stands instead of codes, not beside them")
        whole = client.assign_reservation if options.action == "assign" else client.release_reservation
        _print_change(await whole(options.campaign, options.reservation), options)
        return EXIT_OK
    action = client.assign if options.action == "assign" else client.release
    try:
        done = await action(options.campaign, _codes(options))
    except CodesvcClientError as error:
        if error.done is not None and error.done.total:
            done = error.done
            told = f"{error} (before it, {done.total:,} were sent and {done.updated:,} changed)"
            raise CodesvcError(told) from None
        raise
    _print_change(done, options)
    return EXIT_OK


def _print_change(done: "Change", options: argparse.Namespace) -> None:
    if options.json:
        count = {"in": done.total, "updated": done.updated}
        print_line(json.dumps({"count": count, "exact": done.exact}))
        return
    perhaps = "" if done.exact else " (or more: a request had to be sent again)"
    of = "sent" if options.reservation is None else "held"
    print_line(f"{done.total:,} {of}, {done.updated:,} {_DONE[options.action]}{perhaps}")


def _codes(options: argparse.Namespace) -> Iterable[str]:
    """Return the codes that the arguments name; a file is read as its codes are sent."""
    given: list[str] = options.codes
    if options.file is not None:
        if given:
            raise SettingsError("--file: stands instead of codes, not beside them")
        return _lines(options.file)
    if given == ["-"]:
        return _lines(None)
    if not given or "-" in given:
        raise SettingsError("CODE: codes, a single -, --file or --reservation is needed")
    return given


def _lines(file: Path | None) -> Iterator[str]:
    name = "standard input" if file is None else str(file)
    try:
        with ExitStack() as stack:
            stream: Any = sys.stdin.buffer if file is None else stack.enter_context(file.open("rb"))
            for number, raw in enumerate(stream, 1):
                try:
                    line = raw.decode().rstrip("\r\n")
                except UnicodeDecodeError:
                    raise CodesvcError(f"{name}: line {number} is not UTF-8") from None
                if line:
                    yield line
    except OSError as error:
        raise SettingsError(f"--file: {name}: {error.strerror}") from None


def _print_upload(upload: "Upload", *, as_json: bool, seconds: float | None = None) -> None:
    if as_json:
        told = _as_json(upload)
        if seconds is not None:
            told["seconds"] = round(seconds, 3)
        print_line(json.dumps(told))
    elif not upload.state.ended:
        print_line(f"{upload.upload_id}")
    else:
        report = UploadReport(upload.counts, upload.invalid_count, upload.invalid_samples)
        print_report(report, seconds=seconds or 0.0, as_json=False, dry_run=upload.dry_run)


def _as_json(upload: "Upload") -> dict[str, Any]:
    counts = upload.counts
    problem = upload.problem
    told: dict[str, Any] = {
        "uploadId": upload.upload_id,
        "fileKey": upload.file_key,
        "state": upload.state,
        "bytes": {"done": upload.bytes_done, "total": upload.bytes_total},
        "count": {"in": counts.total, "inserted": counts.inserted, "updated": counts.updated},
        "invalid": {
            "count": upload.invalid_count,
            "samples": [{"line": row.line, "reason": row.reason} for row in upload.invalid_samples],
        },
        "startedAt": None if upload.started_at is None else upload.started_at.isoformat(),
        "finishedAt": None if upload.finished_at is None else upload.finished_at.isoformat(),
        "error": None if problem is None else {"code": problem.code, "detail": problem.detail},
        "exact": upload.exact,
    }
    taken = upload.taken_back
    if taken is not None:
        told["takenBack"] = {"count": taken.count, "at": taken.at.isoformat(), "done": taken.done}
    return told | {"dryRun": True} if upload.dry_run else told


def _one_line(upload: "Upload") -> str:
    started = "" if upload.started_at is None else f"  {upload.started_at:%Y-%m-%d %H:%M:%S}"
    problem = "" if upload.problem is None else f"  {upload.problem.detail}"
    counts = (
        f"{upload.counts.total:,} codes, {upload.invalid_count:,} invalid rows" + ", dry run" * upload.dry_run
    )
    taken = "" if upload.taken_back is None else f", {upload.taken_back.count:,} taken back"
    return f"{upload.upload_id}  {upload.state:<9}{started}  {upload.file_key}  {counts}{taken}{problem}"
