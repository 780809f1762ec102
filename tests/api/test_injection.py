"""What a caller sends stays data: in queries, paths, object keys, log lines and headers of replies."""

import gzip
import json
import os
import uuid
import zlib
from pathlib import Path
from typing import Any

import pytest

from .harness import (
    CODE_MARK,
    Reply,
    Service,
    assert_problem,
    csv_of,
    eventually,
    make_codes,
    new_campaign,
    token,
)
from .test_edge import parsed, raw
from .world import World

JSON = {"Content-Type": "application/json"}

OPERATORS: list[Any] = [
    {"$ne": ""},
    {"$gt": ""},
    {"$regex": ".*"},
    {"$in": ["A"]},
    {"$exists": True},
    {"$where": "sleep(5000)"},
    {"$expr": {"$function": {"body": "function() {}", "args": [], "lang": "js"}}},
    ["A", {"$ne": ""}],
    [{"$ne": ""}],
    {"code": "A"},
]


@pytest.fixture(scope="module")
def stocked(world: World) -> tuple[str, list[str]]:
    """A campaign with codes that nothing here may change."""
    campaign, codes = new_campaign(), make_codes(20)
    world.stock(campaign, codes)
    return campaign, codes


def untouched(world: World, stocked: tuple[str, list[str]]) -> bool:
    campaign, codes = stocked
    return world.service.count(campaign) == {"available": len(codes), "reserved": 0, "assigned": 0}


# Operators of MongoDB where strings belong


@pytest.mark.parametrize("action", ["assign", "release"])
@pytest.mark.parametrize("value", OPERATORS, ids=str)
def test_operators_as_codes(world: World, stocked: tuple[str, list[str]], action: str, value: Any) -> None:
    campaign, _ = stocked
    for codes in (value, [value]):
        reply = world.service.post(f"/v1/{campaign}/{action}", {"codes": codes})
        assert_problem(reply, 400, {"invalidCodes", "emptyCodes"})
    assert untouched(world, stocked)


@pytest.mark.parametrize("value", OPERATORS, ids=str)
def test_operators_elsewhere(world: World, stocked: tuple[str, list[str]], value: Any) -> None:
    campaign, _ = stocked
    service = world.service
    assert_problem(service.post(f"/v1/{campaign}/codes", {"fileKey": value}), 400, "invalidFileKey")
    reserve = f"/v1/{campaign}/reserve"
    assert_problem(service.post(reserve, {"type": value, "count": 1}), 400, "invalidType")
    assert_problem(service.post(reserve, {"type": "tm", "count": value}), 400, "invalidCount")
    assert untouched(world, stocked)


@pytest.mark.parametrize(
    "query",
    [
        "type[$ne]=external&count=5",
        "type%5B%24ne%5D=external&count=5",
        "type=tm&type=external&count=5",
        "type=tm&count[$gt]=0",
        "type=%7B%22%24ne%22%3A%22%22%7D&count=5",
        "type=$tm&count=5",
        "type=tm%00&count=5",
        "type=tm&count=5%00",
        "type=tm&count=5;count=5",
        "type=tm&count=%d9%a5",  # five, in Arabic digits
        "type=%ef%bd%94%ef%bd%8d&count=5",  # tm, full width
        "type=tm&count=" + "9" * 10_00,
        "type=tm&count=5e0",
        "type=tm&count=0x5",
        "type=tm&count=1_0",
        "type=tm&count=+5",
        "type=tm&count=-5",
        "type=tm&count= 5".replace(" ", "%20"),
    ],
)
def test_operators_in_queries(world: World, stocked: tuple[str, list[str]], query: str) -> None:
    campaign, _ = stocked
    assert_problem(world.service.get(f"/v1/{campaign}/reserve?{query}"), 400, {"invalidType", "invalidCount"})
    assert untouched(world, stocked)


ODD_CODES = [
    "$ne",
    "$where",
    "a.b.c",
    "$a.$b",
    ".",
    "..",
    "...",
    "__proto__",
    "constructor",
    "null",
    "true",
    "0",
    "{'$ne': 1}",
    '{"$ne": 1}',
    "%00",
    "../../etc/passwd",
    "a/b",
    "a%2Fb",
    "\\",
    "\u00e9",
    "e\u0301",
    "\u212b",
    "\u202egnp.exe",
    "\u2028",
    "\ufeffx",
    "\U0001f600",
    "count",
]


