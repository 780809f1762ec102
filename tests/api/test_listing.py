"""GET /v1/{campaignId}/codes: pages, and all of them as CSV or newline-delimited JSON."""

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from .harness import CODE_MARK, Document, Reply, Service, assert_problem, csv_of, make_codes, new_campaign
from .world import World

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
TEXT = {"Accept": "text/csv"}
LINES = {"Accept": "application/x-ndjson"}
HEAD = ["code", "type", "status", "reserveId", "saved", "reserved", "assigned"]
AWKWARD = [
    *('plain-1"2', "a,b", '"', "=1+1", "+1", "-1", "@x", "ünï", "\U0001f600", "\uffff", "back\\slash"),
    *(" led", "trailed ", "'", "zz"),
]
"""Codes that have to be quoted or escaped somewhere, or whose order could be got wrong."""


def document(campaign: str, code: str, code_type: str, status: str) -> Document:
    dates: Document = {"saved": NOW - 2 * DAY}
    made: Document = {"_id": {"campaign_id": campaign, "code": code}, "type": code_type, "date": dates}
    if status in {"reserved", "ended", "assigned-held"}:
        dates["reserved"] = NOW - (2 * DAY if status == "ended" else DAY / 24)
        made["reserveId"] = "5b3a1c9e-6d0c-4f5e-9a55-0d8f3f1f7f10"
    if status.startswith("assigned"):
        dates["assigned"] = NOW
    return made


STATES = ("fresh", "ended", "reserved", "assigned", "assigned-held")


@pytest.fixture(scope="module")
def listed(world: World) -> str:
    """A campaign with codes of every kind, between those of two others."""
    campaign = new_campaign()
    codes = sorted({*make_codes(120), *AWKWARD}, key=str.encode)
    world.insert(
        document(campaign, code, ("tm", "external")[number % 3 == 0], STATES[number % len(STATES)])
        for number, code in enumerate(codes)
    )
    for other in (f"{campaign}-", campaign[:-1]):
        world.insert([document(other, f"{CODE_MARK}other", "tm", "fresh")])
    return campaign


def expected(world: World, campaign: str, **wanted: str) -> list[Document]:
    """Look every code up by itself."""
    codes = sorted(world.stored(campaign), key=str.encode)
    found = [world.service.get(f"/v1/{campaign}/codes/{quote(code, safe='')}").json() for code in codes]
    return [each for each in found if all(each[name] == value for name, value in wanted.items())]


def pages(service: Service, campaign: str, query: str = "", limit: int = 1000) -> Iterator[Document]:
    after = ""
    while True:
        reply = service.get(f"/v1/{campaign}/codes?limit={limit}{after}{query}")
        assert reply.status == 200, reply
        assert reply.header("Cache-Control") == "no-store"
        page = reply.json()
        assert len(page["codes"]) <= limit
        yield page
        if "next" not in page:
            return
        assert page["codes"], "a small campaign is not searched for long"
        after = f"&after={quote(page['next'], safe='')}"


def codes_of(service: Service, campaign: str, query: str = "", limit: int = 1000) -> list[Document]:
    return [code for page in pages(service, campaign, query, limit) for code in page["codes"]]


FILTERS: list[dict[str, str]] = [
    {},
    {"type": "tm"},
    {"type": "external"},
    *({"status": status} for status in ("available", "reserved", "assigned")),
    *({"type": "tm", "status": status} for status in ("available", "reserved", "assigned")),
    {"type": "external", "status": "available"},
]


@pytest.fixture(scope="module")
def every(world: World, listed: str) -> list[Document]:
    return expected(world, listed)


