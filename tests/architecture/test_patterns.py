"""No regular expression of codesvc can be made to take for ever; and the threat model names what there is."""

import importlib
import pkgutil
import re
import re._constants as constants  # type: ignore[import-not-found]  # undocumented, and the one place that has them
import re._parser as parser  # type: ignore[import-not-found]  # the same
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import codesvc

ROOT = Path(__file__).parents[2]
REPEATS = (constants.MAX_REPEAT, constants.MIN_REPEAT)


def patterns() -> Iterator[tuple[str, re.Pattern[Any]]]:
    """Yield every pattern that a module keeps, also where it keeps nothing but one of its methods."""
    for module in pkgutil.walk_packages(codesvc.__path__, "codesvc."):
        if module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            held = value if isinstance(value, re.Pattern) else getattr(value, "__self__", None)
            if isinstance(held, re.Pattern):
                yield f"{module.name}.{name}", held


def nested(parsed: Any, *, within: bool = False) -> bool:
    """Tell whether an unbounded repetition holds another repetition without a bound: (a+)+ and its like."""
    for operation, argument in parsed:
        if operation in REPEATS:
            unbounded = argument[1] is constants.MAXREPEAT
            if (unbounded and within) or nested(argument[2], within=within or unbounded):
                return True
        elif operation is constants.SUBPATTERN:
            if nested(argument[3], within=within):
                return True
        elif operation is constants.BRANCH:
            if any(nested(each, within=within) for each in argument[1]):
                return True
        elif operation in {constants.ASSERT, constants.ASSERT_NOT} and nested(argument[1], within=within):
            return True
    return False


@pytest.mark.parametrize("text", [r"(a+)+", r"(?:a*b?)*c", r"(x|(y+z?)+)", r"(?=(a+)*)b", r"(a+?){2,}"])
def test_the_check_knows_what_it_looks_for(text: str) -> None:
    assert nested(parser.parse(text))


def test_no_repetition_within_a_repetition() -> None:
    found = dict(patterns())
    assert len(found) >= 10, "patterns are not found any more"
    assert [name for name, each in found.items() if nested(parser.parse(each.pattern, each.flags))] == []


def test_the_threat_model_names_files_that_there_are() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and line.count("|") == 5]
    assert len(rows) > 20
    for row in rows:
        threat, _, where, tried = (cell.strip() for cell in row.strip("|").split("|"))
        if threat in {"threat", "---"}:
            continue
        assert tried, threat
        for cell, below in ((where, ROOT / "codesvc"), (tried, ROOT / "tests")):
            folder = below
            for name in re.findall(r"`([^`]+)`", cell):
                # A file without a folder is in the folder of the one before it.
                path = below / name if "/" in name or (below / name).exists() else folder / name
                assert path.exists() or list(below.glob(name)), f"{threat}: there is no {name}"
                folder = path.parent
