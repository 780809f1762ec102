"""Codes written as rows: of CSV (RFC 4180), and of newline-delimited JSON.

The columns of CSV are those of CSV_HEAD. What is absent is empty. A code is written as it is, so that what was exported
can be uploaded again; a spreadsheet that is to open the file has to be told that the column is text, since it may take
a code that begins with ``=``, ``+``, ``-`` or ``@`` for a formula.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import orjson

from codesvc.models import Code
from codesvc.web.schemas import rfc3339

CSV_HEAD: Final = b"code,type,status,reserveId,saved,reserved,assigned\r\n"

# RFC 4180, section 2.6; and blanks at the ends, which an upload would take off an unquoted code.
_to_be_quoted = re.compile(r'[",]|^[ \t]|[ \t]$').search


def csv_rows(codes: Sequence[Code]) -> bytes:
    """Write codes as lines of CSV."""
    saved, reserved, assigned = (_Dates().text for _ in range(3))
    return "".join(
        [
            f"{_field(one.code)},{one.type.value},{one.status.value},{one.reserve_id or ''},"
            f"{saved(one.saved)},{reserved(one.reserved)},{assigned(one.assigned)}\r\n"
            for one in codes
        ]
    ).encode()


def json_rows(codes: Sequence[Code]) -> bytes:
    """Write codes as lines of JSON, each the members of CodeReply."""
    saved, reserved, assigned = (_Dates().text for _ in range(3))
    lines: list[str] = []
    for one in codes:
        held = "" if one.reserve_id is None else f'"reserveId":{_string(one.reserve_id)},'
        dates = f'"saved":"{saved(one.saved)}"'
        if one.reserved is not None:
            dates += f',"reserved":"{reserved(one.reserved)}"'
        if one.assigned is not None:
            dates += f',"assigned":"{assigned(one.assigned)}"'
        lines.append(
            f'{{"code":{_string(one.code)},"type":"{one.type.value}","status":"{one.status.value}",'
            f'{held}"date":{{{dates}}}}}\n'
        )
    return "".join(lines).encode()


def _field(text: str) -> str:
    if _to_be_quoted(text) is None:
        return text
    return '"' + text.replace('"', '""') + '"'


def _string(text: str) -> str:
    # A code has no control character, so that nothing else needs to be escaped (RFC 8259, section 7).
    if '"' in text or "\\" in text:
        return orjson.dumps(text).decode()
    return f'"{text}"'


class _Dates:
    """Writes the instants of one column, of which neighbours share many."""

    def __init__(self) -> None:
        self._last: datetime | None = None
        self._text = ""

    def text(self, instant: datetime | None) -> str:
        """Return an instant as it is written, or nothing for none."""
        if instant is None:
            return ""
        if instant != self._last:
            self._last, self._text = instant, rfc3339(instant)
        return self._text
