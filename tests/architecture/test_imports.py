"""The table of docs/design.md: which room may import what. Read from the source, nothing is run."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "codesvc"

LEAVES = frozenset({"models", "errors", "version"})
ALL = None

# Of codesvc itself, by room; a room may always import itself.
ROOMS: dict[str, frozenset[str] | None] = {
    "__init__": LEAVES,
    "version": frozenset(),
    "models": frozenset(),
    "errors": frozenset({"models"}),
    "_fastcsv": frozenset({"errors"}),
    "settings": LEAVES,
    "inventory": LEAVES,
    "idempotency": LEAVES,
    # The native core is a leaf as well: it makes the batches that one sends to the other.
    "ingest": LEAVES | {"_fastcsv"},
    "datastore": LEAVES | {"_fastcsv", "settings"},
    "sources": LEAVES | {"settings"},
    "observability": LEAVES - {"models", "errors"} | {"settings"},
    "web": LEAVES | {"inventory", "idempotency", "ingest", "observability"},
    "client": LEAVES,
    "cli_help": frozenset(),
    "livez": frozenset(),
    "progress": frozenset(),
    "workers": LEAVES | {"settings", "observability"},
    "app": ALL,
    "serving": ALL,
    "loading": ALL,
    "drain": frozenset(),
    "cli": ALL,
    "cli_output": LEAVES,
    "cli_remote": ALL,
    "cli_export": ALL,
    "cli_share": ALL,
    "__main__": ALL,
    "local": ALL,
}

# Of other distributions: the rules know none, and a driver is known in its own room only.
DRIVERS = frozenset({"aiohttp", "aiobotocore", "botocore", "bson", "motor", "pymongo"})
THIRD_PARTY: dict[str, frozenset[str] | None] = {
    "__init__": frozenset(),
    "version": frozenset(),
    "models": frozenset(),
    "errors": frozenset(),
    "inventory": frozenset(),
    "idempotency": frozenset(),
    "ingest": frozenset(),
    # NOTE: whoever installs the client alone gets these, and OpenTelemetry only if it is there.
    "client": frozenset({"aiohttp", "opentelemetry", "orjson", "yarl"}),
    "cli_help": frozenset(),
    "livez": frozenset(),
    "progress": frozenset({"rich"}),
    "datastore": frozenset({"bson", "motor", "pymongo"}),
    # NOTE: aiohttp is what aiobotocore raises for a connection that breaks.
    "sources": frozenset({"aiobotocore", "aiohttp", "botocore", "types_aiobotocore_s3"}),
    "workers": frozenset({"aioprometheus"}),
    "observability": frozenset({"aioprometheus", "opentelemetry", "orjson"}),
    "web": frozenset(
        {
            "aiohttp",
            "cryptography",
            "jwt",
            "multidict",
            "opentelemetry",
            "orjson",
            "pydantic",
            "pydantic_core",
            "yarl",
        }
    ),
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "static" not in path.parts)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py").removesuffix(".pyx")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the full name of everything that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(PACKAGE.parent).with_suffix("").parts
            base = [*package[: len(package) - node.level], node.module] if node.level else [node.module]
            name = ".".join(part for part in base if part)
            # ``from codesvc import errors`` imports the room, not the package.
            yield from ((node.lineno, f"{name}.{alias.name}") for alias in node.names)


def violations(path: Path) -> Iterator[str]:
    room = room_of(path)
    rooms, third_party = ROOMS[room], THIRD_PARTY.get(room)
    for line, name in imports(path):
        top, _, rest = name.partition(".")
        where = f"{path.relative_to(PACKAGE.parent)}:{line} imports {name}"
        if top == "codesvc":
            target = rest.partition(".")[0]
            if target != room and rooms is not ALL and target not in rooms:
                yield where
        elif top not in sys.stdlib_module_names and third_party is not None and top not in third_party:
            yield where


def test_every_room_is_in_the_table() -> None:
    found = {room_of(path) for path in modules()} | {room_of(path) for path in PACKAGE.glob("*.pyx")}
    assert found <= ROOMS.keys()
    assert {"web", "ingest", "datastore", "sources", "observability", "inventory"} <= found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports(path: Path) -> None:
    assert not list(violations(path))


def test_the_native_core_imports_nothing_of_codesvc_but_errors() -> None:
    source = (PACKAGE / "_fastcsv.pyx").read_text(encoding="utf-8")
    found = set(re.findall(r"^\s*(?:from|c?import)\s+codesvc\.?(\w*)", source, re.MULTILINE))
    assert found <= {"errors"}


def test_drivers_are_known_where_they_belong() -> None:
    for room in ("inventory", "ingest", "models", "errors"):
        assert not (THIRD_PARTY[room] or frozenset()) & DRIVERS


@pytest.mark.parametrize(
    "source",
    [
        "import codesvc.datastore.codes",
        "from codesvc.datastore import codes",
        "from codesvc import sources",
        "from codesvc.settings import Settings",
        "from ..datastore import codes",
        "from .. import app",
        "def f():\n    import pymongo",
        "if TYPE_CHECKING:\n    from motor import x",
    ],
)
def test_the_test_finds_what_it_looks_for(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "codesvc"
    (package / "web").mkdir(parents=True)
    module = package / "web" / "module.py"
    module.write_text(source, encoding="utf-8")
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", package)
    assert list(violations(module))
