"""Every row of the contract's table of errors, and what else a request can have wrong."""

import asyncio
import gzip
from typing import Any

import pytest
from webroom import Client, Service, bearer, send

from codesvc.errors import (
    CodesvcError,
    CorruptFileError,
    DatabaseUnavailableError,
    InvalidRowError,
    NotCsvError,
    SourceChangedError,
    SourceNotFoundError,
    StorageUnavailableError,
)
from codesvc.models import InvalidRow, Status, UploadCounts
from codesvc.web.schemas import Limits

pytest_plugins = ("webroom",)

KEY = "codes/1/tm/x.csv"


def json_body(text: str) -> dict[str, Any]:
    return {"data": text.encode(), "headers": {"Content-Type": "application/json"}}


@pytest.mark.parametrize("path", ["/v1/1/codes", "/v1/1/assign", "/v1/1/release"])
@pytest.mark.parametrize(
    "body",
    [
        "",
        " ",
        "{",
        "[]",
        '"text"',
        "null",
        "1",
        "{'a': 1}",
        '{"a": NaN}',
        '\ufeff{"codes": ["A"]}',
        "[" * 5000,
    ],
)
async def test_invalid_json(client: Client, path: str, body: str) -> None:
    reply = await send(client, "POST", path, **json_body(body))
    assert (reply.status, reply.code) == (400, "invalidJson")


@pytest.mark.parametrize("body", [b'{"codes": ["\xff"]}', b'{"codes": ["\\ud800"]}'])
async def test_text_that_is_no_unicode_is_invalid_json(client: Client, body: bytes) -> None:
    reply = await send(
        client, "POST", "/v1/1/assign", data=body, headers={"Content-Type": "application/json"}
    )
    assert (reply.status, reply.code) == (400, "invalidJson")


@pytest.mark.parametrize("member", ["header", "strict"])
@pytest.mark.parametrize("value", ["true", 1, 0, None, []])
async def test_switches_must_be_booleans(client: Client, member: str, value: object) -> None:
    reply = await send(client, "POST", "/v1/1/codes", json={"fileKey": KEY, member: value})
    assert (reply.status, reply.code) == (400, "invalidJson")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"fileKey": None},
        {"fileKey": 1},
        {"fileKey": ["codes/1/tm/x"]},
        *(
            {"fileKey": key}
            for key in (
                *("", "codes", "codes/1/tm", "codes/1/tm/", "/codes/1/tm/x", "Codes/1/tm/x", "codes//tm/x"),
                *("codes/1//x", "codes/1/other/x", "codes/1/TM/x", "codes/1/tm/../x", "codes/1/tm/a..b"),
                *(
                    "codes/1/tm/a\nb",
                    "codes/1/tm/a\x00",
                    "codes/1/tm/a\x7f",
                    "codes/1/tm/x\n",
                    " codes/1/tm/x",
                ),
                *(
                    f"codes/{'x' * 129}/tm/x",
                    "codes/a b/tm/x",
                    "codes/1/tm/" + "x" * 1014,
                    "codes/1/tm/" + "é" * 507,
                ),
            )
        ),
    ],
)
async def test_invalid_file_key(client: Client, service: Service, body: object) -> None:
    reply = await send(client, "POST", "/v1/1/codes", json=body)
    assert (reply.status, reply.code) == (400, "invalidFileKey")
    assert not service.uploads.calls


@pytest.mark.parametrize(
    "key",
    ["codes/1/tm/" + "x" * 1013, "codes/1/tm/" + "é" * 506, "codes/1/external/a b/ü.csv", "codes/1/tm//"],
)
async def test_file_keys_that_are_fine(client: Client, service: Service, key: str) -> None:
    assert (await send(client, "POST", "/v1/1/codes", json={"fileKey": key})).status == 200
    assert service.uploads.calls[0]["file_key"] == key


async def test_campaign_mismatch(client: Client, service: Service) -> None:
    reply = await send(client, "POST", "/v1/2/codes", json={"fileKey": KEY})
    assert (reply.status, reply.code) == (400, "campaignMismatch")
    assert not service.uploads.calls


TYPES = ["", "type=", "type=TM", "type=other", "type=tm&type=external", "type=tm&type=tm", "type=tm%20"]


@pytest.mark.parametrize("query", TYPES)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "codes/count?"), ("GET", "reserve?count=1&"), ("POST", "reserve?count=1&")]
)
async def test_invalid_type(client: Client, service: Service, method: str, path: str, query: str) -> None:
    reply = await send(client, method, f"/v1/1/{path}{query}")
    assert (reply.status, reply.code) == (400, "invalidType")
    assert not service.inventory.calls


