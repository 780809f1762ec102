"""What a caller can ask of the service, each with what must be true afterwards, whatever became of the first try."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import IncompleteRead
from typing import Any

from api.harness import Document, Reply, csv_of, make_codes, new_campaign
from api.world import World

HOLD = "0e1a71e5-0000-4000-8000-000000000000"

CUT = 0
"""The status of a reply that broke off: its headers had gone out before what it was to tell could not be read."""

Check = Callable[["Case", Reply], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One campaign: ten codes that are available, four that are held and one that is assigned.

    Attributes:
        refused: MongoDB will say of one command that it is not to be; it does not say so of the same command for good.

    """

    world: World
    campaign: str = field(default_factory=new_campaign)
    free: list[str] = field(default_factory=lambda: make_codes(10))
    held: list[str] = field(default_factory=lambda: make_codes(4))
    gone: list[str] = field(default_factory=lambda: make_codes(1))
    new: list[str] = field(default_factory=lambda: make_codes(8))
    kept: dict[str, str] = field(default_factory=dict)
    refused: bool = False

    def prepare(self) -> None:
        """Write the documents past the service."""
        now = datetime.now(UTC).replace(microsecond=0)
        made: list[Document] = []
        for codes, more, dates in (
            (self.free, {}, {}),
            (self.held, {"reserveId": HOLD}, {"reserved": now}),
            (self.gone, {}, {"assigned": now}),
        ):
            for code in codes:
                key = {"campaign_id": self.campaign, "code": code}
                made.append({"_id": key, "type": "tm", **more, "date": {"saved": now, **dates}})
        self.world.insert(made)

    def get(self, path: str) -> Reply:
        return self.world.service.get(f"/v1/{self.campaign}/{path}")

    def post(self, path: str, body: Any = ...) -> Reply:
        return self.world.service.post(f"/v1/{self.campaign}/{path}", body)

    def holders(self) -> dict[str, set[str]]:
        """Return the codes of each reservation."""
        found: dict[str, set[str]] = {}
        for code, document in self.world.documents(self.campaign).items():
            if "reserveId" in document:
                found.setdefault(document["reserveId"], set()).add(code)
        return found


@dataclass(frozen=True, slots=True)
class Operation:
    """A request, and the check of all that can be seen after it: ``check`` is told the reply, of whatever status.

    Attributes:
        only: the collection whose commands matter; the others are those of another operation.
        status: of the reply where nothing fails.

    """

    name: str
    ask: Callable[[Case], Reply]
    check: Check
    prepare: Callable[[Case], None] = Case.prepare
    only: str | None = None
    status: int = 200


def _counted(case: Case, reply: Reply) -> None:
    if reply.status == 200:
        assert reply.json() == {"available": 10, "reserved": 4, "assigned": 1}
    again = case.get("codes/count?type=tm")
    assert again.json() == {"available": 10, "reserved": 4, "assigned": 1}
    assert len(case.world.stored(case.campaign)) == 15


def _looked_up(case: Case, reply: Reply) -> None:
    if reply.status == 200:
        assert reply.json()["status"] == "reserved"
    assert len(case.world.stored(case.campaign)) == 15


def _reserved(wanted: int) -> Check:
    def check(case: Case, reply: Reply) -> None:
        told: dict[str, set[str]] = {}
        if reply.status == 200:
            body = reply.json()
            assert body["count"] == wanted
            told[body["reserveId"]] = {one["code"] for one in body["codes"]}
            assert len(told[body["reserveId"]]) == wanted
        before = case.holders()
        assert before.pop(HOLD) == set(case.held)
        if told:
            assert before == told
        # Nobody was told: then as many as were asked for may be held at most, by one reservation.
        assert len(before) <= 1
        assert sum(map(len, before.values())) <= wanted
        rest = case.post("reserve?count=20&type=tm")
        assert rest.status == 200, rest
        lent = {one["code"] for one in rest.json()["codes"]}
        assert lent == set(case.free).difference(*before.values())
        assert case.holders() == {HOLD: set(case.held), **before} | (
            {rest.json()["reserveId"]: lent} if lent else {}
        )

    return check


def _refused(case: Case, reply: Reply) -> None:
    if reply.status == 409:
        assert case.holders() == {HOLD: set(case.held)}
        assert set(_dates(case, "reserved")) == set(case.held)
    _reserved(10)(case, reply)


def _seen(case: Case, reply: Reply) -> None:
    if reply.status == 200:
        assert {one["code"] for one in reply.json()["codes"]} == set(case.held)
    assert case.holders() == {HOLD: set(case.held)}


def _ended(action: str) -> Check:
    """All that the reservation held is changed, once; and nothing else."""

    def check(case: Case, reply: Reply) -> None:
        if reply.status == 200:
            assert reply.json() == {"count": {"in": 4, "updated": 4}}
        again = case.post(action, {"reserveId": HOLD})
        assert again.status == 200
        if reply.status == 200:
            assert again.json() == {"count": {"in": 0, "updated": 0}}
        if action == "assign":
            assert _assigned_codes(case) == {*case.held, *case.gone}
            assert case.holders() == {HOLD: set(case.held)}
        else:
            assert _assigned_codes(case) == set(case.gone)
            assert case.holders() == {}
            assert _dates(case, "reserved") == {}

    return check


def _assigned(case: Case, reply: Reply) -> None:
    chosen = {*case.free[:3], *case.held[:2], *case.gone}
    if reply.status == 200:
        assert reply.json() == {"count": {"in": 6, "updated": 5}}
    else:
        assert _assigned_codes(case) <= chosen
    dates = _dates(case, "assigned")
    again = case.post("assign", {"codes": [*case.free[:3], *case.held[:2], *case.gone]})
    assert again.json() == {"count": {"in": 6, "updated": 6 - len(dates)}}
    assert _assigned_codes(case) == chosen
    assert dates.items() <= _dates(case, "assigned").items()
    assert case.get("codes/count?type=tm").json() == {"available": 7, "reserved": 2, "assigned": 6}


