"""The routes of operators and readers: probes, metrics, the document, the page."""

import asyncio
import re
from html.parser import HTMLParser

import orjson
import pytest
from aiohttp.test_utils import TestClient, TestServer
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families
from webroom import SECRET, Client, Service, metric_samples, send

from codesvc.models import InvalidRow, Status, UploadCounts, UploadReport
from codesvc.web.auth import Authenticator, TokenRules
from codesvc.web.openapi import openapi_document
from codesvc.web.pages import page_files
from codesvc.web.problems import PROBLEMS
from codesvc.web.schemas import Limits

pytest_plugins = ("webroom",)


class TestProbes:
    """Heartbeat, liveness, readiness."""

    @pytest.mark.parametrize("path", ["/heartbeat", "/livez", "/readyz"])
    async def test_ok(self, anonymous: Client, path: str) -> None:
        reply = await send(anonymous, "GET", path)
        assert (reply.status, reply.json, reply.headers["Content-Type"]) == (
            200,
            {"status": "ok"},
            "application/json",
        )
        assert (await send(anonymous, "HEAD", path)).status == 200

    async def test_a_database_that_does_not_answer(self, anonymous: Client, service: Service) -> None:
        service.is_ready = False
        reply = await send(anonymous, "GET", "/readyz")
        assert (reply.status, reply.code) == (503, "databaseUnavailable")
        assert (await send(anonymous, "GET", "/heartbeat")).status == 200

    async def test_draining(self, anonymous: Client, service: Service) -> None:
        service.is_draining = True
        reply = await send(anonymous, "GET", "/readyz")
        assert (reply.status, reply.code) == (503, "draining")
        assert (await send(anonymous, "GET", "/livez")).status == 200

    @pytest.mark.parametrize("hangs", [True, False])
    async def test_a_check_that_fails_or_hangs(self, hangs: bool) -> None:
        async def ready() -> bool:
            if hangs:
                await asyncio.sleep(60)
            raise RuntimeError("SECRET")

        app = Service(ready=ready).application()
        async with TestClient(TestServer(app)) as client, asyncio.timeout(5):
            reply = await send(client, "GET", "/readyz")
            assert (reply.status, reply.code) == (503, "databaseUnavailable")
            assert b"SECRET" not in reply.body


