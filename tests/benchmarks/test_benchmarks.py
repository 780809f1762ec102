"""The benchmarks still run, and a wrong result has no figure: their speed is not this test's business."""

import json
import re
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import __main__ as whole
from benchmarks import micro, plots
from benchmarks.charts import Bar, BarChart, Better, HeatMap, Line, LineChart, short
from benchmarks.micro.files import FILES
from benchmarks.micro.measure import Measure
from benchmarks.micro.results import SUITES, add_results
from benchmarks.publish import publish, write
from benchmarks.report import Report, Table, Target
from codesvc._fastcsv import instruction_sets

HOSTILE = '<b> & "quotes" $x_1$ ü'
TOOLS = ("pyarrow", "polars")


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Every micro suite, once and small."""
    report = Report(quick=True)
    micro.run(report, quick=True, out=tmp_path_factory.mktemp("micro"))
    return report


def test_every_micro_suite_runs_and_every_contender_is_right(quick_run: Report) -> None:
    found = quick_run.figures["micro"]
    assert found.keys() == SUITES.keys()
    faults = {
        (suite, case, contender): series.fault
        for suite, cases in found.items()
        for case, contenders in cases.items()
        for contender, series in contenders.items()
        if series.fault or not all(rate > 0 for rate in series.rates)
    }
    assert not faults


def test_every_tool_and_instruction_set_meets_every_file(quick_run: Report) -> None:
    installed = {name for name in TOOLS if find_spec(name)}
    expected = {"memchr", "codesvc", "Python csv"} | installed
    expected |= {f"codesvc, {name}" for name in instruction_sets()}
    contenders = {case: set(found) for case, found in quick_run.figures["micro"]["extractor"].items()}
    assert contenders == dict.fromkeys(FILES, expected)
    for name in set(TOOLS) - installed:
        assert any(line.startswith(name) for line in quick_run.left_out)


def test_micro_suites_end_in_tables_plots_and_targets(quick_run: Report) -> None:
    assert [table.title for table in quick_run.tables] == [suite.title for suite in SUITES.values()]
    floors = {(one.name, one.wanted) for one in quick_run.targets if "best other tool" not in one.name}
    assert floors == {
        ("extractor, narrow file, times Python csv", ">= 25"),
        ("extractor, wide file, times Python csv", ">= 55"),
        ("extractor, quoted file, times Python csv", ">= 32"),
        ("extractor, narrow file, times memchr", ">= 0.6"),
        ("extractor, wide file, times memchr", ">= 0.38"),
        ("extractor, quoted file, times memchr", ">= 0.27"),
        ("requests/s on count, codesvc, of a bare handler's", ">= 0.6"),
        ("requests/s on count, codesvc, 1% of traces, of a bare handler's", ">= 0.5"),
    }
    assert {one.met for one in quick_run.targets} <= {True, False}
    bars = [{bar.label for bar in chart.bars} for chart in quick_run.charts if isinstance(chart, BarChart)]
    assert {"memchr", "codesvc", "Python csv"} <= bars[0]
    assert bars[1] == {f"codesvc, {name}" for name in instruction_sets()}


@pytest.mark.parametrize("name", whole.SUITES)
def test_every_suite_of_whole_services_runs_and_every_result_is_right(tmp_path: Path, name: str) -> None:
    report = Report(quick=True)
    whole.run_suite(name, report, rounds=1, out=tmp_path)
    assert report.tables
    assert not [one.name for one in report.targets if one.met is None]
    assert not [row for table in report.tables for row in table.rows if "N/A" in row]
    assert write(report, tmp_path).exists()


def test_a_suite_that_fails_is_a_target_without_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    report = Report(quick=True)
    micro.run(report, quick=True, out=tmp_path)
    assert [one.met for one in report.targets] == [None]
    assert "--no-such-option" in capsys.readouterr().err


class Timer:
    """Stands in for pytest-benchmark: calls what it is to time, and keeps what it is told."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}

    def pedantic(self, target: Callable[[], object], *, rounds: int, iterations: int) -> None:
        for _ in range(rounds * iterations):
            target()