def test_codes_that_look_like_something_else(world: World) -> None:
    """Each is a name and nothing more: it is stored, found, lent, assigned; and no two are one."""
    campaign = new_campaign()
    codes = [f"{CODE_MARK}{each}" for each in ODD_CODES] + [each for each in ODD_CODES if each != "\ufeffx"]
    world.stock(campaign, codes)
    assert world.stored(campaign) == set(codes)
    service = world.service
    assert service.change(campaign, "assign", ["$ne"]) == {"in": 1, "updated": 1}
    assert service.count(campaign) == {"available": len(codes) - 1, "reserved": 0, "assigned": 1}
    # Both forms of one character are codes of their own.
    assert service.change(campaign, "assign", ["\u00e9"]) == {"in": 1, "updated": 1}
    assert service.change(campaign, "assign", ["\u00c5", "\u212b"]) == {"in": 2, "updated": 1}
    lent = {each["code"] for each in service.reserve(campaign, len(codes))["codes"]}
    assert lent == set(codes) - {"$ne", "\u00e9", "\u212b"}
    assert service.change(campaign, "release", sorted(lent))["updated"] == len(lent)


def test_a_member_that_javascript_would_inherit(world: World, stocked: tuple[str, list[str]]) -> None:
    campaign, codes = stocked
    body = {"__proto__": {"codes": codes}, "constructor": {"codes": codes}}
    assert_problem(world.service.post(f"/v1/{campaign}/assign", body), 400, "emptyCodes")
    assert untouched(world, stocked)


# Paths and keys

TRAVERSALS = [
    "..%2f{c}",
    "{c}%2f..%2f{c}",
    "%2e%2e",
    "%252e%252e",
    "{c}%00",
    "{c}%2500",
    "%c0%ae%c0%ae",
    "{c}%c0%af",
    "%e0%80%ae",
    "%f0%80%80%af",
    "{c}%5c..",
    "{c};a=b",
    "{c}%3bx",
    "{c}%20",
    "%20{c}",
    "{c}%0d%0aX-A:%20b",
    "{c}%e2%80%ae",
    "%ef%bc%8e%ef%bc%8e",
    "{c}%ef%bc%8f",
    "{c}%u002f",
    "{c}%",
    "{c}%zz",
    "{c}%23",
    "{c}%3f",
]


@pytest.mark.parametrize("path", TRAVERSALS)
def test_paths_that_mean_another_campaign(world: World, stocked: tuple[str, list[str]], path: str) -> None:
    """Nothing decodes twice, normalises, or takes a look-alike for a letter."""
    campaign, _ = stocked
    target = f"/v1/{path.format(c=campaign)}/reserve?count=1&type=tm"
    received = raw(
        world.service,
        f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\nConnection: close\r\n\r\n".encode(),
    )
    assert parsed(received).status in {400, 404}, received
    assert untouched(world, stocked)


@pytest.mark.parametrize(
    "target",
    ["//v1/{r}", "/v1//{r}", "/./v1/{r}", "/x/../v1/{r}", "/V1/{r}", "/v1/../v1/{r}", "v1/{r}", "\\v1\\{r}"],
)
@pytest.mark.parametrize("authorised", [False, True])
def test_other_ways_to_the_same_address(
    world: World, stocked: tuple[str, list[str]], target: str, authorised: bool
) -> None:
    """No way around the token, and none that lends."""
    campaign, _ = stocked
    auth = f"Authorization: Bearer {token()}\r\n" if authorised else ""
    line = target.format(r=f"{campaign}/reserve?count=1&type=tm")
    received = raw(
        world.service, f"GET {line} HTTP/1.1\r\nHost: x\r\n{auth}Connection: close\r\n\r\n".encode()
    )
    assert parsed(received).status in {400, 401, 404}, received
    assert untouched(world, stocked)


@pytest.mark.parametrize(
    "name",
    [
        "../{o}/tm/x.csv",
        "..",
        "a/../../../{o}/tm/x.csv",
        "..\\..\\{o}\\tm\\x.csv",
        "%2e%2e/%2e%2e/{o}/tm/x.csv",
        "..%2f..%2f{o}/tm/x.csv",
        "%252e%252e/{o}/tm/x.csv",
        "\u2025/{o}/tm/x.csv",
        "\uff0e\uff0e/{o}/tm/x.csv",
        "./../{o}/tm/x.csv",
        "x\x00/../{o}/tm/x.csv",
        "\u2024\u2024/{o}/tm/x.csv",
        "x?versionId=null",
        "x#/../{o}/tm/x.csv",
        "//{o}/tm/x.csv",
        "./x.csv",
    ],
)
def test_keys_that_mean_another_campaigns_file(
    world: World, stocked: tuple[str, list[str]], name: str
) -> None:
    """Not for us, for the client of S3, nor for a store that tidies paths up."""
    other, codes = stocked
    mine = new_campaign()
    world.put(other, csv_of([f"{code}-of-other" for code in codes]), name="x.csv")
    reply = world.service.post(f"/v1/{mine}/codes", {"fileKey": f"codes/{mine}/tm/{name.format(o=other)}"})
    assert reply.status in {400, 404}, reply
    assert_problem(reply, reply.status, {"invalidFileKey", "fileNotFound"})
    assert not world.stored(mine)
    assert untouched(world, stocked)


