"""deploy/grafana: the committed JSON is what its code writes, Grafana can show it, and every query parses."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from .dashboardfile import DASHBOARD, GRAFANA, load, panels, queries
from .programs import run
from .rulefiles import ROOT, alerts, paragraphs

# Those of Grafana's ids (its packages/grafana-data/src/valueFormats/categories.ts) that the dashboard uses.
UNITS = {"none", "short", "s", "reqps", "ops", "percentunit", "bytes", "Bps"}
ROWS = ["Is anybody hurt?", "Requests", "Stock", "Uploads", "MongoDB", "S3", "Processes"]


def strings(value: Any) -> Iterator[str]:
    """Yield every string of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)


def test_the_committed_file_is_what_the_code_writes() -> None:
    run(sys.executable, GRAFANA / "dashboard.py", "--check")


def test_the_check_sees_a_change_by_hand(tmp_path: Path) -> None:
    for file in GRAFANA.glob("*.*"):
        (tmp_path / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    changed = json.loads(DASHBOARD.read_text(encoding="utf-8")) | {"refresh": "1s"}
    (tmp_path / DASHBOARD.name).write_text(json.dumps(changed, indent=1) + "\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="is not what dashboard"):
        run(sys.executable, tmp_path / "dashboard.py", "--check")


def test_it_is_a_dashboard_of_its_own() -> None:
    dashboard = load()
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,40}", dashboard["uid"])
    assert dashboard["id"] is None, "an id belongs to one Grafana"
    assert dashboard["schemaVersion"] >= 36, "older ones name data sources by strings"
    assert [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"] == ROWS


def test_ids_are_unique_and_no_panel_hides_another() -> None:
    placed = load()["panels"]
    ids = [panel["id"] for panel in placed]
    assert len(ids) == len(set(ids))
    titles = [panel["title"] for panel in placed]
    assert len(titles) == len(set(titles))
    for panel in placed:
        grid = panel["gridPos"]
        assert grid["x"] >= 0, panel["title"]
        assert grid["x"] + grid["w"] <= 24, panel["title"]
        assert grid["h"] > 0, panel["title"]
    for one, other in combinations(placed, 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or apart, f"{one['title']} lies on {other['title']}"


def test_every_panel_says_what_it_answers_and_in_which_unit() -> None:
    for panel in panels():
        assert panel["description"].endswith(("?", ".")), panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] in UNITS, panel["title"]
        steps = defaults["thresholds"]["steps"]
        assert steps[0]["value"] is None, panel["title"]
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(values), panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters, panel["title"]
        assert len(letters) == len(set(letters)), panel["title"]
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]


def test_every_variable_that_is_used_exists() -> None:
    dashboard = load()
    names = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert names == ["datasource", "job", "namespace", "pod", "docs"]
    used = {
        name
        for text in strings(dashboard)
        for name in re.findall(r"\$\{?(\w+)", text)
        if not name.startswith("__")
    }
    assert used == set(names)
    filled = " ".join(queries().values())
    assert "$" not in filled, "a test does not fill in what Grafana does"


def test_links_lead_to_paragraphs_that_exist() -> None:
    anchors = {*paragraphs(), "alerts-and-runbooks"}
    links = [text for text in strings(load()) if text.startswith("${docs}")]
    for link in links:
        assert link.partition("#")[2] in anchors, link
    linked = {link.partition("#")[2] for link in links}
    assert {name.lower() for name in alerts()} <= linked, "an alert without a panel"


def test_every_query_parses(program: Callable[..., Path], tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": expr} for number, expr in enumerate(queries().values(), 1)]
    assert len(rules) > 50
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    run(program("promtool"), "check", "rules", file)


def test_grafana_and_compose_find_the_files() -> None:
    provisioning = GRAFANA / "provisioning"
    provider = yaml.safe_load((provisioning / "dashboards" / "codesvc.yaml").read_text(encoding="utf-8"))
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text(encoding="utf-8"))
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    mounts = dict(volume.split(":")[1::-1] for volume in services["grafana"]["volumes"])
    directory = provider["providers"][0]["options"]["path"]
    assert (ROOT / "deploy" / mounts[f"{directory}/{DASHBOARD.name}"]).resolve() == DASHBOARD
    assert (ROOT / "deploy" / mounts["/etc/grafana/provisioning"]).resolve() == provisioning
    assert services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].startswith(
        directory
    )
    host = re.fullmatch(r"http://(\w+):9090", source["datasources"][0]["url"])
    assert host is not None
    assert host[1] in services
    for name in ("prometheus", "grafana"):
        assert services[name]["profiles"] == ["monitoring"], "only those who ask for it get it"
