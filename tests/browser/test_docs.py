"""The page of the API: every operation opens and is sent, and requests are really made."""

import json

from api.harness import csv_of, eventually, make_codes
from api.proxy import Proxy
from api.world import World
from playwright.sync_api import Locator, Page, expect

from .visit import Visit

METHODS = ("get", "post", "put", "patch", "delete")


def open_docs(visit: Visit, campaign: str) -> Page:
    page = visit.open("/docs")
    page.get_by_label("Token", exact=True).fill(visit.service.token)
    page.get_by_label("Campaign", exact=True).fill(campaign)
    expect(page.locator(".operation").first).to_be_visible()
    return page


def opened(page: Page, operation_id: str) -> Locator:
    operation = page.locator(f"details#op-{operation_id}")
    if operation.get_attribute("open") is None:
        operation.locator("summary").first.click()
    return operation


def send(operation: Locator) -> str:
    """Send the form; return the status of the reply when all of it is there."""
    operation.get_by_role("button", name="Send", exact=True).click()
    expect(operation.locator(".reply-head .hint")).to_contain_text(" ms")
    return operation.locator(".reply-head .badge").inner_text()


def test_every_operation_can_be_tried(visit: Visit, campaign: str) -> None:
    visit.statuses = {400, 404, 415, 422}
    page = open_docs(visit, campaign)
    paths = visit.service.get("/openapi.json", auth=None).json()["paths"]
    told = {item[method]["operationId"] for item in paths.values() for method in METHODS if method in item}
    shown = page.locator("details.operation")
    assert {each.get_attribute("id") for each in shown.all()} == {f"op-{name}" for name in told}
    assert len(told) > 12
    for operation_id in sorted(told):
        status = send(opened(page, operation_id))
        assert int(status.split()[0]) < 500, (operation_id, status)


def test_a_get(visit: Visit, world: World, campaign: str) -> None:
    page = open_docs(visit, campaign)
    operation = opened(page, "count")
    operation.get_by_label("type").select_option("external")
    assert send(operation) == "200 OK"
    assert json.loads(operation.locator(".reply pre").first.inner_text()) == world.service.count(
        campaign, "external"
    )
    operation.get_by_text("Headers of the reply").click()
    expect(operation.locator(".reply details pre")).to_contain_text("x-correlation-id: ")


def test_posts(visit: Visit, world: World, campaign: str) -> None:
    page = open_docs(visit, campaign)
    operation = opened(page, "reserveByPost")
    operation.get_by_label("Body").fill('{"type": "tm", "count": 3}')
    assert send(operation) == "200 OK"
    reservation = json.loads(operation.locator(".reply pre").first.inner_text())
    codes = [each["code"] for each in reservation["codes"]]
    assert world.service.count(campaign) == {"available": 27, "reserved": 3, "assigned": 0}
    operation = opened(page, "assign")
    operation.get_by_label("Body").fill(json.dumps({"codes": codes[:2]}))
    assert send(operation) == "200 OK"
    assert world.service.count(campaign) == {"available": 27, "reserved": 1, "assigned": 2}


def test_a_stream_is_shown_as_it_comes_and_stopped(
    visit: Visit, world: World, campaign: str, halfway: Proxy
) -> None:
    key = world.put(campaign, csv_of(f"{make_codes(1)[0]}{index:06x}" for index in range(80_000)))
    begun = visit.service.post(f"/v1/{campaign}/codes", {"fileKey": key}, headers={"Prefer": "respond-async"})
    page = open_docs(visit, campaign)
    operation = opened(page, "uploadEvents")
    operation.get_by_label("uploadId").fill(begun.json()["uploadId"])
    operation.get_by_role("button", name="Send", exact=True).click()
    expect(operation.locator(".reply pre").first).to_contain_text("event: progress")
    operation.get_by_role("button", name="Stop").click()
    expect(operation.locator(".reply-head .hint")).to_contain_text(", stopped")
    halfway.resume()
    address = f"/v1/{campaign}/uploads/{begun.json()['uploadId']}"
    eventually(lambda: visit.service.get(address).json()["state"] == "succeeded", limit=30)


def test_without_a_token(visit: Visit, campaign: str) -> None:
    visit.statuses = {401}
    page = open_docs(visit, campaign)
    page.get_by_label("Token", exact=True).fill("")
    operation = opened(page, "count")
    assert send(operation) == "401 Unauthorized"
    expect(operation.locator(".reply")).to_contain_text('"code": "unauthorized"')
    page.get_by_role("button", name="Use a development token").click()
    expect(page.locator("#token-told")).to_contain_text("filled in")
    assert send(operation) == "200 OK"


def test_a_line_for_the_shell(visit: Visit, campaign: str) -> None:
    page = open_docs(visit, campaign)
    operation = opened(page, "release")
    operation.get_by_label("Body").fill('{"codes": ["it\'s"]}')
    operation.get_by_role("button", name="Copy as curl").click()
    expect(operation.get_by_role("button", name="Copied")).to_be_visible()
    line = page.evaluate("navigator.clipboard.readText()")
    assert line == (
        "curl -sS -X POST -H \"Authorization: Bearer $TOKEN\" -H 'Content-Type: application/json' "
        f"""-d '{{"codes": ["it'\\''s"]}}' '{visit.base}/v1/{campaign}/release'"""
    )


def test_an_address_opens_an_operation(visit: Visit) -> None:
    page = visit.open("/docs#op-assign")
    expect(page.locator("details#op-assign")).to_have_attribute("open", "")
    page.get_by_role("navigation", name="Requests").get_by_role("link", name="Release codes").click()
    expect(page.locator("details#op-release > summary")).to_be_focused()


def test_the_network_is_down(visit: Visit, campaign: str) -> None:
    page = open_docs(visit, campaign)
    operation = opened(page, "count")
    visit.offline = True
    visit.context.set_offline(True)
    operation.get_by_role("button", name="Send", exact=True).click()
    expect(operation.get_by_role("alert")).to_contain_text("The service cannot be reached")
