"""What a caller can ask of many codes at once: to be told of them, and to take back what an upload has inserted."""

import csv
from datetime import datetime
from http.client import IncompleteRead
from typing import Any

from api.harness import Reply

from .operations import CUT, HOLD, Case, Operation, put_file, upload


def _listed(case: Case, reply: Reply) -> None:
    """A page, and those behind it, have each of the wanted codes once, in order."""
    assert reply.status != CUT, "nothing is sent before the page is there"
    codes: list[str] = []
    after = ""
    if reply.status == 200:
        page = reply.json()
        codes = [one["code"] for one in page["codes"]]
        assert len(codes) == 4
        after = f"&after={page['next']}"
    rest = case.get(f"codes?type=tm&status=available{after}")
    assert rest.status == 200, rest
    assert "next" not in rest.json()
    assert codes + [one["code"] for one in rest.json()["codes"]] == sorted(case.free)
    assert len(case.world.stored(case.campaign)) == 15


def _ask_export(case: Case) -> Reply:
    try:
        return case.world.service.get(f"/v1/{case.campaign}/codes", headers={"Accept": "text/csv"})
    except IncompleteRead:
        return Reply(CUT, (), b"")


def _exported(case: Case, reply: Reply) -> None:
    """What ends as it should has everything in it."""
    if reply.status == 200:
        _, *rows = csv.reader(reply.body.decode().splitlines())
        states = {"available": case.free, "reserved": case.held, "assigned": case.gone}
        right = sorted((code, "tm", state) for state, codes in states.items() for code in codes)
        assert [tuple(row[:3]) for row in rows] == right
        assert {row[3] for row in rows if row[2] == "reserved"} == {HOLD}
    assert len(case.world.stored(case.campaign)) == 15


def _uploaded_and_used(case: Case) -> None:
    """Of what was uploaded, some is held by now, and some assigned."""
    put_file("tm")(case)
    reply = upload(case)
    assert reply.status == 200, reply
    case.kept["address"] = reply.header("Location") or ""
    assert case.post("assign", {"codes": case.new[:2]}).status == 200
    assert case.post("reserve?count=2&type=tm").json()["count"] == 2


def _take_back(case: Case) -> Reply:
    return case.world.service.request("DELETE", case.kept["address"])


def _taken_back(case: Case, reply: Reply) -> None:
    """What was inserted and is still available goes, and is counted once, however often it is asked for."""
    before = case.world.documents(case.campaign)
    used = {code for code, one in before.items() if "reserveId" in one or "assigned" in one["date"]}
    left = {*case.free, *case.held, *case.gone, *(used & set(case.new))}
    total = len(set(case.new) - used)
    told = reply.json() if reply.status == 200 else case.world.service.get(case.kept["address"]).json()
    taken = told.get("takenBack", {"count": 0, "done": False})
    # What is gone has been counted, and the other way round.
    assert taken["count"] == len(set(case.new) - set(before))
    if reply.status == 200:
        assert (taken["count"], taken["done"]) == (total, True)
    for _ in range(2):
        again = _take_back(case)
        assert again.status == 200, again
        assert (again.json()["takenBack"]["count"], again.json()["takenBack"]["done"]) == (total, True)
        after = case.world.documents(case.campaign)
        assert set(after) == left
        assert {code: _life(one) for code, one in after.items()} == {
            code: _life(one) for code, one in before.items() if code in left
        }
    counts = case.get("codes/count?type=tm").json()
    assert counts == {"available": len(left) - 4 - 2 - 1 - 2, "reserved": 4 + 2, "assigned": 1 + 2}


def _life(document: dict[str, Any]) -> tuple[str | None, dict[str, datetime]]:
    return document.get("reserveId"), document["date"]


BULK_OPERATIONS = [
    Operation("list", lambda case: case.get("codes?type=tm&status=available&limit=4"), _listed),
    Operation("export", _ask_export, _exported),
    Operation("take-back", _take_back, _taken_back, _uploaded_and_used),
]