def wrong() -> bool:
    return False


def broken() -> bool:
    raise ZeroDivisionError


@pytest.mark.parametrize(("right", "fault"), [(wrong, "the result is wrong"), (broken, "ZeroDivisionError")])
def test_who_is_wrong_is_not_timed(right: Callable[[], bool], fault: str) -> None:
    timed: list[str] = []
    timer = Timer()
    measure = Measure(timer, "suite", {})
    for contender, verdict in (("wrong", right), ("right", lambda: True)):
        measure("case", contender, partial(timed.append, contender), amount=1, right=verdict)
        assert (fault in timer.extra_info["fault"]) == (contender == "wrong")
    assert timed == ["right"]


def test_a_wrong_result_is_not_available(tmp_path: Path) -> None:
    path = tmp_path / "micro.json"
    rounds = [("codesvc", 2.0, ""), ("codesvc", 1.0, ""), ("bson.decode", 4.0, ""), ("bson.decode", 2.0, "")]
    results = [result("all inserted", *one) for one in rounds]
    results += [result("all upserted", *one) for one in (("codesvc", 1.0, "the result is wrong"), rounds[2])]
    path.write_text(json.dumps({"benchmarks": results}))
    report = Report(quick=True)
    add_results(report, path, quick=True)
    (table,) = report.tables
    assert table.rows == [
        ("all inserted: codesvc", "750", "2.00", "500 to 1.00 k"),
        ("all inserted: bson.decode", "375", "1.00", "250 to 500"),
        ("all upserted: codesvc", "N/A", "N/A", ""),
        ("all upserted: bson.decode", "250", "1.00", "250 to 250"),
    ]
    assert table.note == "all upserted, codesvc: the result is wrong."


def result(case: str, contender: str, seconds: float, fault: str) -> dict[str, Any]:
    info = {"suite": "replies", "case": case, "contender": contender, "amount": 1000, "fault": fault}
    return {"extra_info": info, "stats": {"median": seconds}}


def synthetic() -> Report:
    """A report with one of everything, wrong results and names that need escaping included."""
    report = Report(quick=True)
    report.charts += [
        BarChart(
            "Codes per second",
            "codes/s",
            [
                Bar("new", "wire ceiling", [410e3, 400e3, 420e3]),
                Bar("new", "codesvc", [380e3]),
                Bar("old", HOSTILE, None),
            ],
            main=True,
            note=HOSTILE,
        ),
        HeatMap(
            "Tuning",
            "codes/s",
            ("write concern", "batch", "in flight"),
            ["w:1", "majority"],
            [("5,000", "1"), ("5,000", "2"), ("50,000", "1")],
            [[[1e5], [2e5, 3e5], None], [[1.5e5], [1e5], [1.1e5]]],
        ),
        LineChart(
            "Peak memory",
            "MB",
            "codes in the file",
            [Line("codesvc", [(1e6, [140.0]), (5e6, [141.0, 142.0])]), Line("reference", [(1e6, None)])],
            Better.LOWER,
        ),
    ]
    report.tables.append(Table(HOSTILE, ("contender", "rate"), [[HOSTILE, "1"]], note=HOSTILE))
    report.targets += [
        Target("one", ">= 1", "2", met=True),
        Target("two", ">= 1", "0", met=False),
        Target(HOSTILE, ">= 1", "N/A", met=None),
    ]
    report.measured.append(HOSTILE)
    report.settings["setting"] = HOSTILE
    report.data["data"] = HOSTILE
    report.left_out.append(HOSTILE)
    return report


