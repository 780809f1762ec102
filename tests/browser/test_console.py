"""The console: signing in, the stock, and what can be done with codes."""

import csv
import io
import time
from pathlib import Path

from api.harness import make_codes, new_campaign, token
from api.world import World
from playwright.sync_api import Page, expect

from .visit import Visit


def figures(page: Page, code_type: str) -> dict[str, int]:
    """Return the stock as the page shows it."""
    shown = {}
    for status in ("available", "reserved", "assigned"):
        text = page.locator(f"[data-figure={code_type}-{status}]").inner_text()
        shown[status] = int(text.replace(",", ""))
    return shown


def expect_stock(page: Page, code_type: str, **counts: int) -> None:
    """Wait for figures."""
    for status, count in counts.items():
        expect(page.locator(f"[data-figure={code_type}-{status}]")).to_have_text(f"{count:,}")


def reserve(page: Page, count: int) -> list[str]:
    """Reserve codes by the form; return those that it shows."""
    page.get_by_label("How many").fill(str(count))
    page.get_by_role("button", name="Reserve", exact=True).click()
    expect(page.locator("#reserved-told")).to_contain_text("reserved")
    return page.get_by_label("Reserved codes").input_value().split("\n")


def look_up(page: Page, code: str) -> None:
    page.get_by_label("Code", exact=True).fill(code)
    page.get_by_role("button", name="Look up").click()


class TestSignIn:
    """The way in, and back to it."""

    def test_a_token_opens_a_campaign(self, visit: Visit, world: World, campaign: str) -> None:
        page = visit.sign_in(campaign)
        for code_type in ("tm", "external"):
            assert figures(page, code_type) == world.service.count(campaign, code_type)
        expect(page.locator("#session-left")).to_contain_text("Token ends in")
        assert page.url == f"{visit.base}/console?campaign={campaign}"
        assert page.get_by_label("Token").input_value() == "", "the token is still in its field"

    def test_a_token_for_development(self, visit: Visit, campaign: str) -> None:
        page = visit.open(f"/console?campaign={campaign}")
        page.get_by_role("button", name="Use a development token").click()
        expect_stock(page, "tm", available=30, reserved=0, assigned=0)

    def test_wrong_tokens(self, visit: Visit, campaign: str) -> None:
        visit.statuses = {401}
        page = visit.open(f"/console?campaign={campaign}")
        told = page.locator("#sign-in-told")
        for wrong, words in (
            (token("another secret, which nobody is to know"), "A valid token is required"),
            (token(exp=int(time.time()) - 60), "A valid token is required"),
            (token(isSupreme=None), "supreme"),
            ("two words", "not a token"),
        ):
            page.get_by_label("Token").fill(wrong)
            page.get_by_role("button", name="Sign in").click()
            expect(told).to_contain_text(words)
            expect(page.locator("#work")).to_be_hidden()
        page.get_by_label("Token").fill(visit.service.token)
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("#work")).to_be_visible()

    def test_an_expired_token_loses_nothing_that_was_typed(self, visit: Visit, campaign: str) -> None:
        visit.statuses = {401}
        page = visit.sign_in(campaign)
        page.get_by_label("File name").fill("half-typed.csv")
        page.get_by_label("How many").fill("3")
        expired = f"Bearer {token(exp=int(time.time()) - 1)}"
        page.route("**/v1/**", lambda route: route.continue_(headers={"authorization": expired}))
        page.get_by_role("button", name="Reserve", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in again")
        expect(page.locator("#sign-in-told")).to_contain_text("correlation ID")
        expect(page.get_by_label("Token")).to_be_focused()
        page.unroute_all()
        page.get_by_label("Token").fill(visit.service.token)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_label("File name")).to_have_value("half-typed.csv")
        expect(page.get_by_role("button", name="Reserve", exact=True)).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#reserved-told")).to_contain_text("3 codes reserved")

    def test_signing_out_leaves_no_code_behind(self, visit: Visit, campaign: str) -> None:
        page = visit.sign_in(campaign)
        code = reserve(page, 1)[0]
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
        held = page.evaluate(
            "() => [...document.querySelectorAll('input, textarea')].map((each) => each.value)"
        )
        assert code not in "\n".join([*held, page.content()])

    def test_another_campaign(self, visit: Visit, world: World, campaign: str) -> None:
        other = new_campaign()
        world.stock(other, make_codes(1234))
        page = visit.sign_in(campaign)
        reserve(page, 2)
        page.get_by_role("textbox", name="Campaign").fill(other)
        page.get_by_role("button", name="Open").click()
        expect_stock(page, "tm", available=1234, reserved=0, assigned=0)
        expect(page.locator("#reserved")).to_be_hidden()
        assert page.url.endswith(f"?campaign={other}")


