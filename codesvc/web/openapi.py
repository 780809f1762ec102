"""The OpenAPI 3.1 document, made of the schemas that check requests and of the table of problems."""

from typing import Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from codesvc.version import __version__
from codesvc.web.idempotent import KEY_PATTERN
from codesvc.web.openapi_listing import codes
from codesvc.web.openapi_parts import (
    Json,
    campaign_parameters,
    header_references,
    json_content,
    operation,
    problem_response,
    problem_responses,
    query_parameters,
)
from codesvc.web.openapi_uploads import upload, upload_paths
from codesvc.web.schemas import (
    CAMPAIGN_PATTERN,
    RESERVE_ID_PATTERN,
    ChangeReply,
    CodeReply,
    CodesQuery,
    CodesReply,
    CodesRequest,
    CountQuery,
    CountReply,
    Limits,
    ProblemReply,
    ReservationReply,
    ReserveReply,
    ReserveRequest,
    StatusReply,
    TokenReply,
    UploadReply,
    UploadRequest,
)
from codesvc.web.upload_schemas import (
    UPLOAD_ID_PATTERN,
    DeleteQuery,
    UploadResource,
    UploadsQuery,
    UploadsReply,
)

_REQUESTS: Final = (
    UploadRequest,
    UploadsQuery,
    DeleteQuery,
    CodesQuery,
    CountQuery,
    ReserveRequest,
    CodesRequest,
)
_REPLIES: Final = (
    UploadReply,
    UploadResource,
    UploadsReply,
    CountReply,
    CodeReply,
    CodesReply,
    ReserveReply,
    ReservationReply,
    ChangeReply,
    StatusReply,
    TokenReply,
    ProblemReply,
)
_RESERVE_PROBLEMS: Final = ("invalidType", "invalidCount", "invalidTtl", "invalidMin", "notEnoughCodes")
_CHANGE_PROBLEMS: Final = ("emptyCodes", "invalidCodes", "invalidReserveId")
_DESCRIPTION: Final = """\
Owns the inventory of promotional codes of many campaigns. A code belongs to one campaign and has one type,
`tm` or `external`; it is available, reserved (a hold that ends by itself) or assigned (for good).

Every write is idempotent: a caller that saw a timeout may send it again. A code is a bearer secret: no reply
under `/v1` is to be stored by a cache.
"""


def openapi_document(limits: Limits | None = None, *, dev: bool = False, console: bool = True) -> Json:
    """Return the document; with ``dev`` it has ``GET /dev/token`` too, without ``console`` it lacks ``/console``."""
    schemas = _schemas(limits or Limits())
    paths = _v1_paths(schemas) | upload_paths(schemas) | _operator_paths(console=console)
    if dev:
        paths["/dev/token"] = {"get": _dev_token()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "codesvc",
            "version": __version__,
            "summary": "An inventory of promotional codes",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "tags": [
            {"name": "codes", "description": "Loading, counting and listing codes."},
            {"name": "uploads", "description": "What becomes of uploads."},
            {"name": "life cycle", "description": "Reserving, assigning and releasing codes."},
            {"name": "operation", "description": "For load balancers, scrapers and readers."},
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": _parameters(),
            "headers": _headers(),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A JWT with `exp` in the future and the claim `isSupreme: true`.",
                }
            },
        },
    }


