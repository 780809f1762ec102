"""The contract's rules of a file, read as slowly and plainly as they are written."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_BLANKS: Final = " \t"


@dataclass(slots=True)
class Expected:
    """What an upload of the file has to find."""

    codes: list[str] = field(default_factory=list)
    invalid_lines: list[int] = field(default_factory=list)


def read(content: bytes, *, header: bool = False) -> Expected:
    """Return the valid codes, in order, and the line of every invalid row."""
    expected = Expected()
    for number, (line, raw, quoted, broken) in enumerate(_records(content.removeprefix(_BYTE_ORDER_MARK))):
        if number == 0 and header:
            continue
        try:
            code = raw.decode()
        except UnicodeDecodeError:
            expected.invalid_lines.append(line)
            continue
        if not quoted:
            code = code.strip(_BLANKS)
        if not code.strip(_BLANKS) and not broken:
            continue
        controls = any(character < " " or character == "\x7f" for character in code)
        if broken or controls or len(code.encode()) > 256:
            expected.invalid_lines.append(line)
        else:
            expected.codes.append(code)
    return expected


def _records(content: bytes) -> Iterator[tuple[int, bytes, bool, bool]]:
    """Yield of each record: its line, its first field, whether that was quoted, and broken quoting."""
    position, line = 0, 1
    while position < len(content):
        started, first, broken = line, None, False
        while True:
            value, quoted, broken_field, position, lines = _field(content, position)
            line += lines
            broken = broken or broken_field
            if first is None:
                first = value, quoted
            if content[position : position + 1] != b",":
                break
            position += 1
        if content[position : position + 2] == b"\r\n":
            position += 2
        else:
            position += 1
        line += 1
        yield started, *first, broken


def _field(content: bytes, position: int) -> tuple[bytes, bool, bool, int, int]:
    """Read one field; return value, quoted, broken, the position behind it, and the line ends inside."""
    if content[position : position + 1] != b'"':
        end = _end(content, position)
        return content[position:end], False, False, end, 0
    value = bytearray()
    position += 1
    while True:
        closing = content.find(b'"', position)
        if closing < 0:
            inside = bytes(value) + content[position:]
            return inside, True, True, len(content), _line_ends(inside)
        value += content[position:closing]
        if content[closing + 1 : closing + 2] != b'"':
            end = _end(content, closing + 1)
            return bytes(value), True, end > closing + 1, end, _line_ends(bytes(value))
        value += b'"'
        position = closing + 2


def _end(content: bytes, position: int) -> int:
    while position < len(content) and content[position : position + 1] not in {b",", b"\r", b"\n"}:
        position += 1
    return position


def _line_ends(text: bytes) -> int:
    return len(text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")) - 1
