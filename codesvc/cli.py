"""The command line. Each command imports what it needs when it runs, so that ``--help`` answers at once."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codesvc import cli_help, cli_remote
from codesvc.cli_output import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from codesvc.cli_output import complain as _complain
from codesvc.cli_output import print_line as _print
from codesvc.cli_output import print_report as _print_report
from codesvc.cli_output import run as _run
from codesvc.errors import (
    CodesvcError,
    SettingsError,
    SourceChangedError,
    SourceNotFoundError,
    UploadRejectedError,
)
from codesvc.models import CodeType, Counts, Progress, UploadReport
from codesvc.version import __version__

if TYPE_CHECKING:
    from codesvc.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see ``codesvc --help``."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except SettingsError as error:
        _complain(str(error))
        return EXIT_USAGE
    except CodesvcError as error:
        _complain(str(error))
        return EXIT_FAILURE
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python's own flush at exit must not fail on it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except KeyboardInterrupt:
        _complain("interrupted")
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="codesvc",
        description=cli_help.DESCRIPTION,
        epilog=cli_help.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"codesvc {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        name: str, summary: str, text: str, epilog: str, command: Callable[[argparse.Namespace], int]
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=text,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=command)
        return added

    serve = add(
        "serve", "serve the HTTP API", cli_help.SERVE, cli_help.ENVIRONMENT + cli_help.EXIT_CODES, _serve
    )
    serve.add_argument(
        "--workers", metavar="N", help="processes that serve (CODESVC_WORKERS); 0 or auto: one for each core"
    )
    serve.add_argument("--worker", help=argparse.SUPPRESS)

    dev = add("dev", "the embedded stack, with a demonstration", cli_help.DEV, cli_help.DEV_EPILOG, _dev)
    dev.add_argument(
        "--data", type=Path, default=Path(".codesvc"), metavar="DIR", help="directory of the data (.codesvc)"
    )
    dev.add_argument("--port", type=_port, default=8080, help="port of the API (8080); 0 takes a free one")
    dev.add_argument(
        "--codes", type=_positive, default=1_000_000, metavar="N", help="codes to generate (1000000)"
    )

    ingest = add("ingest", "upload files without HTTP", cli_help.INGEST, cli_help.INGEST_EPILOG, _ingest)
    ingest.add_argument(
        "source", metavar="SOURCE", help="a path, s3://bucket/key, or a file key; PREFIX/ or a * for many"
    )
    ingest.add_argument("--campaign", metavar="ID", help="the campaign, if the name does not tell it")
    ingest.add_argument(
        "--type", choices=[str(one) for one in CodeType], help="the type, if the name does not tell it"
    )
    ingest.add_argument("--header", action="store_true", help="pass over the first record")
    ingest.add_argument("--strict", action="store_true", help="end at the first invalid row, and fail")
    ingest.add_argument("--dry-run", action="store_true", help="store nothing, and tell what would be stored")
    ingest.add_argument("--json", action="store_true", help="print the report as JSON")
    ingest.add_argument(
        "--index", type=int, metavar="I", help="which share of many files, from 0 (JOB_COMPLETION_INDEX)"
    )
    ingest.add_argument("--total", type=int, metavar="N", help="how many shares there are (JOB_COMPLETIONS)")

    token = add("token", "mint a JWT", cli_help.MINT, cli_help.MINT_EPILOG, _token)
    token.add_argument("--ttl", type=_positive, default=3600, metavar="SECONDS", help="its lifetime (3600)")
    token.add_argument("--no-supreme", action="store_true", help="without the claim isSupreme: true")

    indexes = add(
        "indexes",
        "create or verify the indexes",
        cli_help.INDEXES,
        cli_help.ENVIRONMENT + cli_help.EXIT_CODES,
        _indexes,
    )
    indexes.add_argument(
        "--drop-obsolete", action="store_true", help="drop those that only an earlier version needs"
    )
    add(
        "verify",
        "compare kept counts with the documents",
        cli_help.VERIFY,
        cli_help.ENVIRONMENT + cli_help.EXIT_CODES,
        _verify,
    )
    cli_remote.add_commands(add)
    add("openapi", "print the OpenAPI document", cli_help.OPENAPI, cli_help.EXIT_CODES, _openapi)
    return parser


def _serve(options: argparse.Namespace) -> int:
    from codesvc.settings import load_settings  # noqa: PLC0415

    overrides = {} if options.workers is None else {"workers": options.workers}
    settings = load_settings(**overrides).require_serve()
    if options.worker is not None:
        from codesvc.workers.member import Inheritance, Member  # noqa: PLC0415

        member = Member(Inheritance.parse(options.worker))
        from codesvc.serving import serve  # noqa: PLC0415

        return serve(settings, member)
    from codesvc.workers.cores import available_cores  # noqa: PLC0415

    workers = settings.workers or available_cores()
    if workers > 1:
        from codesvc.workers.supervisor import supervise  # noqa: PLC0415

        return supervise(settings, workers)
    from codesvc.serving import serve  # noqa: PLC0415 - a malformed setting is told before the libraries load

    return serve(settings)


def _dev(options: argparse.Namespace) -> int:
    from codesvc.local.dev import run  # noqa: PLC0415
    from codesvc.local.stack import StackOptions  # noqa: PLC0415

    host = os.environ.get("CODESVC_HOST") or "127.0.0.1"
    return run(StackOptions(directory=options.data, host=host, port=options.port), codes=options.codes)


def _ingest(options: argparse.Namespace) -> int:
    from codesvc import cli_share  # noqa: PLC0415

    if cli_share.names_many(options.source):
        return _run(cli_share.ingest(options))
    if options.index is not None or options.total is not None:
        raise SettingsError("SOURCE: is one file, which has no shares for --index and --total")
    from rich.console import Console  # noqa: PLC0415

    from codesvc.progress import UploadProgress  # noqa: PLC0415
    from codesvc.settings import load_settings  # noqa: PLC0415

    settings = load_settings()
    console = Console(stderr=True, highlight=False)
    with UploadProgress(console) as shown:

        def on_progress(progress: Progress) -> None:
            shown.update(
                codes=progress.counts.total, bytes_done=progress.bytes_done, bytes_total=progress.bytes_total
            )

        try:
            report: UploadReport | UploadRejectedError = _run(_upload(settings, options, on_progress))
        except UploadRejectedError as error:
            report = error
        except KeyboardInterrupt:
            after = "nothing is stored" if options.dry_run else "to ingest the file again is safe"
            _complain(f"interrupted after {shown.codes:,} codes: {after}")
            return EXIT_INTERRUPTED
        except (SourceNotFoundError, SourceChangedError) as error:
            raise CodesvcError(f"{options.source}: {error}") from None
    if isinstance(report, UploadRejectedError):
        return _print_rejection(report, as_json=options.json, dry_run=options.dry_run)
    _print_report(report, seconds=shown.seconds, as_json=options.json, dry_run=options.dry_run)
    return EXIT_OK


async def _upload(
    settings: "Settings", options: argparse.Namespace, on_progress: Callable[[Progress], None]
) -> UploadReport:
    from codesvc.app import open_service  # noqa: PLC0415
    from codesvc.loading import ingest  # noqa: PLC0415

    async with open_service(settings) as service:
        return await ingest(
            service,
            options.source,
            campaign_id=options.campaign,
            code_type=None if options.type is None else CodeType(options.type),
            header=options.header,
            strict=options.strict,
            dry_run=options.dry_run,
            progress=on_progress,
        )


def _print_rejection(error: UploadRejectedError, *, as_json: bool, dry_run: bool) -> int:
    counts = error.counts
    if as_json:
        count = {"in": counts.total, "inserted": counts.inserted, "updated": counts.updated}
        told = {"error": str(error), "line": error.line, "count": count}
        _print(json.dumps(told | {"dryRun": True} if dry_run else told))
    before = f"{counts.inserted:,} inserted and {counts.updated:,} updated before it"
    if dry_run:
        _complain(f"the upload would end at {error} (nothing is stored; {before})")
    else:
        _complain(f"the upload ended at {error} ({before})")
    return EXIT_FAILURE


def _token(options: argparse.Namespace) -> int:
    from codesvc.settings import load_settings  # noqa: PLC0415

    settings = load_settings()
    from codesvc.serving import mint_configured_token  # noqa: PLC0415

    _print(mint_configured_token(settings, ttl=options.ttl, supreme=not options.no_supreme))
    return EXIT_OK


def _indexes(options: argparse.Namespace) -> int:
    from codesvc.settings import load_settings  # noqa: PLC0415

    settings = load_settings()
    from codesvc.app import create_indexes  # noqa: PLC0415

    for name in _run(create_indexes(settings, drop_obsolete=options.drop_obsolete)):
        _print(name)
    return EXIT_OK


def _verify(_options: argparse.Namespace) -> int:
    from codesvc.settings import load_settings  # noqa: PLC0415

    wrong = _run(_print_verdicts(load_settings()))
    return EXIT_FAILURE if wrong else EXIT_OK


async def _print_verdicts(settings: "Settings") -> int:
    """Print a line for each campaign and type; return how many were wrong."""
    from codesvc.app import verify_counts  # noqa: PLC0415

    verified = wrong = 0
    async for one in verify_counts(settings):
        verified += 1
        wrong += not one.equal
        told = _counts(one.right) if one.equal else f"{_counts(one.right)}; kept was {_counts(one.kept)}"
        _print(f"{'right' if one.equal else 'WRONG'}  {one.campaign_id}  {one.code_type}  {told}")
    _print(f"{verified} verified, {wrong} wrong" + " (replaced)" * bool(wrong))
    return wrong


def _counts(counts: Counts) -> str:
    return f"available {counts.available:,}, reserved {counts.reserved:,}, assigned {counts.assigned:,}"


def _openapi(_options: argparse.Namespace) -> int:
    from codesvc.web.openapi import openapi_document  # noqa: PLC0415

    _print(json.dumps(openapi_document(), indent=2))
    return EXIT_OK


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65_535:
        raise argparse.ArgumentTypeError("is not 0 to 65535")
    return number


def _positive(text: str) -> int:
    number = int(text.replace("_", "").replace(",", ""))
    if number < 1:
        raise argparse.ArgumentTypeError("is not 1 or more")
    return number