def _v1_paths(schemas: Json) -> dict[str, Json]:
    return {
        "/v1/{campaignId}/codes": {
            "parameters": campaign_parameters(),
            "get": codes(schemas),
            "post": upload(),
        },
        "/v1/{campaignId}/codes/count": {
            "parameters": campaign_parameters(),
            "get": operation(
                "codes",
                "Count codes by status",
                "Counts the codes of one type, by status, or of the one status asked for.",
                operation_id="count",
                parameters=query_parameters(schemas["CountQuery"]),
                reply=CountReply,
                problems=("invalidType", "invalidStatus"),
            ),
        },
        "/v1/{campaignId}/codes/{code}": {
            "parameters": [*campaign_parameters(), {"$ref": "#/components/parameters/code"}],
            "get": operation(
                "codes",
                "Look one code up",
                "Tells where one code stands. A hold that has ended is not shown: the code is available.",
                operation_id="code",
                reply=CodeReply,
                problems=("notFound",),
            ),
        },
        "/v1/{campaignId}/reserve": {
            "parameters": campaign_parameters(),
            "get": operation(
                "life cycle",
                "Reserve codes",
                "Lends exactly `count` codes whenever that many are available, otherwise all that are left. "
                "An empty reservation is a success, unless `min` asks for more: then nothing is held "
                "(`notEnoughCodes`). A hold ends by itself, after `ttl` seconds, or as is configured: after 24 h "
                "unless otherwise.",
                operation_id="reserve",
                parameters=query_parameters(schemas["ReserveRequest"]),
                reply=ReserveReply,
                problems=_RESERVE_PROBLEMS,
                keyed=True,
            ),
            "post": operation(
                "life cycle",
                "Reserve codes",
                "The same as GET. The parameters are in the query string, or in a body, whose members win.",
                operation_id="reserveByPost",
                parameters=query_parameters(schemas["ReserveRequest"] | {"required": []}),
                body=ReserveRequest,
                body_required=False,
                reply=ReserveReply,
                problems=_RESERVE_PROBLEMS,
                keyed=True,
            ),
        },
        "/v1/{campaignId}/reservations/{reserveId}": {
            "parameters": [*campaign_parameters(), {"$ref": "#/components/parameters/reserveId"}],
            "get": operation(
                "life cycle",
                "Look a reservation up",
                "Tells which codes a live reservation still holds, and when it ends. One that holds nothing, since it "
                "has ended, or all of it was assigned or released, is not there any more.",
                operation_id="reservation",
                reply=ReservationReply,
                problems=("notFound",),
            ),
        },
        "/v1/{campaignId}/assign": {
            "parameters": campaign_parameters(),
            "post": operation(
                "life cycle",
                "Assign codes",
                "Gives available and reserved codes away for good. Codes that are assigned already stay so, "
                "and are not counted again. With `reserveId` instead of `codes`: all that the live reservation still "
                "holds, and nothing that has gone to another since.",
                operation_id="assign",
                body=CodesRequest,
                reply=ChangeReply,
                problems=_CHANGE_PROBLEMS,
                keyed=True,
            ),
        },
        "/v1/{campaignId}/release": {
            "parameters": campaign_parameters(),
            "post": operation(
                "life cycle",
                "Release codes",
                "Makes reserved codes available again; passes over all others. With `reserveId` instead of `codes`: "
                "all that the live reservation still holds, and nothing that has gone to another since.",
                operation_id="release",
                body=CodesRequest,
                reply=ChangeReply,
                problems=_CHANGE_PROBLEMS,
                keyed=True,
            ),
        },
    }


def _operator_paths(*, console: bool) -> dict[str, Json]:
    paths: dict[str, Json] = {}
    for path, summary in (("/heartbeat", "The process answers"), ("/livez", "The process lives")):
        paths[path] = {"get": _public(summary, path, json_content(StatusReply))}
    ready = _public("The process can serve", "/readyz", json_content(StatusReply))
    ready["responses"] |= problem_responses(("databaseUnavailable", "draining"), protected=False)
    paths["/readyz"] = {"get": ready}
    text: Json = {"schema": {"type": "string"}}
    metrics = _public("Metrics in the Prometheus text format", "/metrics", {"text/plain": text})
    metrics["responses"] |= problem_responses(("metricsUnavailable",), protected=False)
    paths["/metrics"] = {"get": metrics}
    document: Json = {"schema": {"type": "object"}}
    paths["/openapi.json"] = {
        "get": _public("This document", "/openapi.json", {"application/json": document})
    }
    paths["/docs"] = {"get": _public("A page to try the service", "/docs", {"text/html": text})}
    if console:
        told = "A page to look after a campaign's codes"
        paths["/console"] = {"get": _public(told, "/console", {"text/html": text})}
    return paths


def _dev_token() -> Json:
    return _public("A token, in development only", "/dev/token", json_content(TokenReply))


def _public(summary: str, path: str, content: Json) -> Json:
    return {
        "tags": ["operation"],
        "summary": summary,
        "operationId": path.strip("/").replace("/", "-").replace(".", "-"),
        "security": [],
        "parameters": [{"$ref": "#/components/parameters/X-Correlation-ID"}],
        "responses": {
            "200": {
                "description": "Here it is.",
                "headers": header_references("X-Correlation-ID"),
                "content": content,
            },
            "default": problem_response("Any other problem.", (), protected=False),
        },
    }