@pytest.fixture(params=["as installed", "without matplotlib"])
def written(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "without matplotlib":
        monkeypatch.setattr(plots, "AVAILABLE", False)
    page = write(synthetic(), tmp_path)
    assert page == tmp_path / "report.html"
    return tmp_path


def test_the_json_holds_everything(written: Path) -> None:
    content = json.loads((written / "report.json").read_text(), parse_constant=pytest.fail)
    assert content["quick"] is True
    assert content["environment"]["processor"]
    assert content["environment"]["packages"]["codesvc"]
    assert [one["met"] for one in content["targets"]] == [True, False, None]
    assert content["charts"][0]["bars"][0]["values"] == [410e3, 400e3, 420e3]
    assert content["charts"][0]["bars"][2]["values"] is None
    assert content["tables"][0]["rows"] == [[HOSTILE, "1"]]
    assert content["bias"]
    assert content["left_out"][0] == HOSTILE


def test_the_page_is_well_formed_and_tells_everything(written: Path) -> None:
    root = parsed(written)
    text = " ".join("".join(root.itertext()).split())
    headings = [element.text for element in root.iter("h2")]
    assert headings[:5] == ["What was measured", "Where", "Settings", "Data", "Bias"]
    assert headings[5:] == ["Targets", "Plots", "Tables", "Left out"]
    assert text.count(HOSTILE) >= 8
    for part in ("✓ met one", "✗ missed two", f"? N/A {HOSTILE}", "A quick run", "loopback"):
        assert part in text
    rows = [["".join(cell.itertext()) for cell in row.iter("td")] for row in root.iter("tr")]
    assert ["new", "wire ceiling", "410,000", "400,000", "420,000", "3"] in rows
    assert ["old", HOSTILE, "N/A", "", "", ""] in rows
    assert ["w:1", "5,000", "2", "250,000", "200,000", "300,000", "2"] in rows
    assert ["w:1", "50,000", "1", "N/A", "", "", ""] in rows
    assert ["5,000,000", "codesvc", "142", "141", "142", "2"] in rows


def test_the_page_fetches_nothing(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", page)
    for element in parsed(written).iter():
        assert element.tag not in {"script", "link", "img", "iframe", "object", "embed"}
        for name, value in element.items():
            assert name not in {"src", "data", "srcset", "poster", "action"}
            assert name.rpartition("}")[2] != "href" or value.startswith("#")


def test_every_plot_is_drawn_twice_and_no_part_is_shared(written: Path) -> None:
    root = parsed(written)
    drawn = list(root.iter("svg"))
    assert len(drawn) == (6 if plots.AVAILABLE else 0)
    assert len(list(root.iter("figure"))) == 3
    names = [value for element in root.iter() if (value := element.get("id"))]
    assert len(names) == len(set(names))
    used = {value[1:] for element in root.iter() if (value := element.get("href", ""))}
    assert used <= set(names)
    if not plots.AVAILABLE:
        assert "matplotlib is not installed" in "".join(root.itertext())


def test_the_main_plot_is_published(tmp_path: Path) -> None:
    paths = publish(synthetic(), tmp_path)
    if not plots.AVAILABLE:
        assert not paths
        return
    svg, png = paths
    assert ET.fromstring(svg.read_text()).tag == "{http://www.w3.org/2000/svg}svg"
    assert "Codes per second" in svg.read_text()
    assert png.read_bytes().startswith(b"\x89PNG")
    first = svg.read_text()
    publish(synthetic(), tmp_path)
    assert svg.read_text() == first


def test_the_terminal_shows_tables_and_targets(capsys: pytest.CaptureFixture[str]) -> None:
    synthetic().show()
    shown = capsys.readouterr().out
    assert f"Left out: {HOSTILE}" in shown
    assert re.search(r"\| one +\| +>= 1 +\| +2 +\| +met \|", shown)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "N/A"), (0, "0.00"), (0.984, "0.98"), (12.34, "12.3"), (412_345, "412 k"), (999_600, "1.00 M")],
)
def test_figures_have_three_digits(value: float | None, text: str) -> None:
    assert short(value) == text


def parsed(directory: Path) -> ET.Element:
    doctype, _, rest = (directory / "report.html").read_text().partition("\n")
    assert doctype == "<!DOCTYPE html>"
    return ET.fromstring(rest)