@pytest.mark.parametrize("wanted", FILTERS, ids=lambda each: "-".join(each.values()) or "all")
@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_pages_hold_each_code_once_by_code(
    service: Service, listed: str, every: list[Document], wanted: dict[str, str], limit: int
) -> None:
    query = "".join(f"&{name}={value}" for name, value in wanted.items())
    right = [each for each in every if all(each[name] == value for name, value in wanted.items())]
    found = list(pages(service, listed, query, limit))
    assert [code for page in found for code in page["codes"]] == right
    # Nobody has to ask once more to learn that there are no more.
    assert len(found) == -(-len(right) // limit)


@pytest.mark.parametrize("wanted", FILTERS, ids=lambda each: "-".join(each.values()) or "all")
def test_a_stream_has_what_the_pages_have(
    service: Service, listed: str, every: list[Document], wanted: dict[str, str]
) -> None:
    query = "&".join(f"{name}={value}" for name, value in wanted.items())
    right = [each for each in every if all(each[name] == value for name, value in wanted.items())]
    reply = service.get(f"/v1/{listed}/codes?{query}", headers=LINES)
    assert reply.status == 200
    assert reply.media_type == "application/x-ndjson"
    assert reply.header("Cache-Control") == "no-store"
    assert reply.body.endswith(b"\n")
    assert [json.loads(line) for line in reply.body.decode().split("\n")[:-1]] == right
    reply = service.get(f"/v1/{listed}/codes?{query}", headers=TEXT)
    assert reply.header("Content-Disposition") == f'attachment; filename="{listed}.csv"'
    assert rows(reply) == [as_row(each) for each in right]


def rows(reply: Reply) -> list[list[str]]:
    assert reply.status == 200
    assert reply.header("Content-Type") == "text/csv; charset=utf-8; header=present"
    text = reply.body.decode()
    assert text.endswith("\r\n")
    head, *found = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert head == HEAD
    return found


def as_row(code: Document) -> list[str]:
    dates = code["date"]
    return [
        *(code["code"], code["type"], code["status"], code.get("reserveId", ""), dates["saved"]),
        *(dates.get("reserved", ""), dates.get("assigned", "")),
    ]


def test_what_was_exported_can_be_uploaded_again(world: World, listed: str) -> None:
    """Codes are written as they are, also those that a spreadsheet takes for formulas."""
    exported = world.service.get(f"/v1/{listed}/codes", headers=TEXT).body
    copy = new_campaign()
    reply = world.upload(copy, exported, header=True)
    assert "invalid" not in reply.json()
    assert world.stored(copy) == world.stored(listed)


def test_from_a_code_on(service: Service, listed: str, every: list[Document]) -> None:
    after = every[57]["code"]
    target = f"/v1/{listed}/codes?after={quote(after, safe='')}"
    assert service.get(f"{target}&limit=3").json()["codes"] == every[58:61]
    reply = service.get(target, headers=LINES)
    assert [json.loads(line) for line in reply.body.decode().split("\n")[:-1]] == every[58:]
    assert rows(service.get(target, headers=TEXT)) == [as_row(each) for each in every[58:]]
    # It need not be a code that is there.
    assert service.get(f"/v1/{listed}/codes?after=%01", headers=TEXT).status == 400
    assert service.get(f"/v1/{listed}/codes?after={after}!").json()["codes"] == every[58:158]


def test_of_nothing(service: Service, campaign: str) -> None:
    assert service.get(f"/v1/{campaign}/codes").json() == {"codes": []}
    assert service.get(f"/v1/{campaign}/codes", headers=LINES).body == b""
    assert rows(service.get(f"/v1/{campaign}/codes?type=tm&status=assigned", headers=TEXT)) == []


def test_a_page_has_a_hundred_codes_unless_asked_otherwise(service: Service, listed: str) -> None:
    assert len(service.get(f"/v1/{listed}/codes").json()["codes"]) == 100


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("type=x", "invalidType"),
        ("status=x", "invalidStatus"),
        ("limit=0", "invalidLimit"),
        ("limit=1001", "invalidLimit"),
        ("limit=x", "invalidLimit"),
        ("after=", "invalidAfter"),
        (f"after={'x' * 257}", "invalidAfter"),
        ("after=a%00", "invalidAfter"),
        ("after=a&after=b", "invalidAfter"),
    ],
)
@pytest.mark.parametrize("accept", ["*/*", "text/csv"])
def test_refusals(service: Service, campaign: str, query: str, code: str, accept: str) -> None:
    reply = service.get(f"/v1/{campaign}/codes?{query}", headers={"Accept": accept})
    assert_problem(reply, 400, code)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
        ("text/*", "text/csv"),
        ("Text/CSV;charset=utf-8", "text/csv"),
        ("application/json;q=0.5, text/csv", "text/csv"),
        ("text/csv;q=0.5, application/x-ndjson; q=0.6", "application/x-ndjson"),
        ("*/*, text/csv", "text/csv"),
    ],
)
def test_the_representation_is_what_was_asked_for(
    service: Service, campaign: str, accept: str | None, media_type: str
) -> None:
    headers = {} if accept is None else {"Accept": accept}
    reply = service.get(f"/v1/{campaign}/codes", headers=headers)
    assert (reply.status, reply.media_type) == (200, media_type)


@pytest.mark.parametrize("accept", ["application/xml", "text/csv;q=0", "*/*;q=0", "text/html, image/*"])
def test_what_cannot_be_had(service: Service, campaign: str, accept: str) -> None:
    problem = assert_problem(
        service.get(f"/v1/{campaign}/codes", headers={"Accept": accept}), 406, "notAcceptable"
    )
    assert "application/x-ndjson" in problem["detail"]


@pytest.mark.parametrize("headers", [{}, TEXT, LINES], ids=["json", "csv", "ndjson"])
def test_head(service: Service, listed: str, headers: dict[str, str]) -> None:
    reply = service.request("HEAD", f"/v1/{listed}/codes", headers=headers)
    assert reply.status == 200
    assert reply.media_type == headers.get("Accept", "application/json")
    assert not reply.body


def test_holds_end_while_they_are_listed(tiny: World, campaign: str) -> None:
    codes = make_codes(4)
    tiny.upload(campaign, csv_of(codes))
    lent: list[Any] = tiny.service.reserve(campaign, 2)["codes"]
    assert [each["code"] for each in codes_of(tiny.service, campaign, "&status=reserved")] == sorted(
        each["code"] for each in lent
    )
