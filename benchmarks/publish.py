"""Writes a report to files: report.json, one page with plots, and the plot that the README shows."""

import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import page, plots
from benchmarks.report import Report

BIAS: Final = (
    "This is codesvc's own benchmark of codesvc, written by those who wrote the service: run it on your machine.",
    (
        "Client, service, MongoDB and the stand-in for S3 share the same few cores, so that what one saves another "
        "gains. With machines of their own, the service would wait for MongoDB sooner, and for the network longer."
    ),
    "The network is the loopback interface: no latency, no loss, no TLS.",
    "The stand-in for S3 is a static file server on the same machine: no signatures checked, no throttling.",
    (
        "Contenders take turns round by round, and a figure is the median of the rounds. A machine that others share "
        "is noisy all the same: trust the ratios within a run before the figures themselves."
    ),
)


def write(report: Report, directory: Path) -> Path:
    """Write report.json, report.html and the main plot as benchmark.svg and .png; return the page's path."""
    directory.mkdir(parents=True, exist_ok=True)
    left_out = report.all_left_out()
    content = asdict(report) | {"left_out": left_out, "bias": BIAS}
    text = json.dumps(content, indent=1, default=_plain, allow_nan=False)
    (directory / "report.json").write_text(text + "\n", encoding="utf-8")
    path = directory / "report.html"
    path.write_text(page.render(report, bias=BIAS, left_out=left_out), encoding="utf-8")
    publish(report, directory)
    return path


def publish(report: Report, directory: Path) -> list[Path]:
    """Write the main plot as benchmark.svg and benchmark.png, for the README; nothing where there is none."""
    chart = report.main_chart
    if chart is None or not plots.AVAILABLE:
        return []
    paths = [directory / "benchmark.svg", directory / "benchmark.png"]
    paths[0].write_text(plots.standalone_svg(chart), encoding="utf-8")
    paths[1].write_bytes(plots.png(chart))
    return paths


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
