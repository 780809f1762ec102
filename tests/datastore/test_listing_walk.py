"""Pages of codes by either index: what they hold, and where they end when they would take too long."""

from datetime import timedelta

import pytest

from codesvc.datastore.listing import CodeListing
from codesvc.models import CodePage, CodeType, Status

from .rig import CAMPAIGN, START, TTL, Documents, Rig, document, numbered

CODES = numbered(240)
CUT_OFF = START - TTL
STATES = [
    *("fresh", "fresh", "ended", "reserved", "reserved", "assigned", "assigned-held"),
    *("fresh", "at-its-end", "assigned-after-its-end"),
]
"""In turn; the two types do not come round with them."""

STATUS = {
    **dict.fromkeys(("fresh", "ended", "at-its-end"), Status.AVAILABLE),
    "reserved": Status.RESERVED,
    **dict.fromkeys(("assigned", "assigned-held", "assigned-after-its-end"), Status.ASSIGNED),
}
RESERVED = {
    **dict.fromkeys(("ended", "assigned-after-its-end"), CUT_OFF - TTL),
    **dict.fromkeys(("reserved", "assigned-held"), CUT_OFF + timedelta(milliseconds=1)),
    "at-its-end": CUT_OFF,
}


def kind(number: int) -> tuple[CodeType, str]:
    """The first 40 are external and available, the last 20 of the other type; between them, all is mixed."""
    if number < 40:
        return CodeType.EXTERNAL, "fresh"
    if number >= 220:
        return CodeType.TM, STATES[number % len(STATES)]
    return (CodeType.TM, CodeType.EXTERNAL)[number % 3 == 0], STATES[number % len(STATES)]


@pytest.fixture(autouse=True)
def stock(documents: Documents) -> None:
    made = []
    for number, code in enumerate(CODES):
        code_type, state = kind(number)
        assigned = START if state.startswith("assigned") else None
        held = RESERVED.get(state)
        made.append(document(code, code_type=code_type, reserved=held, assigned=assigned))
    neighbours = [document(code, campaign_id=f"{CAMPAIGN}{end}") for code in CODES[:5] for end in "-."]
    documents.insert_many([*made, *neighbours])


def wanted(code_type: CodeType | None, status: Status | None) -> list[str]:
    return [
        code
        for number, code in enumerate(CODES)
        if code_type in {None, kind(number)[0]} and status in {None, STATUS[kind(number)[1]]}
    ]


FILTERS: list[tuple[CodeType | None, Status | None]] = [
    *((None, status) for status in Status),
    *((code_type, status) for code_type in CodeType for status in (None, *Status)),
]


async def read(listing: CodeListing, limit: int, patience: float) -> list[CodePage]:
    """Read all pages."""
    pages: list[CodePage] = []
    after: str | None = ""
    while after is not None:
        page = await listing.page(after=after, limit=limit, cut_off=CUT_OFF, patience=patience)
        assert page.next is None or page.next > after
        assert len(page.codes) <= limit
        pages.append(page)
        after = page.next
    return pages


def codes_of(pages: list[CodePage]) -> list[str]:
    return [one.code for page in pages for one in page.codes]


@pytest.mark.parametrize("limit", [1, 9, 2_000])
@pytest.mark.parametrize(("short", "first_piece"), [(20_000, 2_000), (0, 7), (0, 2_000)])
async def test_every_way_tells_the_same(rig: Rig, short: int, first_piece: int, limit: int) -> None:
    for code_type, status in FILTERS if limit > 1 else FILTERS[::5]:
        listing = CodeListing(
            rig.mongo, rig.telemetry, CAMPAIGN, code_type, status, short=short, first_piece=first_piece
        )
        pages = await read(listing, limit, 60.0)
        assert codes_of(pages) == wanted(code_type, status)
        assert {one.status for page in pages for one in page.codes} <= ({status} if status else set(Status))
        # None is shorter than the limit but the last.
        assert {len(page.codes) for page in pages[:-1]} <= {limit}


async def test_a_page_that_would_take_too_long_ends_early_and_says_where_to_go_on(rig: Rig) -> None:
    listing = CodeListing(
        rig.mongo, rig.telemetry, CAMPAIGN, CodeType.EXTERNAL, Status.ASSIGNED, short=0, first_piece=40
    )
    pages = await read(listing, 100, 0.0)
    right = wanted(CodeType.EXTERNAL, Status.ASSIGNED)
    assert codes_of(pages) == right
    # One piece of the campaign to each: the first has none of those in it, and the last is not the only one with some.
    assert pages[0] == CodePage((), CODES[39])
    assert len(pages) > 2
    assert all(page.next in CODES for page in pages[:-1])
    assert any(0 < len(page.codes) < 100 for page in pages[:-1])
    # A page that is full does not go on to the end of its piece.
    listing = CodeListing(rig.mongo, rig.telemetry, CAMPAIGN, None, Status.RESERVED, short=0, first_piece=240)
    page = await listing.page(after="", limit=3, cut_off=CUT_OFF, patience=0.0)
    assert page.next == page.codes[-1].code == wanted(None, Status.RESERVED)[2]


async def test_the_index_is_chosen_by_how_many_are_not_in_order(rig: Rig) -> None:
    """Held codes make those of their status unordered; those that were never held are not counted."""
    ended = sum(kind(number)[1] in {"ended", "at-its-end"} for number in range(len(CODES)))
    for short, pieces in ((ended, False), (ended - 1, True)):
        listing = CodeListing(
            rig.mongo, rig.telemetry, CAMPAIGN, None, Status.AVAILABLE, short=short, first_piece=5
        )
        # By _id, the page would end with the first piece.
        page = await listing.page(after="", limit=50, cut_off=CUT_OFF, patience=0.0)
        assert len(page.codes) == (5 if pieces else 50)
