"""The console's uploads: begun, followed while they go on, cancelled, refused."""

import random
import re
from pathlib import Path

import pytest
from api.harness import csv_of, eventually, make_codes
from api.proxy import Proxy
from api.world import World
from playwright.sync_api import Locator, Page, expect

from .visit import Visit

CODES = 120_000
INVALID = 100_000


@pytest.fixture
def file(world: World, campaign: str) -> str:
    """The name of a file of CODES codes with three invalid rows, a header, and a code that is known."""
    mark = make_codes(1)[0]
    codes = [f"{mark}{index:06x}" for index in range(CODES - 1)]
    known = next(iter(world.stored(campaign)))
    rows = [code.encode() for code in [*codes, known]]
    for row in (b"x" * 300, b'"a"b', b"\xff\xfe"):
        rows.insert(random.randrange(1000), row)
    name = "2026/batch 1.csv"
    world.put(campaign, b"code\n" + b"\n".join(rows), name=name, code_type="external")
    return name


def start(
    page: Page,
    name: str,
    *,
    code_type: str = "external",
    header: bool = False,
    strict: bool = False,
    dry_run: bool = False,
) -> Locator:
    """Start an upload by the form; return its place in the list."""
    page.get_by_label("Type of the codes").select_option(code_type)
    page.get_by_label("File name").fill(name)
    page.get_by_label("The first row is a header").set_checked(header)
    page.get_by_label("Stop at the first invalid row").set_checked(strict)
    page.get_by_role("checkbox", name="Dry run").set_checked(dry_run)
    page.get_by_role("button", name="Start upload").click()
    item = page.get_by_role("listitem").filter(has_text=name).first
    expect(item).to_be_visible()
    return item


def fact(item: Locator, name: str) -> int:
    return int(item.locator(f"[data-fact='{name}']").inner_text().replace(",", ""))


def test_progress_is_seen_to_the_end(
    visit: Visit, world: World, campaign: str, file: str, halfway: Proxy
) -> None:
    page = visit.sign_in(campaign)
    expect(page.get_by_text("There are no uploads of this campaign yet.")).to_be_hidden()
    page.get_by_label("File name").fill(file)
    expect(page.locator("#upload-key")).to_have_text(f"codes/{campaign}/tm/{file}")
    item = start(page, file, header=True)
    expect(item.locator(".badge")).to_have_text("running")
    eventually(lambda: 0 < fact(item, "Codes") < CODES, limit=20)
    bar = item.get_by_role("progressbar")
    eventually(lambda: 0 < int(bar.get_attribute("aria-valuenow") or "0") < 100, limit=20)
    # How far it stands still depends on what has come through the wire by then.
    expect(item.locator("[data-fact=Read]")).to_have_text(
        re.compile(r"[1-9]\d?(\.\d)? % · \d[\d.,]* [kM]B of 3\.1 MB ?")
    )
    expect(item.locator("[data-fact='Invalid rows']")).to_have_text("3")
    # Not before all of them are known.
    expect(item.get_by_role("button", name="Download all invalid rows")).to_be_hidden()
    halfway.resume()
    expect(item.locator(".badge")).to_have_text("succeeded", timeout=40_000)
    expect(bar).to_be_hidden()
    assert fact(item, "Codes") == CODES
    assert fact(item, "New") == CODES - 1
    assert fact(item, "Known before") == 1
    expect(item.get_by_role("button", name="Download all invalid rows")).to_be_visible()
    item.get_by_text("3 invalid rows").click()
    rows = item.get_by_role("row")
    expect(rows).to_have_count(4)
    expect(page.locator("#announcements")).to_contain_text(
        f"{file} has succeeded: {CODES:,} codes, 3 invalid rows"
    )
    counts = world.service.count(campaign, "external")
    expect(page.locator("[data-figure=external-available]")).to_have_text(f"{counts['available']:,}")


def test_every_invalid_row_is_downloaded(visit: Visit, world: World, campaign: str, tmp_path: Path) -> None:
    visit.statuses = {404}
    file_key = world.put(campaign, b"x\x01\n" * INVALID + b"A\n", name="2026/bad rows.csv")
    world.service.upload(file_key)
    page = visit.sign_in(campaign)
    item = page.get_by_role("listitem").filter(has_text="bad rows.csv")
    expect(item.locator("[data-fact='Invalid rows']")).to_have_text(f"{INVALID:,}")
    # Of the two uploads that stocked the campaign, every row was taken.
    expect(page.get_by_role("listitem")).to_have_count(3)
    download = page.get_by_role("button", name="Download all invalid rows")
    expect(download).to_have_count(1)
    with page.expect_download() as saving:
        download.click()
    file = tmp_path / "rows.csv"
    saving.value.save_as(file)
    address = f"/v1/{campaign}/uploads/{item.get_attribute('data-upload')}/invalid"
    lines = file.read_bytes().splitlines()
    assert lines == world.service.get(address).body.splitlines()
    assert len(lines) == 1 + INVALID
    assert saving.value.suggested_filename == "2026-bad rows-invalid-rows.csv"
    expect(item.get_by_role("alert")).to_be_empty()
    world.database["uploads"].delete_one({"_id": item.get_attribute("data-upload")})
    with page.expect_response(f"**{address}") as answered:
        download.click()
    expect(item.get_by_role("alert")).to_contain_text("The campaign has no such upload.")
    expect(item.get_by_role("alert")).to_contain_text(answered.value.headers["x-correlation-id"])
    expect(download).to_be_enabled()