@pytest.mark.parametrize(
    "status", ["status=", "status=free", "status=Available", "status=available&status=reserved"]
)
async def test_invalid_status(client: Client, service: Service, status: str) -> None:
    reply = await send(client, "GET", f"/v1/1/codes/count?type=tm&{status}")
    assert (reply.status, reply.code) == (400, "invalidStatus")
    assert not service.inventory.calls


COUNTS = [
    "",
    "count=",
    "count=0",
    "count=-1",
    "count=101",
    "count=1.0",
    "count=1e2",
    "count=+1",
    "count=%201",
    "count=x",
]
COUNTS += [
    "count=1_0",
    "count=%D9%A1",
    "count=%C2%B2",
    "count=1&count=1",
    "count=" + "9" * 5000,
    "count=0x1",
    "count=00",
]


@pytest.mark.parametrize("query", COUNTS)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_invalid_count(client: Client, service: Service, method: str, query: str) -> None:
    reply = await send(client, method, f"/v1/1/reserve?type=tm&{query}")
    assert (reply.status, reply.code) == (400, "invalidCount")
    assert not service.inventory.calls


@pytest.mark.parametrize("count", [0, -1, 101, 1.5, "1", True, None, [1], 10**30])
async def test_invalid_count_in_a_body(client: Client, service: Service, count: object) -> None:
    reply = await send(client, "POST", "/v1/1/reserve", json={"type": "tm", "count": count})
    assert (reply.status, reply.code) == (400, "invalidCount")
    assert not service.inventory.calls


@pytest.mark.parametrize("query", ["count=1", "count=100", "count=007"])
async def test_counts_that_are_fine(client: Client, service: Service, query: str) -> None:
    assert (await send(client, "GET", f"/v1/1/reserve?type=tm&{query}")).status == 200
    assert service.inventory.calls[0][3] == int(query.partition("=")[2])


@pytest.mark.parametrize(
    "campaign", ["", "a%20b", "x" * 129, "%C3%A9", "a%2Fb", "a%00", "{a}", "a:b", "a%0A", "..%2f"]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "codes/count?type=tm"),
        ("GET", "reserve?type=tm&count=1"),
        ("POST", "codes"),
        ("POST", "assign"),
    ],
)
async def test_invalid_campaign_id(
    client: Client, service: Service, method: str, path: str, campaign: str
) -> None:
    # Neither the body nor the parameters are looked at before the campaign.
    reply = await send(client, method, f"/v1/{campaign}/{path}")
    assert (reply.status, reply.code) == (400, "invalidCampaignId")
    assert not service.inventory.calls


@pytest.mark.parametrize("action", ["assign", "release"])
@pytest.mark.parametrize("body", ["{}", '{"codes": null}', '{"codes": []}', '{"code": ["A"]}'])
async def test_empty_codes(client: Client, action: str, body: str) -> None:
    reply = await send(client, "POST", f"/v1/1/{action}", **json_body(body))
    assert (reply.status, reply.code) == (400, "emptyCodes")


@pytest.mark.parametrize("action", ["assign", "release"])
@pytest.mark.parametrize(
    "codes",
    ['"A"', "{}", "1", "true", '{"A": 1}', "[1]", '["A", null]', '["A", ["B"]]', '["A", true]', "[{}]"],
)
async def test_invalid_codes(client: Client, service: Service, action: str, codes: str) -> None:
    reply = await send(client, "POST", f"/v1/1/{action}", **json_body(f'{{"codes": {codes}}}'))
    assert (reply.status, reply.code) == (400, "invalidCodes")
    assert not service.inventory.calls


async def test_too_many_codes(client: Client, service: Service) -> None:
    fine = await send(client, "POST", "/v1/1/assign", json={"codes": ["A"] * 1000})
    assert (fine.status, fine.json["count"]["in"]) == (200, 1000)
    many = await send(client, "POST", "/v1/1/assign", json={"codes": ["A"] * 1001})
    assert (many.status, many.code) == (400, "invalidCodes")
    assert len(service.inventory.calls) == 1


