"""The command that writes all codes of a campaign, through codesvc.client."""

import argparse
import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from codesvc.cli_output import EXIT_OK, print_line
from codesvc.errors import CodesvcError
from codesvc.models import CodeType, Status

if TYPE_CHECKING:
    from codesvc.client import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("campaign", metavar="CAMPAIGN")
    parser.add_argument("--type", choices=[str(one) for one in CodeType], help="only that type")
    parser.add_argument("--status", choices=[str(one) for one in Status], help="only that status")
    parser.add_argument("--format", choices=["csv", "ndjson"], default="csv", help="how (csv)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to, rather than standard output")


async def export(client: "Client", options: argparse.Namespace) -> int:
    """Write the codes; a file is there under its name when it is whole."""
    lines = client.export_lines(
        options.campaign, options.format, code_type=options.type, status=options.status
    )
    if options.output is None:
        await _write(lines, sys.stdout.buffer)
        return EXIT_OK
    part = options.output.with_name(options.output.name + ".part")
    try:
        # Codes are as good as money: nobody else reads them.
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            written = await _write(lines, stream)
        part.replace(options.output)
    except OSError as error:
        raise CodesvcError(f"--output: {options.output}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
    print_line(f"{written - (options.format == 'csv'):,} codes in {options.output}")
    return EXIT_OK


async def _write(lines: AsyncIterator[bytes], stream: Any) -> int:
    written = 0
    async with aclosing(cast("Any", lines)) as some:
        async for each in some:
            stream.write(each)
            written += each.count(b"\n")
    stream.flush()
    return written