# Logs and headers

FORGERIES = [
    "x\r\n{mark}",
    "x\n{mark}",
    "x\r{mark}",
    '"}}\n{{"level":"ERROR","message":"{mark}"}}',
    '","level":"ERROR","x":"{mark}',
    "\x1b[2J\x1b[31m{mark}",
    "\x1b]0;{mark}\x07",
    "\x9b31m{mark}",
    "\u2028{mark}",
    "\u202e{mark}",
    "\x00{mark}",
    "\x7f{mark}",
    "${{jndi:ldap://x/{mark}}}",
    "%0d%0a{mark}",
    "\\r\\n{mark}",
    "{mark}%s%n",
    "{{0.__class__}}{mark}",
]


@pytest.mark.parametrize(
    "name",
    [
        "X-Correlation-ID",
        "traceparent",
        "User-Agent",
        "Referer",
        "X-Forwarded-For",
        "Content-Type",
        "Prefer",
        "Idempotency-Key",
        "baggage",
        "tracestate",
        "Last-Event-ID",
        "Accept",
    ],
)
def test_headers_forge_no_line(service: Service, name: str) -> None:
    """Refused, replaced or escaped; and a line of the log is one object, and one line, whatever came."""
    marks = []
    for forgery in FORGERIES:
        marks.append(f"m{uuid.uuid4().hex}")
        value = forgery.format(mark=marks[-1]).encode("utf-8", "surrogateescape")
        head = (
            b"GET /v1/c/codes/count?type=tm HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token().encode()
        )
        received = raw(
            service, head + b"\r\n" + name.encode() + b": " + value + b"\r\nConnection: close\r\n\r\n"
        )
        reply = parsed(received)
        assert reply.status in {200, 400}, received
        assert all(
            not header.lower().startswith("m") for header, _ in reply.headers if header != "Media-Type"
        )
        assert marks[-1] not in str([each for each, _ in reply.headers])
    _settle(service)
    for line in service.log.read_bytes().splitlines():
        told = json.loads(line)
        assert not any(mark in str(told) for mark in marks) or told["level"] == "INFO", line
        assert not set(line) & {*range(0x20), 0x7F}, line


@pytest.mark.parametrize("forgery", FORGERIES)
def test_addresses_forge_no_line(service: Service, forgery: str) -> None:
    mark = f"m{uuid.uuid4().hex}"
    text = "".join(f"%{byte:02x}" for byte in forgery.format(mark=mark).encode())
    for target in (
        f"/v1/{text}/codes/count?type=tm",
        f"/v1/c/codes/{text}",
        f"/v1/c/uploads/{text}",
        f"/v1/c/codes/count?type={text}",
        f"/{text}",
    ):
        reply = service.get(target)
        assert reply.status in {400, 404}, reply
        assert mark not in str(reply)
    reply = service.post("/v1/c/codes", {"fileKey": f"codes/c/tm/{forgery.format(mark=mark)}"})
    assert reply.status in {400, 404}
    assert mark not in str(reply)
    _settle(service)
    assert mark not in service.log.read_text()


def test_no_header_of_a_reply_is_split(world: World) -> None:
    """Location and Content-Disposition repeat ids, each of which was held to its letters."""
    for campaign in ("c%0d%0aSet-Cookie:%20a=b", "c%e5%98%8a%e5%98%8dSet-Cookie:a=b", "c%0aX:%20y"):
        key = f"codes/{campaign}/tm/x.csv"
        reply = world.service.post(
            f"/v1/{campaign}/codes", {"fileKey": key}, headers={"Prefer": "respond-async"}
        )
        assert_problem(reply, 400, "invalidCampaignId")
        assert reply.header("Set-Cookie") is None
        assert reply.header("Location") is None


def _settle(service: Service) -> None:
    """Wait until everything that was logged so far is in the file."""
    last = uuid.uuid4().hex
    service.get("/livez", headers={"X-Correlation-ID": last})
    assert eventually(lambda: service.log_lines_of(last), limit=5)


# Bodies that grow