def _schemas(limits: Limits) -> Json:
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        *((model, "validation") for model in _REQUESTS),
        *((model, "validation") for model in _REPLIES),
    ]
    _, definitions = models_json_schema(models, by_alias=True, ref_template="#/components/schemas/{model}")
    schemas: Json = definitions["$defs"]
    for schema in schemas.values():
        for member in schema.get("properties", {}).values():
            # Pydantic's titles are the members' names again.
            member.pop("title", None)
    reserve = schemas["ReserveRequest"]["properties"]
    reserve["count"]["maximum"] = reserve["min"]["maximum"] = limits.max_reserve
    reserve["ttl"]["maximum"] = limits.reservation_ttl
    schemas["CodesRequest"]["properties"]["codes"]["maxItems"] = limits.max_codes_per_request
    return schemas


def _parameters() -> Json:
    return {
        "campaignId": {
            "name": "campaignId",
            "in": "path",
            "required": True,
            "description": "The campaign.",
            "schema": {"type": "string", "pattern": f"^{CAMPAIGN_PATTERN}$"},
            "example": "12345",
        },
        "code": {
            "name": "code",
            "in": "path",
            "required": True,
            "description": "The code, percent-encoded, a slash as `%2F`. A code that is spelt `count` cannot be "
            "looked up: `codes/count` counts.",
            "schema": {"type": "string", "minLength": 1},
            "example": "ABC123",
        },
        "reserveId": {
            "name": "reserveId",
            "in": "path",
            "required": True,
            "description": "The reservation.",
            "schema": {"type": "string", "pattern": f"^{RESERVE_ID_PATTERN}$"},
            "example": "6b0f0c5e-6d0c-4f5e-9a55-0d8f3f1f7f10",
        },
        "uploadId": {
            "name": "uploadId",
            "in": "path",
            "required": True,
            "description": "The upload.",
            "schema": {"type": "string", "pattern": f"^{UPLOAD_ID_PATTERN}$"},
            "example": "019ab3f0-6d0c-7f5e-9a55-0d8f3f1f7f10",
        },
        "Prefer": {
            "name": "Prefer",
            "in": "header",
            "description": "`respond-async` (RFC 7240): reply 202 as soon as the upload is accepted.",
            "schema": {"type": "string"},
            "example": "respond-async",
        },
        "Idempotency-Key": {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "A name for this request that no other has, such as a UUID: 1 to 255 visible characters of "
            "ASCII, bare or as a structured field's string (in quotes). Sent again within 24 h, unless configured "
            "otherwise, the request has the first reply again, with `Idempotency-Replayed: true`; another request with "
            "the key is 422 `idempotencyKeyReused`; while the first is under way, 409 `idempotencyKeyInUse`. Each "
            "campaign has keys of its own. A request that failed without having done anything gives its key back.",
            "schema": {"type": "string", "pattern": f"^{KEY_PATTERN}$"},
            "example": "8e03978e-40d5-43e8-bc93-6894a57f9324",
        },
        "Last-Event-ID": {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "The `id` of the last event that was received.",
            "schema": {"type": "string"},
        },
        "X-Correlation-ID": {
            "name": "X-Correlation-ID",
            "in": "header",
            "description": "Comes back on the reply, and is on every log line. One that is missing, or is not 1 to 128 "
            "characters of `A-Z a-z 0-9 . _ ~ : / + = @ -`, is replaced.",
            "schema": {"type": "string"},
            "example": "0b8f1c9e-6d0c-4f5e-9a55-0d8f3f1f7f10",
        },
        "traceparent": {
            "name": "traceparent",
            "in": "header",
            "description": "The caller's trace (W3C Trace Context).",
            "schema": {"type": "string"},
        },
    }


def _headers() -> Json:
    text = {"type": "string"}
    return {
        "X-Correlation-ID": {"description": "What came in, or what was made.", "schema": text},
        "Cache-Control": {"description": "`no-store`", "schema": text},
        "WWW-Authenticate": {"description": "The challenge of RFC 6750.", "schema": text},
        "Location": {"description": "The address of the upload.", "schema": text},
        "Preference-Applied": {"description": "`respond-async`", "schema": text},
        "Idempotency-Key": {"description": "What came in; only if it did.", "schema": text},
        "Idempotency-Replayed": {"description": "`true`, if this is an earlier reply again.", "schema": text},
        "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    }