class TestMetrics:
    """What a scraper reads."""

    async def test_every_request_is_counted_by_its_template(self, client: Client) -> None:
        for method, path in (
            *(
                ("GET", "/v1/1/codes/count?type=tm"),
                ("GET", "/v1/2/codes/count?type=tm"),
                ("GET", "/v1/3/codes/count"),
            ),
            *(
                ("HEAD", "/v1/1/reserve"),
                ("GET", "/v1/1/nothing"),
                ("GET", "/nothing-at-all"),
                ("PROPFIND", "/livez"),
            ),
        ):
            await send(client, method, path)
        text = (await send(client, "GET", "/metrics")).body.decode()
        counts = {
            (sample.labels["method"], sample.labels["path"], sample.labels["status"]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            # The parser gives every counter the suffix that OpenMetrics wants; the text has none.
            if sample.name == "http_request_count_total"
        }
        assert counts == {
            ("GET", "/v1/{campaignId}/codes/count", "200"): 2,
            ("GET", "/v1/{campaignId}/codes/count", "400"): 1,
            ("HEAD", "/v1/{campaignId}/reserve", "405"): 1,
            ("GET", "unmatched", "404"): 2,
            ("other", "/livez", "405"): 1,
        }
        assert "nothing" not in text
        assert 'http_request_count{method="HEAD",path="/v1/{campaignId}/reserve",status="405"} 1\n' in text

    async def test_durations_are_a_histogram(self, client: Client) -> None:
        await send(client, "GET", "/v1/1/codes/count?type=tm")
        samples = metric_samples((await send(client, "GET", "/metrics")).body.decode())
        labels = 'method="GET",path="/v1/{campaignId}/codes/count",status="200"'
        assert samples[f"http_response_duration_seconds_count{{{labels}}}"] == 1
        assert samples[f'http_response_duration_seconds_bucket{{le="+Inf",{labels}}}'] == 1
        assert 0 < samples[f"http_response_duration_seconds_sum{{{labels}}}"] < 5

    @pytest.mark.parametrize(
        "accept", ["*/*", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", None]
    )
    async def test_the_format(self, anonymous: Client, accept: str | None) -> None:
        headers = {} if accept is None else {"Accept": accept}
        reply = await send(anonymous, "GET", "/metrics", headers=headers)
        assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"

    async def test_the_loop_is_watched_while_the_application_runs(self, anonymous: Client) -> None:
        await asyncio.sleep(0.7)
        samples = metric_samples((await send(anonymous, "GET", "/metrics")).body.decode())
        assert samples["event_loop_lag_seconds"] > 0
        assert samples["event_loop_lag_max_seconds"] >= samples["event_loop_lag_seconds"]


class TestDevToken:
    """GET /dev/token."""

    async def test_absent_by_default(self, client: Client) -> None:
        assert (await send(client, "GET", "/dev/token")).code == "notFound"
        document = (await send(client, "GET", "/openapi.json")).json
        assert "/dev/token" not in document["paths"]

    async def test_in_dev(self) -> None:
        async with TestClient(TestServer(Service(dev=True).application())) as client:
            reply = await send(client, "GET", "/dev/token")
            assert reply.headers["Cache-Control"] == "no-store"
            claims = await Authenticator(TokenRules(secret=SECRET)).authenticate(
                f"Bearer {reply.json['token']}"
            )
            assert claims["isSupreme"] is True
            assert "/dev/token" in (await send(client, "GET", "/openapi.json")).json["paths"]


class TestDocument:
    """The OpenAPI document."""

    @pytest.mark.parametrize("dev", [True, False])
    def test_is_valid(self, dev: bool) -> None:
        document = openapi_document(dev=dev)
        assert document["openapi"].startswith("3.1")
        validate(orjson.loads(orjson.dumps(document)))

    @pytest.mark.parametrize("dev", [True, False])
    def test_has_every_route_and_no_other(self, dev: bool) -> None:
        app = Service(dev=dev).application()
        served = {
            (route.method.lower(), route.resource.canonical)
            for route in app.router.routes()
            if route.resource is not None and route.method not in {"HEAD", "*"}
        }
        paths = openapi_document(dev=dev)["paths"]
        told = {(method, path) for path, item in paths.items() for method in item if method != "parameters"}
        assert told == {each for each in served if not each[1].startswith(("/docs/", "/console/"))}

    def test_names_every_problem(self) -> None:
        text = orjson.dumps(openapi_document()).decode()
        missing = {code for code in PROBLEMS if f'"{code}"' not in text and f"`{code}`" not in text}
        assert not missing

    def test_tells_the_limits_that_hold(self) -> None:
        schemas = openapi_document(Limits(max_reserve=7, max_codes_per_request=9))["components"]["schemas"]
        assert schemas["ReserveRequest"]["properties"]["count"]["maximum"] == 7
        assert schemas["CodesRequest"]["properties"]["codes"]["maxItems"] == 9

    def test_public_routes_ask_for_no_token(self) -> None:
        document = openapi_document(dev=True)
        for path, item in document["paths"].items():
            for method in item.keys() - {"parameters"}:
                security = item[method].get("security", document["security"])
                assert bool(security) == path.startswith("/v1/"), path

    async def test_replies_are_as_it_says(self, client: Client, service: Service) -> None:
        service.inventory.codes = {"A": Status.AVAILABLE, "B": Status.AVAILABLE}
        row = InvalidRow(1, "the code is too long")
        service.uploads.outcome = UploadReport(UploadCounts(1, 2), 1, (row,))
        document = (await send(client, "GET", "/openapi.json")).json
        for method, template, query, body in (
            ("POST", "/v1/{campaignId}/codes", "", {"fileKey": "codes/1/tm/x"}),
            ("POST", "/v1/{campaignId}/codes", "", {"fileKey": "codes/2/tm/x"}),
            ("GET", "/v1/{campaignId}/codes/count", "?type=tm", None),
            ("GET", "/v1/{campaignId}/codes/count", "?type=tm&status=reserved", None),
            ("GET", "/v1/{campaignId}/codes/count", "", None),
            ("GET", "/v1/{campaignId}/reserve", "?type=tm&count=2", None),
            ("POST", "/v1/{campaignId}/reserve", "?type=tm&count=0", None),
            ("POST", "/v1/{campaignId}/assign", "", {"codes": ["A"]}),
            ("POST", "/v1/{campaignId}/release", "", {"codes": []}),
            ("GET", "/heartbeat", "", None),
            ("GET", "/readyz", "", None),
        ):
            reply = await send(client, method, template.replace("{campaignId}", "1") + query, json=body)
            responses = document["paths"][template][method.lower()]["responses"]
            declared = responses[str(reply.status)]
            schema = declared["content"][reply.headers["Content-Type"]]["schema"]
            OAS31Validator({**schema, "components": document["components"]}).validate(reply.json)
            # Those of keys are for requests that have one.
            promised = {name for name in declared["headers"] if not name.startswith("Idempotency-")}
            assert promised <= reply.headers.keys()

    @pytest.mark.parametrize(
        ("schema", "fine", "wrong"),
        [
            ("UploadRequest", {"fileKey": "codes/1/tm/x", "header": True}, {"fileKey": "codes/1/tm/a..b"}),
            ("UploadRequest", {"fileKey": "codes/1/external/a/b"}, {"fileKey": "codes/1/tm/x", "strict": 1}),
            ("CodesRequest", {"codes": ["A"], "more": 1}, {"codes": ["A", 1]}),
            ("ReserveRequest", {"type": "tm", "count": 100}, {"type": "tm", "count": 101}),
        ],
    )
    async def test_schemas_agree_with_the_service(
        self, client: Client, schema: str, fine: object, wrong: object
    ) -> None:
        document = (await send(client, "GET", "/openapi.json")).json
        path = {"UploadRequest": "codes", "CodesRequest": "assign", "ReserveRequest": "reserve"}[schema]
        validator = OAS31Validator(
            {**document["components"]["schemas"][schema], "components": document["components"]}
        )
        for body, status in ((fine, 200), (wrong, 400)):
            assert validator.is_valid(body) is (status == 200)
            assert (await send(client, "POST", f"/v1/1/{path}", json=body)).status == status


class _Assets(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, _: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            value for name, value in attrs if name in {"src", "href", "style", "onclick"} and value
        ]


class TestPages:
    """The pages for people: the console, and the one to try the service."""

    @pytest.mark.parametrize("page", ["docs", "console"])
    async def test_is_served_with_all_it_needs(self, anonymous: Client, page: str) -> None:
        """Everything that HTML and modules name is there, below the page's own path, and counted as the page."""
        reply = await send(anonymous, "GET", f"/{page}")
        assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
        assets = _Assets()
        assets.feed(reply.body.decode())
        waiting = {f"/{asset}" for asset in assets.found if asset.startswith(f"{page}/")}
        assert f"/{page}/{page}.js" in waiting
        seen: set[str] = set()
        while waiting:
            path = waiting.pop()
            seen.add(path)
            found = await send(anonymous, "GET", path)
            assert found.status == 200, path
            if path.endswith(".js"):
                assert found.headers["Content-Type"] == "text/javascript; charset=utf-8"
                names = re.findall(r'from "\./([a-z]+\.js)"', found.body.decode())
                waiting |= {f"/{page}/{name}" for name in names} - seen
        assert seen == set(page_files(page)) - {f"/{page}"}
        samples = metric_samples((await send(anonymous, "GET", "/metrics")).body.decode())
        assert samples[f'http_request_count{{method="GET",path="/{page}",status="200"}}'] == 1 + len(seen)

    @pytest.mark.parametrize("path", [*page_files("docs"), *page_files("console")])
    async def test_asks_no_other_host(self, anonymous: Client, path: str) -> None:
        reply = await send(anonymous, "GET", path)
        body = reply.body.replace(b'xmlns="http://www.w3.org/2000/svg"', b"")
        assert not re.search(rb"https?://|@import|\burl\(", body)
        policy = reply.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        for rule in ("form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"):
            assert rule in policy
        assert reply.headers["X-Content-Type-Options"] == "nosniff"

    async def test_is_not_sent_twice(self, anonymous: Client) -> None:
        first = await send(anonymous, "GET", "/console")
        tag = first.headers["ETag"]
        again = await send(anonymous, "GET", "/console", headers={"If-None-Match": f'"other", {tag}'})
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
        other = await send(anonymous, "GET", "/console", headers={"If-None-Match": '"other"'})
        assert (other.status, other.body) == (200, first.body)

    async def test_without_the_console(self) -> None:
        service = Service(console=False)
        async with TestClient(TestServer(service.application())) as client:
            for path in page_files("console"):
                assert (await send(client, "GET", path)).status == 404
            assert (await send(client, "GET", "/docs")).status == 200
            assert "/console" not in (await send(client, "GET", "/openapi.json")).json["paths"]