@pytest.mark.parametrize("authorised", [False, True])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_that_grows_costs_nobody_anything(
    service: Service, campaign: str, encoding: str, authorised: bool
) -> None:
    """Four megabytes that would become four gigabytes: not inflated without a token, nor beyond the limit with one."""
    before, peak = _cpu_seconds(service), _peak_mebibytes(service)
    reply = service.post(
        f"/v1/{campaign}/assign",
        body=_bomb(encoding, mebibytes=4096),
        headers={**JSON, "Content-Encoding": encoding},
        auth=... if authorised else None,
    )
    if authorised:
        assert_problem(reply, 413, "payloadTooLarge")
    else:
        assert_problem(reply, 401, "unauthorized")
    # The process is free again: what would be left to inflate would come before this.
    assert service.get("/livez").status == 200
    # To inflate all of it takes more than ten seconds.
    assert _cpu_seconds(service) - before < 3
    assert _peak_mebibytes(service) - peak < 400


@pytest.mark.parametrize("unit", ['\\"', '"\\', '"', ",", ";q=", "a/b;"])
def test_a_list_of_media_types_costs_nothing(service: Service, campaign: str, unit: str) -> None:
    """Each took seconds once, when a quote that nobody closes was looked for again from every quote on."""
    before = _cpu_seconds(service)
    for _ in range(5):
        reply = service.get(f"/v1/{campaign}/codes", headers={"Accept": unit * (8000 // len(unit))})
        assert reply.status in {200, 406}, reply
    assert _cpu_seconds(service) - before < 2


@pytest.mark.parametrize(
    "encoding",
    ["gzip, gzip", "gzip, deflate", "br", "zstd", "compress", "x-gzip", "gzip\t,identity", "GZIP;q=1"],
)
def test_codings_within_codings(service: Service, campaign: str, encoding: str) -> None:
    body = gzip.compress(gzip.compress(b'{"codes": ["A"]}'))
    reply = service.post(f"/v1/{campaign}/assign", body=body, headers={**JSON, "Content-Encoding": encoding})
    assert_problem(reply, reply.status, {"unsupportedMediaType", "invalidJson", "badRequest"})


def _bomb(encoding: str, *, mebibytes: int) -> bytes:
    """Make a compressed body of blanks: a mebibyte of them, compressed once, again and again."""
    packer = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    blank = b" " * (1 << 20)
    head = packer.compress(b'{"codes": ["A"]') + packer.compress(blank) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(blank) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + again * (mebibytes - 1)


def _cpu_seconds(service: Service) -> float:
    fields = Path(f"/proc/{service.process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mebibytes(service: Service) -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return next(int(line.split()[1]) >> 10 for line in status.splitlines() if line.startswith("VmHWM"))


# What browsers do of their own


@pytest.mark.parametrize(
    "path",
    ["/v1/c/codes/count?type=tm", "/metrics", "/docs", "/console", "/openapi.json", "/livez", "/nothing"],
)
def test_no_other_origin_is_let_in(service: Service, path: str) -> None:
    """No CORS: a page of another origin neither reads a reply nor may send the header with the token."""
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{service.port}"):
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization",
        }
        for reply in (
            service.get(path, headers={"Origin": origin}),
            service.request("OPTIONS", path, headers=asked, auth=None),
        ):
            assert not [name for name, _ in reply.headers if name.lower().startswith("access-control-")]
            assert reply.header("Set-Cookie") is None
        assert reply.status in {401, 404, 405}


def test_no_reply_is_taken_for_something_else(world: World) -> None:
    """Every reply says what it is, and that it is not to be guessed."""
    service = world.service
    replies: list[Reply] = [
        service.get("/v1/c/codes/count?type=tm"),
        service.get("/v1/c/codes/count?type=tm", auth=None),
        service.get("/v1/%3Cscript%3E/codes/count?type=tm"),
        service.get("/%3Cscript%3E"),
        service.get("/metrics"),
        service.get("/livez"),
        service.get("/openapi.json"),
        service.get("/docs"),
        service.get("/console"),
        parsed(raw(service, b"rubbish\r\n\r\n")),
    ]
    campaign = new_campaign()
    started = world.upload(campaign, csv_of([*make_codes(1), f"{CODE_MARK}\x01"]))
    replies.append(service.get(f"{started.header('Location')}/invalid"))
    replies.append(service.get(f"{started.header('Location')}/events"))
    for reply in replies:
        assert reply.header("X-Content-Type-Options") == "nosniff", reply
        assert reply.media_type, reply
        assert b"<script>" not in reply.body or reply.media_type == "text/html"


@pytest.mark.parametrize("path", ["/docs", "/console"])
def test_a_page_runs_its_own_scripts_only(service: Service, path: str) -> None:
    reply = service.get(path, auth=None)
    policy = dict(
        part.strip().partition(" ")[::2]
        for part in (reply.header("Content-Security-Policy") or "").split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in str(policy)
    assert "*" not in str(policy)
    page = reply.body.decode()
    assert " on" + "click=" not in page
    assert "<script>" not in page
    assert "style=" not in page
