"""Which metrics and labels a PromQL expression asks for; whether it parses is for Prometheus to say."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_TOKEN: Final = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<range>\[[^]]*\])
    | (?P<number>\d[\w.]*)
    | (?P<name>[A-Za-z_:][\w:]*)
    | (?P<other>=~|!~|!=|[^\s])""",
    re.VERBOSE,
)
_GROUPING: Final = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_WORDS: Final = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan"})


@dataclass(slots=True)
class Reading:
    """What an expression asks for.

    Attributes:
        selectors: (metric, ((label, operator, value), …)) of each place that names a metric.
        grouped: the labels that it groups, joins or keeps by.

    """

    selectors: list[tuple[str, tuple[tuple[str, str, str], ...]]] = field(default_factory=list)
    grouped: set[str] = field(default_factory=set)

    @property
    def metrics(self) -> set[str]:
        """The names of the metrics."""
        return {name for name, _ in self.selectors}


def read(expr: str) -> Reading:
    """Read an expression."""
    found = Reading()
    tokens = [(str(match.lastgroup), match.group()) for match in _TOKEN.finditer(expr)]
    rest = _Tokens(tokens)
    for kind, text in rest:
        if kind != "name" or text.lower() in _WORDS:
            continue
        if text in _GROUPING:
            if rest.peek() == "(":
                found.grouped.update(text for kind, text in rest.until(")") if kind == "name")
        elif rest.peek() == "{":
            words = [text for _, text in rest.until("}") if text not in "{,"]
            triples = zip(words[::3], words[1::3], words[2::3], strict=True)
            found.selectors.append((text, tuple((label, op, value[1:-1]) for label, op, value in triples)))
        elif rest.peek() not in {"(", *_GROUPING}:
            found.selectors.append((text, ()))
    return found


class _Tokens(Iterator[tuple[str, str]]):
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._next = 0

    def __next__(self) -> tuple[str, str]:
        if self._next == len(self._tokens):
            raise StopIteration
        self._next += 1
        return self._tokens[self._next - 1]

    def peek(self) -> str:
        return self._tokens[self._next][1] if self._next < len(self._tokens) else ""

    def until(self, end: str) -> Iterator[tuple[str, str]]:
        for token in self:
            if token[1] == end:
                return
            yield token
