"""GET /openapi.json and GET /docs."""

import html.parser
import json
import re
import uuid
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from .harness import Document, Service, csv_of, make_codes, new_campaign, run_command
from .world import World

RESERVE_400 = {"invalidType", "invalidCount", "invalidTtl", "invalidMin", "invalidCampaignId"}
CODES_400 = {
    ("post", "/v1/{campaignId}/codes"): {
        "invalidJson",
        "invalidFileKey",
        "campaignMismatch",
        "invalidCampaignId",
    },
    ("get", "/v1/{campaignId}/codes"): {
        "invalidType",
        "invalidStatus",
        "invalidAfter",
        "invalidLimit",
        "invalidCampaignId",
    },
    ("get", "/v1/{campaignId}/codes/count"): {"invalidType", "invalidStatus", "invalidCampaignId"},
    ("get", "/v1/{campaignId}/codes/{code}"): {"invalidCampaignId"},
    ("get", "/v1/{campaignId}/uploads"): {"invalidLimit", "invalidAfter", "invalidCampaignId"},
    ("get", "/v1/{campaignId}/uploads/{uploadId}"): {"invalidCampaignId"},
    ("delete", "/v1/{campaignId}/uploads/{uploadId}"): {"invalidTakeBack", "invalidCampaignId"},
    ("get", "/v1/{campaignId}/reserve"): RESERVE_400,
    ("post", "/v1/{campaignId}/reserve"): RESERVE_400,
    ("get", "/v1/{campaignId}/reservations/{reserveId}"): {"invalidCampaignId"},
    ("post", "/v1/{campaignId}/assign"): {
        "invalidJson",
        "emptyCodes",
        "invalidCodes",
        "invalidReserveId",
        "invalidCampaignId",
    },
    ("post", "/v1/{campaignId}/release"): {
        "invalidJson",
        "emptyCodes",
        "invalidCodes",
        "invalidReserveId",
        "invalidCampaignId",
    },
}
UPLOAD = ("post", "/v1/{campaignId}/codes")
OPEN = ["/metrics", "/heartbeat", "/livez", "/readyz", "/openapi.json", "/docs"]


@pytest.fixture(scope="module")
def document(service: Service) -> Document:
    reply = service.get("/openapi.json", auth=None)
    assert reply.status == 200
    assert reply.media_type == "application/json"
    found: Document = reply.json()
    return found


def resolved(document: Document, node: Any) -> Any:
    while isinstance(node, dict) and "$ref" in node:
        target = document
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step.replace("~1", "/").replace("~0", "~")]
        node = target
    return node


def operation(document: Document, method: str, path: str) -> Document:
    found: Document = document["paths"][path][method]
    return found


def test_it_is_a_valid_document(document: Document) -> None:
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


def test_the_command_prints_the_same(document: Document) -> None:
    ended = run_command("openapi", settings={})
    assert ended.returncode == 0
    assert not ended.stderr
    assert json.loads(ended.stdout) == document


def test_every_route_is_there(document: Document) -> None:
    for method, path in CODES_400:
        assert method in document["paths"][path]
    for path in OPEN:
        assert "get" in document["paths"][path]


def test_the_route_of_developers_is_there_where_it_is_open(tiny: World) -> None:
    document = tiny.service.get("/openapi.json", auth=None).json()
    OpenAPIV31SpecValidator(document).validate()
    assert "get" in document["paths"]["/dev/token"]


@pytest.mark.parametrize(("method", "path"), CODES_400)
def test_every_error_is_there(document: Document, method: str, path: str) -> None:
    responses = operation(document, method, path)["responses"]
    expected = {"200", "400", "401", "500", "503"}
    has_body = method == "post" and "reserve" not in path
    if has_body:
        expected |= {"413", "415"}
    if (method, path) == UPLOAD:
        expected |= {"404", "409", "422"}
    if path.endswith("/reserve"):
        assert "notEnoughCodes" in json.dumps(resolved(document, responses["409"]))
    assert expected <= set(responses)
    by_status = {status: json.dumps(resolved(document, each)) for status, each in responses.items()}
    for code in CODES_400[method, path]:
        assert code in by_status["400"], code
    for status, codes in {
        "401": ["unauthorized", "supremeUserRequired"],
        "503": ["databaseUnavailable", "draining"],
        "500": ["internalError"],
    }.items():
        for code in codes:
            assert code in by_status[status], code
    if has_body:
        assert "payloadTooLarge" in by_status["413"]
        assert "unsupportedMediaType" in by_status["415"]
    if (method, path) == UPLOAD:
        assert "storageUnavailable" in by_status["503"]
        assert "fileNotFound" in by_status["404"]
        assert "fileChanged" in by_status["409"]
        assert "invalidRow" in by_status["422"]
        assert "notCsv" in by_status["422"]
    for status, response in responses.items():
        content = resolved(document, response).get("content", {})
        wanted = "application/json" if status in {"200", "202"} else "application/problem+json"
        assert wanted in content, status


