"""Exports: all codes of a campaign in one stream, which goes on where it broke off."""

import asyncio
import csv
from collections.abc import AsyncIterator, Mapping
from typing import Final, Literal

import orjson

from codesvc.client.errors import CodesvcClientError
from codesvc.client.retries import Kind
from codesvc.client.transport import Call, Transport, understood

ExportForm = Literal["csv", "ndjson"]

_MEDIA_TYPES: Final[Mapping[str, str]] = {"csv": "text/csv", "ndjson": "application/x-ndjson"}


async def export(
    transport: Transport, path: str, query: Mapping[str, str], form: ExportForm, correlation_id: str
) -> AsyncIterator[bytes]:
    """Yield whole lines, many at a time; of CSV, the first is the head.

    Raises:
        CodesvcClientError: it was refused, or nothing has come for as long as the policy allows.

    """
    media_type = _MEDIA_TYPES[form]
    attempts = transport.policy.start()
    query = dict(query)
    headed = form == "ndjson"
    while True:
        call = Call(
            "GET", path, Kind.READ, query, headers={"Accept": media_type}, correlation_id=correlation_id
        )
        skip = form == "csv" and headed
        try:
            async for lines in _whole_lines(transport.stream(call, media_type)):
                some = lines
                if skip:
                    # The head has come before.
                    some, skip = lines.partition(b"\n")[2], False
                if not some:
                    continue
                yield some
                if headed or some.count(b"\n") > 1:
                    query["after"] = understood(_LAST[form], some)
                headed = True
                attempts = transport.policy.start()
        except CodesvcClientError as error:
            error.correlation_id = correlation_id
            pause = attempts.pause(error.retry_after) if error.transient else None
            if pause is None:
                raise
            await asyncio.sleep(pause)
        else:
            return


async def _whole_lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    left = b""
    async for piece in pieces:
        lines, newline, rest = piece.rpartition(b"\n")
        if newline:
            yield left + lines + newline
            left = rest
        else:
            left += rest


def _last_of_csv(lines: bytes) -> str:
    last = lines[lines.rfind(b"\n", 0, -1) + 1 :].decode()
    return next(csv.reader([last]))[0]


def _last_of_json(lines: bytes) -> str:
    return str(orjson.loads(lines[lines.rfind(b"\n", 0, -1) + 1 :])["code"])


_LAST: Final = {"csv": _last_of_csv, "ndjson": _last_of_json}