def test_take_back(visit: Visit, world: World, campaign: str) -> None:
    before = world.stored(campaign)
    codes = make_codes(20)
    world.put(campaign, csv_of([*codes, *before]), name="wrong file.csv")
    page = visit.sign_in(campaign)
    item = start(page, "wrong file.csv", code_type="tm")
    button = item.get_by_role("button", name="Take back the upload")
    expect(item.locator(".badge")).to_have_text("succeeded", timeout=20_000)
    button.click()
    page.get_by_role("dialog").get_by_role("button", name="Take the upload back").click()
    expect(item.locator("[data-fact='Taken back']")).to_have_text("20", timeout=20_000)
    assert world.stored(campaign) == before


def test_cancel(visit: Visit, world: World, campaign: str, file: str, halfway: Proxy) -> None:
    page = visit.sign_in(campaign)
    item = start(page, file, header=True)
    eventually(lambda: fact(item, "Codes"), limit=20)
    cancel = item.get_by_role("button", name="Cancel the upload")
    cancel.click()
    page.get_by_role("dialog").get_by_role("button", name="Go back").click()
    expect(item.locator(".badge")).to_have_text("running")
    cancel.click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the upload").click()
    expect(item.locator(".badge")).to_have_text("cancelled", timeout=20_000)
    expect(cancel).to_be_hidden()
    stored = world.codes.count_documents({"_id.campaign_id": campaign})
    assert stored == 30 + 20 + fact(item, "New")
    assert stored < CODES
    page.reload()
    page.get_by_label("Token").fill(visit.service.token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("listitem").filter(has_text=file).locator(".badge")).to_have_text("cancelled")


def test_what_fails_is_told(visit: Visit, world: World, campaign: str) -> None:
    visit.statuses = {404}
    name = world.put(campaign, b"A\n" + b"x" * 300, name="bad.csv").rpartition("/")[2]
    page = visit.sign_in(campaign)
    item = start(page, name, code_type="tm", strict=True)
    expect(item.locator(".badge")).to_have_text("failed")
    expect(item.get_by_role("status")).to_contain_text("The file holds an invalid row")
    page.get_by_label("File name").fill("not-there.csv")
    page.get_by_role("button", name="Start upload").click()
    expect(page.locator("#upload-told")).to_contain_text("The file does not exist")


def test_uploads_of_others_are_seen_and_older_ones_on_demand(
    visit: Visit, world: World, campaign: str
) -> None:
    for index in range(6):
        world.service.upload(world.put(campaign, csv_of(make_codes(1)), name=f"{index}.csv"))
    page = visit.sign_in(campaign)
    items = page.get_by_role("listitem")
    expect(items).to_have_count(5)
    expect(items.first).to_contain_text("5.csv")
    page.get_by_role("button", name="Show more").click()
    # The two that stocked the campaign were uploads as well.
    expect(items).to_have_count(8)
    expect(items.nth(5)).to_be_focused()


def test_a_dry_run_says_that_it_is_one(visit: Visit, world: World, campaign: str) -> None:
    before = world.stored(campaign)
    world.put(campaign, csv_of([*make_codes(7), *sorted(before)[:2]]), name="dry.csv")
    page = visit.sign_in(campaign)
    item = start(page, "dry.csv", code_type="tm", dry_run=True)
    expect(item.locator(".badge")).to_have_text("succeeded", timeout=20_000)
    expect(item).to_contain_text("Dry run, nothing is stored")
    assert (fact(item, "New"), fact(item, "Known before")) == (7, 2)
    expect(page.locator("#announcements")).to_contain_text("The dry run of dry.csv has succeeded: 9 codes")
    assert world.stored(campaign) == before
    item = start(page, "dry.csv", code_type="tm")
    expect(item.locator(".badge")).to_have_text("succeeded", timeout=20_000)
    expect(item).not_to_contain_text("Dry run")