def test_who_needs_a_token(document: Document) -> None:
    schemes = document["components"]["securitySchemes"]
    (name,) = [name for name, each in schemes.items() if each["type"] == "http"]
    assert schemes[name]["scheme"].lower() == "bearer"
    for method, path in CODES_400:
        security: Any = operation(document, method, path).get("security") or document["security"]
        assert any(name in each for each in security), path
    for path in OPEN:
        security = operation(document, "get", path).get("security", document["security"])
        assert security == [] or {} in security, path


def test_parameters(document: Document) -> None:
    def named(method: str, path: str) -> dict[str, Document]:
        item = document["paths"][path]
        every = [*item.get("parameters", []), *item[method].get("parameters", [])]
        return {each["name"]: each for each in (resolved(document, one) for one in every)}

    for method in ("get", "post"):
        found = named(method, "/v1/{campaignId}/reserve")
        assert found["count"]["in"] == found["type"]["in"] == "query"
        # POST may take them from a body instead.
        assert found["count"].get("required", False) is found["type"].get("required", False)
        assert found["count"].get("required", False) is True or method == "post"
        assert resolved(document, found["type"]["schema"])["enum"] == ["tm", "external"]
    found = named("get", "/v1/{campaignId}/codes/count")
    assert found["type"]["required"] is True
    assert found["status"].get("required", False) is False
    assert found["campaignId"]["in"] == "path"


def test_a_correlation_id_that_is_replaced_is_not_said_to_be_refused(
    document: Document, service: Service
) -> None:
    schema = document["components"]["parameters"]["X-Correlation-ID"]["schema"]
    for sent in ("", "of several words", "x" * 129):
        check(document, schema, sent)
        reply = service.get("/heartbeat", auth=None, headers={"X-Correlation-ID": sent})
        assert reply.status == 200
        assert reply.header("X-Correlation-ID") not in {sent, None}


def check(document: Document, node: Document, value: Any) -> None:
    # The references in the node are to #/components.
    OAS31Validator({**node, "components": document["components"]}).validate(value)


def test_replies_are_what_it_says(document: Document, world: World) -> None:
    """Real replies, errors included, against its schemas."""
    campaign = new_campaign()
    codes = make_codes(5)
    key = world.put(campaign, csv_of(codes) + b"\x01\n")
    c = "/v1/{campaignId}"
    world.stock(campaign, make_codes(1))
    held = world.service.reserve(campaign, 1)["reserveId"]
    good = {"codes": codes}
    cases: list[tuple[str, str, str, Any]] = [
        ("post", f"{c}/codes", f"/v1/{campaign}/codes", {"fileKey": key}),
        ("post", f"{c}/codes", f"/v1/{campaign}/codes", {"fileKey": key, "strict": True}),
        ("post", f"{c}/codes", f"/v1/{campaign}/codes", {"fileKey": key + "x"}),
        ("post", f"{c}/codes", f"/v1/{campaign}/codes", {"fileKey": "x"}),
        ("get", f"{c}/codes", f"/v1/{campaign}/codes?limit=3", ...),
        ("get", f"{c}/codes", f"/v1/{campaign}/codes?limit=0", ...),
        ("get", f"{c}/codes/count", f"/v1/{campaign}/codes/count?type=tm", ...),
        ("get", f"{c}/codes/count", f"/v1/{campaign}/codes/count?type=tm&status=reserved", ...),
        ("get", f"{c}/codes/count", f"/v1/{campaign}/codes/count?type=x", ...),
        ("get", f"{c}/codes/{{code}}", f"/v1/{campaign}/codes/{codes[0]}", ...),
        ("get", f"{c}/codes/{{code}}", f"/v1/{campaign}/codes/{codes[0]}x", ...),
        ("get", f"{c}/reserve", f"/v1/{campaign}/reserve?count=2&type=tm", ...),
        ("post", f"{c}/reserve", f"/v1/{campaign}/reserve?count=2&type=tm", ...),
        ("get", f"{c}/reserve", f"/v1/{campaign}/reserve?count=0&type=tm", ...),
        ("get", f"{c}/reserve", f"/v1/{campaign}/reserve?count=2&type=tm&ttl=0", ...),
        ("get", f"{c}/reserve", f"/v1/{campaign}/reserve?count=9&type=tm&min=9", ...),
        ("get", f"{c}/reservations/{{reserveId}}", f"/v1/{campaign}/reservations/{held}", ...),
        ("get", f"{c}/reservations/{{reserveId}}", f"/v1/{campaign}/reservations/x", ...),
        ("post", f"{c}/release", f"/v1/{campaign}/release", {"reserveId": held}),
        ("post", f"{c}/release", f"/v1/{campaign}/release", {"reserveId": "x"}),
        ("post", f"{c}/assign", f"/v1/{campaign}/assign", good),
        ("get", f"{c}/codes/{{code}}", f"/v1/{campaign}/codes/{codes[0]}", ...),
        ("post", f"{c}/release", f"/v1/{campaign}/release", good),
        ("post", f"{c}/release", f"/v1/{campaign}/release", {"codes": []}),
        ("get", "/heartbeat", "/heartbeat", ...),
        ("get", "/livez", "/livez", ...),
        ("get", "/readyz", "/readyz", ...),
    ]
    for method, path, target, body in cases:
        reply = world.service.request(method.upper(), target, json_body=body)
        responses = operation(document, method, path)["responses"]
        response = resolved(document, responses[str(reply.status)])
        schema = response["content"][reply.media_type]["schema"]
        check(document, schema, reply.json())
        for name in response.get("headers", {}):
            # Those of keys are for requests that have one.
            assert reply.header(name) or name.startswith("Idempotency-"), (
                f"{name} is promised, and is not there"
            )