async def test_no_detail_repeats_a_code(client: Client) -> None:
    for codes in (["SECRET-1", 5], "SECRET-1", {"SECRET-1": "SECRET-1"}, ["SECRET-1"] * 1001):
        reply = await send(client, "POST", "/v1/1/assign", json={"codes": codes})
        assert reply.status == 400
        assert b"SECRET" not in reply.body


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(
            ("GET", path)
            for path in ("/", "/v2/1/codes", "/nothing", "/heartbeat/", "/v1x", "/dev/token", "/docs/x")
        ),
        *(
            ("GET", path)
            for path in ("/v1", "/v1/", "/v1/1", "/v1/1/codes/count/", "/v1/1/reserve/x", "/v1/1/x")
        ),
        *(("POST", path) for path in ("/v1/1/codes/x/y", "/v1/1/assign/", "/v1/1//assign", "/metrics/x")),
    ],
)
async def test_not_found(client: Client, method: str, path: str) -> None:
    reply = await send(client, method, path)
    assert (reply.status, reply.code) == (404, "notFound")
    assert ("Cache-Control" in reply.headers) == (path == "/v1" or path.startswith("/v1/"))


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("HEAD", "/v1/1/reserve?count=1&type=tm", "GET, POST"),
        ("DELETE", "/v1/1/reserve", "GET, POST"),
        ("PUT", "/v1/1/codes", "GET, HEAD, POST"),
        ("OPTIONS", "/v1/1/assign", "POST"),
        ("GET", "/v1/1/release", "POST"),
        ("POST", "/v1/1/codes/count", "GET, HEAD"),
        ("PROPFIND", "/v1/1/codes/count", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("PUT", "/heartbeat", "GET, HEAD"),
    ],
)
async def test_method_not_allowed(
    client: Client, service: Service, method: str, path: str, allow: str
) -> None:
    reply = await send(client, method, path)
    assert reply.status == 405
    assert reply.headers["Allow"] == allow
    if method != "HEAD":
        assert reply.code == "methodNotAllowed"
    assert not service.inventory.calls


@pytest.mark.parametrize(
    "path", ["/v1/1/codes", "/v1/1/assign", "/v1/1/release", "/v1/1/reserve?type=tm&count=1"]
)
@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "application/problem+json"],
)
async def test_unsupported_media_type(client: Client, path: str, content_type: str) -> None:
    reply = await send(client, "POST", path, data=b"{", headers={"Content-Type": content_type})
    assert (reply.status, reply.code) == (415, "unsupportedMediaType")


@pytest.fixture
def small_limit(service: Service) -> None:
    service.limits = Limits(max_body=1000)


@pytest.mark.usefixtures("small_limit")
class TestPayloadTooLarge:
    """The largest body, by whichever way it comes."""

    async def test_by_its_length(self, client: Client) -> None:
        reply = await send(client, "POST", "/v1/1/assign", **json_body('{"codes":["A"]}'.ljust(1000)))
        assert reply.status == 200
        reply = await send(client, "POST", "/v1/1/assign", **json_body('{"codes":["A"]}'.ljust(1001)))
        assert (reply.status, reply.code) == (413, "payloadTooLarge")

    async def test_in_chunks(self, client: Client) -> None:
        async def chunks() -> Any:
            for _ in range(11):
                yield b" " * 100

        headers = {"Content-Type": "application/json"}
        reply = await send(client, "POST", "/v1/1/assign", data=chunks(), headers=headers)
        assert (reply.status, reply.code) == (413, "payloadTooLarge")

    async def test_compressed(self, client: Client) -> None:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        data = gzip.compress(b" " * 100_000)
        assert len(data) < 1000
        reply = await send(client, "POST", "/v1/1/assign", data=data, headers=headers)
        assert (reply.status, reply.code) == (413, "payloadTooLarge")

    async def test_media_type_comes_first(self, client: Client) -> None:
        headers = {"Content-Type": "text/plain"}
        reply = await send(client, "POST", "/v1/1/assign", data=b" " * 2000, headers=headers)
        assert (reply.status, reply.code) == (415, "unsupportedMediaType")


ROW = InvalidRow(17, "the code is too long")

DOMAIN = [
    (SourceNotFoundError("There is no such file"), 404, "fileNotFound"),
    (SourceChangedError("The file was replaced"), 409, "fileChanged"),
    (InvalidRowError(ROW, UploadCounts(10, 6)), 422, "invalidRow"),
    (NotCsvError(ROW, UploadCounts(10, 6)), 422, "notCsv"),
    (CorruptFileError(ROW, UploadCounts(10, 6)), 422, "corruptFile"),
    (StorageUnavailableError("The store does not answer"), 503, "storageUnavailable"),
    (DatabaseUnavailableError("The database does not answer"), 503, "databaseUnavailable"),
    (CodesvcError("what nobody foresaw: SECRET"), 500, "internalError"),
    (ValueError("E11000 duplicate key: SECRET"), 500, "internalError"),
    (TimeoutError("SECRET"), 500, "internalError"),
    (ConnectionResetError("SECRET"), 500, "internalError"),
]


