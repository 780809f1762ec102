"""Both pages at both widths, light and dark, by keyboard, and as assistive technology is given them.

The screenshots of a run are in build/screenshots.
"""

import re
from collections.abc import Callable
from typing import Final

import pytest
from api.harness import csv_of, make_codes
from api.world import World
from playwright.sync_api import Browser, Page, expect

from .looks import check_access, check_looks
from .visit import MOST_TABS, Visit

WIDTHS = [360, 1440]
SCHEMES: Final = ("light", "dark")


def fill(page: Page) -> None:
    """Bring the console into a state in which every part of it shows something."""
    page.get_by_label("How many").fill("12")
    page.get_by_role("button", name="Reserve", exact=True).click()
    expect(page.locator("#reserved-told")).to_contain_text("12 codes reserved")
    code = page.get_by_label("Reserved codes").input_value().split("\n")[0]
    page.locator("#change-codes").fill(f"{code}\nnever-heard-of")
    page.get_by_role("button", name="Release", exact=True).click()
    expect(page.locator("#changed")).to_contain_text("1 code released")
    page.get_by_label("Code", exact=True).fill(code)
    page.get_by_role("button", name="Look up").click()
    expect(page.locator("#found")).to_contain_text("available")
    page.get_by_label("File name").fill("a/../b.csv")
    page.get_by_role("button", name="Start upload").click()
    expect(page.locator("#upload-told")).to_contain_text("correlation ID")


def put_uploads(world: World, campaign: str) -> None:
    bad = csv_of(make_codes(5)) + b"x" * 300 + b"\n" + b'"a"b\n'
    world.service.upload(world.put(campaign, bad, name="autumn/a-rather-long-name-of-a-file-in-a-folder.csv"))
    world.service.upload(world.put(campaign, bad, name="strict.csv"), strict=True)


def check_both(visit: Visit, name: str) -> None:
    """Check the looks of a page as it stands by day and by night."""
    for scheme in SCHEMES:
        visit.dress(scheme)
        check_looks(visit, name)


def check_all(visit: Visit) -> None:
    check_looks(visit)
    check_access(visit)
    visit.check()


@pytest.mark.parametrize("width", WIDTHS)
def test_console(new_visit: Callable[..., Visit], world: World, campaign: str, width: int) -> None:
    visit = new_visit(width=width)
    visit.statuses = {400}
    visit.open("/console")
    check_both(visit, "sign-in")
    check_access(visit)
    put_uploads(world, campaign)
    page = visit.sign_in(campaign)
    fill(page)
    page.get_by_text("2 invalid rows").click()
    check_both(visit, "console")
    check_access(visit)
    page.get_by_role("button", name="Assign …", exact=True).click()
    expect(page.get_by_role("dialog")).to_be_visible()
    check_both(visit, "dialog")


@pytest.mark.parametrize("width", WIDTHS)
def test_docs(new_visit: Callable[..., Visit], campaign: str, width: int) -> None:
    visit = new_visit(width=width)
    page = visit.open("/docs")
    page.get_by_role("button", name="Use a development token").click()
    page.get_by_label("Campaign", exact=True).fill(campaign)
    for inner in ("> summary", "form details > summary", "li details > summary"):
        page.locator(f"details#op-count {inner}").first.click()
    count = page.locator("details#op-count")
    count.get_by_role("button", name="Send", exact=True).click()
    expect(count.locator(".reply-head .badge")).to_have_text("200 OK")
    check_both(visit, "docs")
    check_access(visit)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_schemes_differ(new_visit: Callable[..., Visit], scheme: str) -> None:
    page = new_visit(scheme=scheme).open("/console")
    back = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (min(back) > 200) is (scheme == "light")
    assert (max(back) < 60) is (scheme == "dark")