def _assigned_codes(case: Case) -> set[str]:
    return set(_dates(case, "assigned"))


def _dates(case: Case, name: str) -> dict[str, datetime]:
    documents = case.world.documents(case.campaign)
    return {code: one["date"][name] for code, one in documents.items() if name in one["date"]}


def _released(case: Case, reply: Reply) -> None:
    before = case.holders().get(HOLD, set())
    assert before >= {case.held[3]}
    if reply.status == 200:
        assert reply.json() == {"count": {"in": 5, "updated": 3}}
        assert before == {case.held[3]}
    again = case.post("release", {"codes": [*case.held[:3], case.free[0], case.gone[0]]})
    assert again.json() == {"count": {"in": 5, "updated": len(before) - 1}}
    assert case.holders() == {HOLD: {case.held[3]}}
    assert set(_dates(case, "reserved")) == {case.held[3]}
    assert case.get("codes/count?type=tm").json() == {"available": 13, "reserved": 1, "assigned": 1}


def put_file(code_type: str) -> Callable[[Case], None]:
    """Make what prepares a file with codes of every kind."""

    def prepare(case: Case) -> None:
        case.prepare()
        # New codes, known ones, one that comes twice, and a row that is not valid.
        content = csv_of([*case.new, *case.free[:3], *case.held[:1], case.new[0]]) + b"bad\x01\n"
        case.kept["key"] = case.world.put(case.campaign, content, code_type=code_type)

    return prepare


def upload(case: Case) -> Reply:
    """Upload the file that was prepared."""
    return case.world.service.upload(case.kept["key"])


def _uploaded(case: Case, reply: Reply) -> None:
    stored = case.world.stored(case.campaign)
    missing = set(case.new) - stored
    if reply.status == 200:
        assert reply.json()["count"] == {"in": 13, "inserted": 8, "updated": 5}
        assert not missing
        uploads = case.get("uploads").json()["uploads"]
        # A word that was refused is not said again; then the lease ends by itself.
        if not (case.refused and uploads[0]["state"] == "running"):
            assert [(one["state"], one["count"]) for one in uploads] == [("succeeded", reply.json()["count"])]
    again = upload(case)
    assert again.status == 200, again
    assert again.json()["count"] == {"in": 13, "inserted": len(missing), "updated": 13 - len(missing)}
    assert again.json()["invalid"]["count"] == 1
    documents = case.world.documents(case.campaign)
    assert set(documents) == {*case.new, *case.free, *case.held, *case.gone}
    code_type = case.kept["key"].split("/")[2]
    assert {documents[code]["type"] for code in (*case.new, *case.free[:3], *case.held[:1])} == {code_type}
    # An update never touches the life of a code.
    assert documents[case.held[0]]["reserveId"] == HOLD
    assert set(_dates(case, "assigned")) == set(case.gone)


def _upload_first(case: Case) -> None:
    put_file("tm")(case)
    assert upload(case).status == 200
    case.kept["id"] = case.get("uploads").json()["uploads"][0]["uploadId"]


def _resource(case: Case, reply: Reply) -> None:
    if reply.status == 200:
        assert reply.json()["count"] == {"in": 13, "inserted": 8, "updated": 5}


def _resources(case: Case, reply: Reply) -> None:
    if reply.status == 200:
        assert [one["uploadId"] for one in reply.json()["uploads"]] == [case.kept["id"]]


def _ask_rows(case: Case) -> Reply:
    try:
        return case.get(f"uploads/{case.kept['id']}/invalid")
    except IncompleteRead:
        return Reply(CUT, (), b"")


def _rows(case: Case, reply: Reply) -> None:
    if reply.status == 200:
        lines = reply.body.decode().splitlines()
        assert len(lines) == 2
        assert lines[1].startswith("14,")


OPERATIONS = [
    Operation("count", lambda case: case.get("codes/count?type=tm"), _counted),
    Operation("look-up", lambda case: case.get(f"codes/{case.held[0]}"), _looked_up),
    Operation("reserve", lambda case: case.post("reserve?count=3&type=tm"), _reserved(3)),
    # More than there are: the last ones are lent in another way.
    Operation("reserve-last", lambda case: case.post("reserve?count=12&type=tm"), _reserved(10)),
    Operation(
        "reserve-too-few", lambda case: case.post("reserve?count=12&type=tm&min=11"), _refused, status=409
    ),
    Operation("reservation", lambda case: case.get(f"reservations/{HOLD}"), _seen),
    Operation("assign-reservation", lambda case: case.post("assign", {"reserveId": HOLD}), _ended("assign")),
    Operation(
        "release-reservation", lambda case: case.post("release", {"reserveId": HOLD}), _ended("release")
    ),
    Operation(
        "assign",
        lambda case: case.post("assign", {"codes": [*case.free[:3], *case.held[:2], *case.gone]}),
        _assigned,
    ),
    Operation(
        "release",
        lambda case: case.post("release", {"codes": [*case.held[:3], case.free[0], case.gone[0]]}),
        _released,
    ),
    Operation("upload", upload, _uploaded, put_file("tm")),
    Operation("upload-other-type", upload, _uploaded, put_file("external"), only="codes"),
    Operation(
        "upload-resource", lambda case: case.get(f"uploads/{case.kept['id']}"), _resource, _upload_first
    ),
    Operation("upload-list", lambda case: case.get("uploads"), _resources, _upload_first),
    Operation("invalid-rows", _ask_rows, _rows, _upload_first),
]
