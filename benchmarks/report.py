"""What a run found, as tables on the terminal and as JSON: figures first, never without the result's check."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from codesvc import __version__

_PACKAGES: Final = ("pymongo", "motor", "aiohttp", "aiobotocore", "orjson", "uvloop", "cython")


@dataclass(frozen=True, slots=True)
class Table:
    """A table: the cells are text, figures come formatted."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A promise and the figure that was measured; ``met`` is None where there is no figure."""

    name: str
    wanted: str
    measured: str
    met: bool | None


@dataclass(slots=True)
class Report:
    """Everything one call of `make bench` found."""

    quick: bool
    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def show(self) -> None:
        """Print every table, and the targets last."""
        for table in self.tables:
            _print_table(table)
        if self.targets:
            words = {True: "met", False: "missed", None: "N/A"}
            rows = [[one.name, one.wanted, one.measured, words[one.met]] for one in self.targets]
            _print_table(Table("Targets", ("target", "wanted", "measured", ""), rows))

    def write(self, directory: Path) -> Path:
        """Write everything as JSON and return the file's path."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "report.json"
        content = {"environment": environment(), "quick": self.quick, "figures": self.figures}
        content |= {
            "tables": [asdict(one) for one in self.tables],
            "targets": [asdict(one) for one in self.targets],
        }
        path.write_text(json.dumps(content, indent=1, default=_plain) + "\n")
        return path


def environment() -> dict[str, Any]:
    """Tell what the figures were measured on."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        "",
    )
    memory = next(
        (int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0
    )
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": cpu,
        "cores": os.cpu_count(),
        "memoryGB": round(memory / 2**20, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {"codesvc": __version__} | {name: version(name) for name in _PACKAGES},
    }


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _print_table(table: Table) -> None:
    widths = [max(len(row[i]) for row in (table.head, *table.rows)) for i in range(len(table.head))]
    lines = ["", f"## {table.title}", ""]
    for row in (table.head, ["-" * width for width in widths], *table.rows):
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if table.note:
        lines += ["", table.note]
    sys.stdout.write("\n".join(lines) + "\n")