@pytest.mark.parametrize(("error", "status", "code"), DOMAIN, ids=[type(each[0]).__name__ for each in DOMAIN])
async def test_errors_of_an_upload(
    client: Client, service: Service, error: Exception, status: int, code: str
) -> None:
    service.uploads.outcome = error
    reply = await send(client, "POST", "/v1/1/codes", json={"fileKey": KEY})
    assert (reply.status, reply.code) == (status, code)
    assert b"SECRET" not in reply.body
    assert b"Traceback" not in reply.body
    if status == 422:
        assert reply.json["line"] == 17
        assert reply.json["count"] == {"in": 16, "inserted": 10, "updated": 6}
    else:
        assert not {"line", "count"} & reply.json.keys()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/1/codes/count?type=tm", None),
        ("GET", "/v1/1/codes/count?type=tm&status=assigned", None),
        ("GET", "/v1/1/reserve?type=tm&count=1", None),
        ("POST", "/v1/1/reserve?type=tm&count=1", None),
        ("POST", "/v1/1/assign", {"codes": ["A"]}),
        ("POST", "/v1/1/release", {"codes": ["A"]}),
    ],
)
class TestInventoryFailures:
    """The routes that stand in front of the inventory."""

    async def test_database_unavailable(
        self, client: Client, service: Service, method: str, path: str, body: Any
    ) -> None:
        service.inventory.failure = DatabaseUnavailableError("The database does not answer")
        reply = await send(client, method, path, json=body)
        assert (reply.status, reply.code) == (503, "databaseUnavailable")
        assert int(reply.headers["Retry-After"]) > 0

    async def test_internal_error(
        self, client: Client, service: Service, method: str, path: str, body: Any
    ) -> None:
        service.inventory.failure = RuntimeError("SECRET")
        reply = await send(client, method, path, json=body)
        assert (reply.status, reply.code) == (500, "internalError")
        assert b"SECRET" not in reply.body

    async def test_a_database_that_hangs(
        self, service: Service, client: Client, method: str, path: str, body: Any
    ) -> None:
        async def hang() -> None:
            await asyncio.sleep(60)

        service.inventory.delay = hang
        reply = await send(client, method, path, json=body)
        assert (reply.status, reply.code) == (503, "databaseUnavailable")

    @pytest.fixture(autouse=True)
    def _short(self, service: Service) -> None:
        service.limits = Limits(operation_timeout=0.05)


async def test_draining_refuses_v1_and_closes(client: Client, service: Service) -> None:
    service.is_draining = True
    reply = await send(client, "GET", "/v1/1/codes/count?type=tm")
    assert (reply.status, reply.code) == (503, "draining")
    assert reply.headers["Connection"] == "close"
    assert reply.headers["Cache-Control"] == "no-store"
    assert (await send(client, "GET", "/livez")).status == 200
    assert not service.inventory.calls


async def test_draining_does_not_spare_the_token(anonymous: Client, service: Service) -> None:
    service.is_draining = True
    assert (await send(anonymous, "GET", "/v1/1/codes/count?type=tm")).code == "unauthorized"
    assert (await send(anonymous, "GET", "/v1/1/x", headers=bearer())).code == "draining"


async def test_what_is_being_done_is_finished_while_draining(client: Client, service: Service) -> None:
    service.inventory.codes = {"A": Status.AVAILABLE}

    async def drain() -> None:
        service.is_draining = True

    service.inventory.delay = drain
    reply = await send(client, "GET", "/v1/1/reserve?type=tm&count=1")
    assert (reply.status, reply.json["count"]) == (200, 1)


async def test_a_compressed_file_by_another_name_is_refused(client: Client, service: Service) -> None:
    """As CSV, it would be taken for broken rows, a few of which are not."""
    reply = await send(client, "POST", "/v1/1/codes", json={"fileKey": "codes/1/tm/a.gz"})
    assert (reply.status, reply.code) == (400, "invalidFileKey")
    assert not service.uploads.calls


@pytest.mark.parametrize("wanted", ["true", 1, None, []])
async def test_a_dry_run_is_wanted_or_not(client: Client, service: Service, wanted: Any) -> None:
    """Who asks for a dry run, in whatever way, must not get a plain upload."""
    reply = await send(client, "POST", "/v1/1/codes", json={"fileKey": KEY, "dryRun": wanted})
    assert (reply.status, reply.code) == (400, "invalidJson")
    assert not service.uploads.calls


async def test_a_dry_run_is_ordered(client: Client, service: Service) -> None:
    reply = await send(client, "POST", "/v1/1/codes", json={"fileKey": KEY, "dryRun": True})
    assert (reply.status, reply.json["dryRun"]) == (200, True)
    assert [one["dry_run"] for one in service.uploads.calls] == [True]
    reply = await send(client, "POST", "/v1/1/codes", json={"fileKey": KEY})
    assert "dryRun" not in reply.json