def test_request_bodies_are_what_it_says(document: Document) -> None:
    def body(path: str) -> Document:
        found = resolved(document, operation(document, "post", path)["requestBody"])
        assert found["required"] is True
        schema: Document = found["content"]["application/json"]["schema"]
        return schema

    upload = body("/v1/{campaignId}/codes")
    check(document, upload, {"fileKey": "codes/12345/tm/batch-001.csv"})
    check(document, upload, {"fileKey": "codes/12345/tm/a/b.csv", "header": True, "strict": False})
    check(document, upload, {"fileKey": "codes/12345/tm/a/b.csv.gz"})
    not_uploads: list[Any] = [
        {},
        {"fileKey": 5},
        {"fileKey": "codes/1/tm/x.gz"},
        {"fileKey": "codes/1/tm/x", "strict": "yes"},
        [],
    ]
    for wrong in not_uploads:
        with pytest.raises(Exception, match=r".+"):
            check(document, upload, wrong)
    for action in ("assign", "release"):
        codes = body(f"/v1/{{campaignId}}/{action}")
        check(document, codes, {"codes": ["ABC123", "DEF456"]})
        check(document, codes, {"reserveId": str(uuid.uuid4())})
        both = {"codes": ["ABC123"], "reserveId": str(uuid.uuid4())}
        not_lists: list[Any] = [{}, {"codes": []}, {"codes": [1]}, {"codes": "x"}, {"reserveId": "x"}, both]
        for wrong in not_lists:
            with pytest.raises(Exception, match=r".+"):
                check(document, codes, wrong)


class Assets(html.parser.HTMLParser):
    """What a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and (name in {"src", "srcset", "data", "poster"} or (tag == "link" and name == "href")):
                self.found.append(value)


def test_docs_load_nothing_from_another_host(service: Service) -> None:
    reply = service.get("/docs", auth=None)
    assert reply.status == 200
    assert reply.media_type == "text/html"
    page = Assets()
    page.feed(reply.body.decode())
    here = f"http://127.0.0.1:{service.port}/docs"
    assert page.found, "a page without a script cannot try anything"
    texts = [reply.body.decode()]
    for asset in page.found:
        if asset.startswith("data:"):
            continue
        address = urlsplit(urljoin(here, asset))
        assert address.netloc == f"127.0.0.1:{service.port}", asset
        loaded = service.get(address.path, auth=None)
        assert loaded.status == 200, asset
        kind = {"js": "javascript", "css": "text/css"}.get(asset.rpartition(".")[2])
        if kind:
            assert kind in loaded.media_type
        texts.append(loaded.body.decode("latin-1"))
    for text in texts:
        for address in re.findall(r"""(?:https?:)?//[\w.-]+\.\w+[^\s"'`)]*""", text):
            # Links that a reader may follow, and names of XML's, are no assets.
            assert re.match(
                r"https?://(www\.w3\.org|www\.rfc-editor\.org|datatracker\.ietf\.org)", address
            ), address
        assert "@import" not in text
    assert any("openapi.json" in text for text in texts)


def test_docs_with_a_query_or_without_a_token(service: Service) -> None:
    assert service.get("/docs?x=1", auth=None).status == 200