class TestCodes:
    """Reserving, assigning, releasing, looking up."""

    def test_reserve_copy_and_download(
        self, visit: Visit, world: World, campaign: str, tmp_path: Path
    ) -> None:
        page = visit.sign_in(campaign)
        codes = reserve(page, 7)
        held = {code for code, found in world.documents(campaign).items() if "reserveId" in found}
        assert set(codes) == held
        assert len(codes) == 7
        expect_stock(page, "tm", available=23, reserved=7)
        page.get_by_role("button", name="Copy").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()").splitlines() == codes
        with page.expect_download() as saving:
            page.get_by_role("button", name="Download CSV").click()
        file = tmp_path / "codes.csv"
        saving.value.save_as(file)
        rows = list(csv.DictReader(io.StringIO(file.read_bytes().decode())))
        assert [row["code"] for row in rows] == codes
        assert {row["type"] for row in rows} == {"tm"}
        assert all(row["reserveId"] in saving.value.suggested_filename for row in rows)

    def test_fewer_than_asked_for(self, visit: Visit, campaign: str) -> None:
        page = visit.sign_in(campaign)
        page.locator("#reserve-type").select_option("external")
        reserve(page, 100)
        told = page.locator("#reserved-told")
        expect(told).to_contain_text("20 codes reserved of the 100 you asked for")
        page.get_by_role("button", name="Reserve", exact=True).click()
        expect(told).to_contain_text("No code of type external is available")
        expect(page.get_by_role("button", name="Download CSV")).to_be_hidden()

    def test_release_and_assign(self, visit: Visit, world: World, campaign: str) -> None:
        page = visit.sign_in(campaign)
        codes = reserve(page, 4)
        page.get_by_role("button", name="Assign or release …").click()
        field = page.get_by_role("textbox", name="Codes", exact=True)
        expect(field).to_have_value("\n".join(codes))
        field.fill(f"  {codes[0]} \n\n{codes[0]}\n")
        expect(page.locator("#change-number")).to_have_text("1 code")
        page.get_by_role("button", name="Release", exact=True).click()
        expect(page.locator("#changed")).to_contain_text("1 code released.")
        expect_stock(page, "tm", available=27, reserved=3)
        page.get_by_role("button", name="Release", exact=True).click()
        expect(page.locator("#changed")).to_contain_text("1 of 1 left as they were")
        field.fill("\n".join([*codes[1:3], "never-heard-of"]))
        page.get_by_role("button", name="Assign …", exact=True).click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("Assign 3 codes?")
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        assert world.service.count(campaign)["assigned"] == 0
        page.get_by_role("button", name="Assign …", exact=True).click()
        dialog.get_by_role("button", name="Assign").click()
        expect(page.locator("#changed")).to_contain_text("2 codes assigned.")
        expect_stock(page, "tm", available=27, reserved=1, assigned=2)
        assert figures(page, "tm") == world.service.count(campaign)

    def test_look_up(self, visit: Visit, world: World, campaign: str) -> None:
        visit.statuses = {404}
        odd = "%2F/ä?#&" + make_codes(1)[0]
        world.stock(campaign, [odd])
        page = visit.sign_in(campaign)
        look_up(page, odd)
        expect(page.locator("#found")).to_contain_text("available")
        expect(page.locator("#found")).to_contain_text(odd)
        code = reserve(page, 1)[0]
        look_up(page, code)
        expect(page.locator("#found")).to_contain_text("reserved")
        world.service.change(campaign, "assign", [code])
        page.get_by_role("button", name="Look up").click()
        expect(page.locator("#found")).to_contain_text("assigned")
        look_up(page, "never-heard-of")
        expect(page.locator("#find-told")).to_contain_text("notFound")
        expect(page.locator("#found")).to_be_empty()


class TestFailures:
    """What the page says when something goes wrong."""

    def test_a_refusal_is_told_in_words_with_its_correlation_id(self, visit: Visit, campaign: str) -> None:
        visit.statuses = {400}
        page = visit.sign_in(campaign)
        page.get_by_label("File name").fill("a/../b.csv")
        with page.expect_response("**/codes") as answered:
            page.get_by_role("button", name="Start upload").click()
        told = page.locator("#upload-told")
        expect(told).to_contain_text("The file key is missing or malformed")
        expect(told).to_contain_text(answered.value.headers["x-correlation-id"])

    def test_the_network_is_down(self, visit: Visit, campaign: str) -> None:
        page = visit.sign_in(campaign)
        visit.offline = True
        visit.context.set_offline(True)
        page.get_by_role("button", name="Reserve", exact=True).click()
        expect(page.locator("#reserve-told")).to_contain_text("The service cannot be reached")
        page.get_by_role("button", name="Refresh").click()
        expect(page.locator("#stock-told")).to_contain_text("The service cannot be reached")
        visit.context.set_offline(False)
        page.get_by_role("button", name="Refresh").click()
        expect(page.locator("#stock-told")).to_be_empty()
        reserve(page, 1)
        expect(page.locator("#reserve-told")).to_be_empty()

    def test_more_than_may_be_reserved_at_once(self, visit: Visit, world: World, campaign: str) -> None:
        """The limit is the service's own, CODESVC_MAX_RESERVE."""
        page = visit.sign_in(campaign)
        expect(page.get_by_label("How many")).to_have_attribute("max", "500")
        page.get_by_label("How many").fill("501")
        page.get_by_role("button", name="Reserve", exact=True).click()
        assert page.get_by_label("How many").evaluate("(field) => field.validity.rangeOverflow")
        assert world.service.count(campaign)["reserved"] == 0
