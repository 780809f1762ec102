"""The two forms of a log line: a JSON object for machines, and one for a person at a terminal.

A code is a bearer secret, and the text of a driver's exception may hold one (MongoDB's E11000 quotes the key), so no
line ever carries an exception's message: its type, its number and the frames of its stack say where to look. Neither
form lets a control character through, so that what a caller sends can neither begin a line nor move a terminal's
cursor.
"""

import json
import logging
import re
import time
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

import orjson

_JSON_OPTIONS: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
# What container runtimes write in one piece: they cut a line after 16 KiB, and not every shipper joins it again.
_MAX_LINE: Final = 16_000
_MAX_TEXT: Final = 1_000
_MAX_ITEMS: Final = 5
_MAX_FRAMES: Final = 40
_MAX_FRAMES_OF_LONG: Final = 5
_MAX_CHAIN: Final = 5
_STANDARD_ATTRIBUTES: Final = frozenset(
    {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", "exc_text"}
)

# Control characters, what ends a line for some reader, and what turns the direction of writing.
_UNSEEN: Final = "\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff"
_unseen = re.compile(f"[{_UNSEEN}]")
_unprintable = re.compile(f"[\x00-\x1f{_UNSEEN}\ud800-\udfff]")
_bare = re.compile(r"[^\s\"=]+").fullmatch

_DIM, _RESET, _BOLD_RED = "\x1b[2m", "\x1b[0m", "\x1b[1;31m"
_GREEN, _YELLOW, _RED = "\x1b[32m", "\x1b[33m", "\x1b[31m"


def json_line(record: logging.LogRecord, ids: Mapping[str, str | int]) -> bytes:
    """Make a line of JSON, of at most 16,000 bytes, that ends with a newline; ``ids`` tell whose it is."""
    fields: dict[str, Any] = {
        "timestamp": timestamp(record.created),
        "level": record.levelname,
        "logger": record.name,
        "message": _message(record),
        **ids,
    }
    for name, value in record.__dict__.items():
        # Names that every line has mean the same on every line.
        if name not in _STANDARD_ATTRIBUTES and name not in fields:
            fields[name] = value
    error = _error_of(record)
    if error is not None:
        fields["error"] = error_fields(error)
    line = _encoded(fields)
    return line if len(line) <= _MAX_LINE else _shortened(fields)


def console_line(
    record: logging.LogRecord, ids: Mapping[str, str | int], *, colour: bool, encoding: str = "utf-8"
) -> bytes:
    """Make a line for a person; the frames of an error's stack follow on lines of their own, indented."""
    attributes = record.__dict__
    extra = {name: attributes[name] for name in attributes if name not in _STANDARD_ATTRIBUTES}
    extra |= {name: value for name, value in ids.items() if name not in extra}
    dim, reset = (_DIM, _RESET) if colour else ("", "")
    clock = time.strftime("%H:%M:%S", time.localtime(record.created))
    level = f"{_colour(record.levelno) if colour else ''}{record.levelname:<7}{reset}"
    fields = "".join(f" {dim}{_visible(name)}={reset}{_value(value)}" for name, value in extra.items())
    line = f"{dim}{clock}{reset} {level} {_visible(record.name)}: {_visible(_message(record))}{fields}\n"
    error = _error_of(record)
    if error is not None:
        for each in (told := error_fields(error), *told.get("causes", ())):
            line += f"    {_visible(each['type'])}\n"
            line += "".join(f"      {dim}{_visible(frame)}{reset}\n" for frame in each["stack"])
    return line.encode(encoding, "backslashreplace")


def error_fields(error: BaseException) -> dict[str, Any]:
    """Tell an exception without its message: type, number, frames, and the same of what caused it."""
    fields = _one_error(error)
    causes: list[dict[str, Any]] = []
    while len(causes) < _MAX_CHAIN:
        following = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if following is None:
            break
        causes.append(_one_error(following))
        error = following
    if causes:
        fields["causes"] = causes
    return fields


class _Clock:
    second = -1
    text = ""


def timestamp(created: float) -> str:
    """Write seconds since 1970 as RFC 3339 in UTC, with milliseconds."""
    second = int(created)
    if second != _Clock.second:
        _Clock.second, _Clock.text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    return f"{_Clock.text}.{int((created - second) * 1000):03d}Z"


def _encoded(fields: Mapping[str, Any]) -> bytes:
    try:
        line = orjson.dumps(fields, default=_encodable, option=_JSON_OPTIONS)
    except TypeError:
        # A lone surrogate, an integer beyond 64 bits, something that holds itself.
        try:
            text = json.dumps(fields, default=_encodable, allow_nan=False, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError):
            text = json.dumps({name: _simple(value) for name, value in fields.items()}, ensure_ascii=False)
        line = f"{text}\n".encode("utf-8", "replace")
    if line.isascii() and b"\x7f" not in line:
        return line
    return _unseen.sub(_json_escape, line.decode()).encode()


def _shortened(fields: dict[str, Any]) -> bytes:
    cut: dict[str, Any] = {name: _cut(value) for name, value in fields.items()}
    cut["truncated"] = True
    line = _encoded(cut)
    if len(line) <= _MAX_LINE:
        return line
    kept = ("timestamp", "level", "logger", "message", "correlationId", "traceId", "spanId", "truncated")
    return _encoded({name: cut[name] for name in kept if name in cut})


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _MAX_TEXT else value[:_MAX_TEXT] + "…"
    if isinstance(value, list):
        return [_cut(one) for one in value[:_MAX_ITEMS]]
    if isinstance(value, dict):
        return {
            name: one[-_MAX_FRAMES_OF_LONG:] if name == "stack" else _cut(one) for name, one in value.items()
        }
    return value


def _simple(value: Any) -> Any:
    return value if value is None or isinstance(value, str | bool | int) else type(value).__name__


def _encodable(value: object) -> str:
    return type(value).__name__ if isinstance(value, BaseException) else str(value)


def _json_escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _value(value: Any) -> str:
    if isinstance(value, str):
        visible = _visible(value)
        return visible if _bare(visible) else json.dumps(visible, ensure_ascii=False)
    return _visible(_encoded({"": value}).decode()[4:-2])


def _visible(text: str) -> str:
    return _unprintable.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _colour(level: int) -> str:
    if level >= logging.CRITICAL:
        return _BOLD_RED
    if level >= logging.ERROR:
        return _RED
    if level >= logging.WARNING:
        return _YELLOW
    return _GREEN if level >= logging.INFO else _DIM


def _message(record: logging.LogRecord) -> str:
    message = record.getMessage()
    if record.name == "asyncio":
        # The loop's default handler adds the repr of the failed task, its exception's text included.
        return message.partition("\n")[0]
    return message


def _error_of(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None


def _one_error(error: BaseException) -> dict[str, Any]:
    kind = type(error)
    fields: dict[str, Any] = {
        "type": kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}",
        "stack": _frames(error.__traceback__),
    }
    for name in ("code", "errno"):
        number = getattr(error, name, None)
        if isinstance(number, int):
            fields[name] = int(number)
    if isinstance(error, BaseExceptionGroup):
        fields["exceptions"] = [_one_error(each) for each in error.exceptions[:_MAX_CHAIN]]
    return fields


def _frames(stack: TracebackType | None) -> list[str]:
    frames = [
        f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(stack)
    ]
    return frames[-_MAX_FRAMES:]