def test_the_console_by_keyboard_alone(visit: Visit, world: World, campaign: str) -> None:
    page = visit.open("/console")
    keyboard = page.keyboard
    expect(page.get_by_label("Token")).to_be_focused()
    keyboard.insert_text(visit.service.token)
    visit.tab_to(page.locator("#first-campaign"))
    keyboard.type(campaign)
    keyboard.press("Enter")
    expect(page.locator("#work-title")).to_be_focused()
    visit.tab_to(page.get_by_role("button", name="Refresh"))
    keyboard.press("Enter")
    visit.tab_to(page.get_by_label("Type of the codes"))
    visit.tab_to(page.get_by_label("How many"))
    keyboard.press("Control+a")
    keyboard.type("4")
    keyboard.press("Enter")
    expect(page.locator("#reserved-told")).to_contain_text("4 codes reserved")
    visit.tab_to(page.get_by_role("button", name="Assign or release …"))
    keyboard.press("Space")
    expect(page.locator("#change-codes")).to_be_focused()
    visit.tab_to(page.get_by_role("button", name="Assign …", exact=True))
    keyboard.press("Enter")
    expect(page.get_by_role("button", name="Go back")).to_be_focused()
    visit.tab_to(page.get_by_role("dialog").get_by_role("button", name="Assign"), key="Shift+Tab")
    keyboard.press("Enter")
    expect(page.locator("#changed")).to_contain_text("4 codes assigned")
    expect(page.get_by_role("button", name="Assign …", exact=True)).to_be_focused()
    code = page.locator("#change-codes").input_value().split("\n")[0]
    visit.tab_to(page.get_by_label("Code", exact=True))
    keyboard.insert_text(code)
    keyboard.press("Enter")
    expect(page.locator("#found")).to_contain_text("assigned")
    visit.tab_to(page.get_by_role("button", name="Sign out"), key="Shift+Tab")
    keyboard.press("Enter")
    expect(page.get_by_label("Token")).to_be_focused()
    assert world.service.count(campaign) == {"available": 26, "reserved": 0, "assigned": 4}


@pytest.mark.parametrize("path", ["/console", "/docs"])
def test_tab_goes_through_all_in_the_order_of_the_page(visit: Visit, campaign: str, path: str) -> None:
    """Everything that can have the focus gets it once, from the link that skips to the content on."""
    page = visit.sign_in(campaign) if path == "/console" else visit.open(path)
    if path == "/docs":
        expect(page.locator(".operation").first).to_be_visible()
    wanted = page.evaluate("""() => {
      const nodes = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")];
      const shown = nodes.filter((node) => node.checkVisibility());
      shown.forEach((node, index) => { node.dataset.order = index; });
      return shown.length;
    }""")
    assert 10 < wanted < MOST_TABS
    page.locator(".skip").focus()
    seen = [0]
    for _ in range(wanted - 1):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("Number(document.activeElement.dataset.order)"))
    assert seen == list(range(wanted))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("document.querySelector('main p').style.color = '#aaa'", "With a token"),
        ("document.querySelector('main h1').style.width = '2000px'", "<h1"),
        ("document.querySelector('label[for=token]').remove()", "textbox"),
        (
            "const h = document.createElement('h4'); h.append('x'); document.querySelector('main form').before(h)",
            "[1, 4]",
        ),
        (
            "document.head.append(document.createElement('style')); document.querySelector('style').append('p{}')",
            "CSP",
        ),
        ("console.error('oh')", "oh"),
        ("setTimeout(() => { throw new Error('oh'); })", "oh"),
        ("fetch('/nothing')", "404"),
        ("localStorage.setItem('a', 'b')", "stored"),
    ],
)
def test_the_checks_find_what_they_look_for(chromium: Browser, world: World, change: str, told: str) -> None:
    visit = Visit(chromium, world.service, width=1440, scheme="light")
    try:
        page = visit.open("/console")
        page.evaluate(f"() => {{ {change}; }}")
        # What a page does later than at once is seen by then.
        page.evaluate("() => fetch('/livez').then(() => new Promise((done) => setTimeout(done, 50)))")
        with pytest.raises(AssertionError, match=re.escape(told)):
            check_all(visit)
    finally:
        visit.close()
