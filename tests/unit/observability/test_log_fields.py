"""The table of fields in docs/operations.md, and the fields that codesvc's lines have."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
# Those that are made elsewhere than at a call of a logger: codesvc/observability/{logs,lines,output}.py.
OF_LINES = {
    "timestamp",
    "level",
    "logger",
    "message",
    "correlationId",
    "traceId",
    "spanId",
    "error",
    "truncated",
}
OF_REQUESTS = {"method", "route", "status", "durationMs", "bytes", "campaignId"}
OF_OUTPUT = {"lines", "reason"}


# Made before the call that they are handed to.
DICTIONARIES = {("fields", "codesvc"), ("fields", "workers"), ("told", "ingest")}


def documented() -> set[str]:
    """Read the first column of the table."""
    section = (ROOT / "docs/operations.md").read_text().partition("\n## Logs\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def written() -> set[str]:
    """Read the names of every ``extra={…}`` that a logger is given, and of what is made for one before."""
    names: set[str] = set()
    for path in (ROOT / "codesvc").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr in LEVELS:
                    names |= {
                        name
                        for keyword in node.keywords
                        if keyword.arg == "extra"
                        for name in names_of(keyword.value)
                    }
            elif (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and (node.targets[0].id, path.parent.name) in DICTIONARIES
            ):
                names |= names_of(node.value)
    return names


def names_of(literal: ast.expr) -> set[str]:
    if not isinstance(literal, ast.Dict):
        return set()
    return {str(key.value) for key in literal.keys if isinstance(key, ast.Constant)}


def test_every_field_is_documented() -> None:
    assert written(), "none was found"
    assert written() | OF_LINES | OF_REQUESTS | OF_OUTPUT == documented()
