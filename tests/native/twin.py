"""The extractor's readable twin: the contract's rules on a file in memory, for tests to compare with."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# The quantifiers are possessive (*+): a field once read is never read another way.
UNQUOTED = re.compile(rb"[^,\r\n]*+")
QUOTED = re.compile(rb'"(?P<content>(?:[^"]|"")*+)(?P<closed>"?)')
LINE_END = re.compile(rb"\r\n|\r|\n")


@dataclass(slots=True)
class Outcome:
    codes: list[str] = field(default_factory=list)
    invalid: list[tuple[int, str]] = field(default_factory=list)
    failure: tuple[str, int, str] | None = None


def extract(
    data: bytes,
    *,
    header: bool = False,
    strict: bool = False,
    max_code_bytes: int,
    max_row_bytes: int,
    stop: int | None = None,
) -> Outcome:
    """What is in `data`, of the records that end before or at `stop`."""
    outcome = Outcome()
    for number, record in enumerate(records(data)):
        if stop is not None and record.end > stop:
            break
        if record.size > max_row_bytes:
            outcome.failure = ("notCsv", record.line, f"the record is longer than {max_row_bytes} bytes")
            break
        if header and number == 0:
            continue
        reason = record.broken or unfit(record.code, max_code_bytes)
        if reason is None:
            if record.code.strip(b" \t"):
                outcome.codes.append(record.code.decode())
            continue
        outcome.invalid.append((record.line, reason))
        if strict:
            outcome.failure = ("invalidRow", record.line, reason)
            break
    return outcome


def unfit(code: bytes, max_code_bytes: int) -> str | None:
    if not code.strip(b" \t"):
        return None
    if len(code) > max_code_bytes:
        return f"the code is longer than {max_code_bytes} bytes"
    if any(byte < 0x20 or byte == 0x7F for byte in code):
        return "the code holds a control character"
    try:
        code.decode("utf-8", "strict")
    except UnicodeDecodeError:
        return "the code is not valid UTF-8"
    return None


@dataclass(slots=True)
class Record:
    line: int
    size: int
    end: int
    code: bytes
    broken: str | None


def records(data: bytes) -> Iterator[Record]:
    at = len(BYTE_ORDER_MARK) if data.startswith(BYTE_ORDER_MARK) else 0
    line = 1
    while at < len(data):
        start = at
        code, at, broken = read_field(data, at)
        while data[at : at + 1] == b",":
            _, at, also_broken = read_field(data, at + 1)
            broken = broken or also_broken
        size = at - start
        # One without its line end is whole only where the file ends; a LF after a CR may be taken later.
        end = at + 1 if at < len(data) else at
        yield Record(line, size, end, code, broken)
        if line_end := LINE_END.match(data, at):
            at = line_end.end()
        line += len(LINE_END.findall(data[start:at]))


def read_field(data: bytes, at: int) -> tuple[bytes, int, str | None]:
    """The field that starts at `at`: its content, where it ends, and what is wrong with its quotes."""
    if data[at : at + 1] != b'"':
        unquoted = UNQUOTED.match(data, at)
        assert unquoted
        return unquoted[0].strip(b" \t"), unquoted.end(), None
    quoted = QUOTED.match(data, at)
    assert quoted
    content = quoted["content"].replace(b'""', b'"')
    if not quoted["closed"]:
        return content, quoted.end(), "a quote is still open at the end of the file"
    rest = UNQUOTED.match(data, quoted.end())
    assert rest
    return content, rest.end(), "text follows a closing quote" if rest[0] else None
