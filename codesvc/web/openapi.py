"""The OpenAPI 3.1 document, made of the schemas that check requests and of the table of problems."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from codesvc.version import __version__
from codesvc.web.problems import PROBLEM_TYPE, PROBLEMS, TYPE_PREFIX
from codesvc.web.schemas import (
    CAMPAIGN_PATTERN,
    ChangeReply,
    CodeReply,
    CodesRequest,
    CountQuery,
    CountReply,
    Limits,
    ProblemReply,
    ReserveReply,
    ReserveRequest,
    StatusReply,
    TokenReply,
    UploadReply,
    UploadRequest,
)
from codesvc.web.upload_schemas import UPLOAD_ID_PATTERN, UploadResource, UploadsQuery, UploadsReply

Json = dict[str, Any]

_REQUESTS: Final = (UploadRequest, UploadsQuery, CountQuery, ReserveRequest, CodesRequest)
_REPLIES: Final = (
    UploadReply,
    UploadResource,
    UploadsReply,
    CountReply,
    CodeReply,
    ReserveReply,
    ChangeReply,
    StatusReply,
    TokenReply,
    ProblemReply,
)
_BODY_PROBLEMS: Final = ("invalidJson", "payloadTooLarge", "unsupportedMediaType")
_EVERYWHERE: Final = (
    *("invalidCampaignId", "unauthorized", "supremeUserRequired"),
    *("internalError", "databaseUnavailable", "keysUnavailable", "draining"),
)
_DESCRIPTION: Final = """\
Owns the inventory of promotional codes of many campaigns. A code belongs to one campaign and has one type,
`tm` or `external`; it is available, reserved (a hold that ends by itself) or assigned (for good).

Every write is idempotent: a caller that saw a timeout may send it again. A code is a bearer secret: no reply
under `/v1` is to be stored by a cache.
"""


def openapi_document(limits: Limits | None = None, *, dev: bool = False, console: bool = True) -> Json:
    """Return the document; with ``dev`` it has ``GET /dev/token`` too, without ``console`` it lacks ``/console``."""
    schemas = _schemas(limits or Limits())
    paths = _v1_paths(schemas) | _upload_paths(schemas) | _operator_paths(console=console)
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
            {"name": "codes", "description": "Loading and counting codes."},
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
            "parameters": _campaign_parameters(),
            "post": _upload(),
        },
        "/v1/{campaignId}/codes/count": {
            "parameters": _campaign_parameters(),
            "get": _operation(
                "codes",
                "Count codes by status",
                "Counts the codes of one type, by status, or of the one status asked for.",
                operation_id="count",
                parameters=_query_parameters(schemas["CountQuery"]),
                reply=CountReply,
                problems=("invalidType", "invalidStatus"),
            ),
        },
        "/v1/{campaignId}/codes/{code}": {
            "parameters": [*_campaign_parameters(), {"$ref": "#/components/parameters/code"}],
            "get": _operation(
                "codes",
                "Look one code up",
                "Tells where one code stands. A hold that has ended is not shown: the code is available.",
                operation_id="code",
                reply=CodeReply,
                problems=("notFound",),
            ),
        },
        "/v1/{campaignId}/reserve": {
            "parameters": _campaign_parameters(),
            "get": _operation(
                "life cycle",
                "Reserve codes",
                "Lends exactly `count` codes whenever that many are available, otherwise all that are left. "
                "An empty reservation is a success. A hold ends by itself, after 24 h unless configured "
                "otherwise.",
                operation_id="reserve",
                parameters=_query_parameters(schemas["ReserveRequest"]),
                reply=ReserveReply,
                problems=("invalidType", "invalidCount"),
            ),
            "post": _operation(
                "life cycle",
                "Reserve codes",
                "The same as GET. The parameters are in the query string, or in a body, whose members win.",
                operation_id="reserveByPost",
                parameters=_query_parameters(schemas["ReserveRequest"] | {"required": []}),
                body=ReserveRequest,
                body_required=False,
                reply=ReserveReply,
                problems=("invalidType", "invalidCount"),
            ),
        },
        "/v1/{campaignId}/assign": {
            "parameters": _campaign_parameters(),
            "post": _operation(
                "life cycle",
                "Assign codes",
                "Gives available and reserved codes away for good. Codes that are assigned already stay so, "
                "and are not counted again.",
                operation_id="assign",
                body=CodesRequest,
                reply=ChangeReply,
                problems=("emptyCodes", "invalidCodes"),
            ),
        },
        "/v1/{campaignId}/release": {
            "parameters": _campaign_parameters(),
            "post": _operation(
                "life cycle",
                "Release codes",
                "Makes reserved codes available again; passes over all others.",
                operation_id="release",
                body=CodesRequest,
                reply=ChangeReply,
                problems=("emptyCodes", "invalidCodes"),
            ),
        },
    }


def _upload() -> Json:
    upload = _operation(
        "codes",
        "Load a file of codes",
        "Reads the object from S3 and stores its codes; the reply comes when all of it is stored, or, to a caller "
        "who prefers not to wait, at once. Sending it again is safe: codes that are there already are counted as "
        "updated.",
        operation_id="upload",
        parameters=[{"$ref": "#/components/parameters/Prefer"}],
        body=UploadRequest,
        reply=UploadReply,
        problems=(
            *("invalidFileKey", "campaignMismatch", "fileNotFound", "fileChanged", "uploadCancelled"),
            *("invalidRow", "notCsv", "storageUnavailable", "tooManyUploads"),
        ),
    )
    responses = upload["responses"]
    responses["200"]["headers"] |= _header_references("Location")
    responses["202"] = _success(
        UploadResource,
        "Accepted, for a caller who prefers not to wait.",
        headers=("Location", "Preference-Applied"),
    )
    return upload


def _upload_paths(schemas: Json) -> dict[str, Json]:
    one = [*_campaign_parameters(), {"$ref": "#/components/parameters/uploadId"}]
    return {
        "/v1/{campaignId}/uploads": {
            "parameters": _campaign_parameters(),
            "get": _operation(
                "uploads",
                "List uploads",
                "Tells of a campaign's uploads, the latest first, a page at a time. Those that have ended are kept for "
                "30 days unless configured otherwise.",
                operation_id="uploads",
                parameters=_query_parameters(schemas["UploadsQuery"]),
                reply=UploadsReply,
                problems=("invalidLimit", "invalidAfter"),
            ),
        },
        "/v1/{campaignId}/uploads/{uploadId}": {
            "parameters": one,
            "get": _operation(
                "uploads",
                "Look at one upload",
                "Tells how far an upload has come. `failed` with the error `interrupted`: the process that ran it is "
                "gone; to send the upload again is safe.",
                operation_id="getUpload",
                reply=UploadResource,
                problems=("notFound",),
            ),
            "delete": _cancel(),
        },
        "/v1/{campaignId}/uploads/{uploadId}/events": {"parameters": one, "get": _events()},
        "/v1/{campaignId}/uploads/{uploadId}/invalid": {"parameters": one, "get": _invalid()},
    }


def _cancel() -> Json:
    cancel = _operation(
        "uploads",
        "Cancel an upload",
        "Ends an upload that is queued or runs, after the batches in flight; its counts tell what was stored. One that "
        "has ended stays as it is.",
        operation_id="cancelUpload",
        reply=UploadResource,
        problems=("notFound",),
    )
    cancel["responses"]["202"] = _success(UploadResource, "It has been told to end, and has not yet.")
    return cancel


def _events() -> Json:
    events = _operation(
        "uploads",
        "Follow an upload",
        "Server-sent events: `progress` at least once a second, each with the whole upload, then one `end`, after "
        "which the stream ends. It also ends while the process shuts down: connect again, as `retry` says.",
        operation_id="uploadEvents",
        parameters=[{"$ref": "#/components/parameters/Last-Event-ID"}],
        reply=UploadResource,
        problems=("notFound",),
    )
    events["responses"]["200"]["content"] = {
        "text/event-stream": {
            "schema": {
                "type": "object",
                "description": "One event.",
                "properties": {
                    "event": {"enum": ["progress", "end"]},
                    "id": {"type": "string"},
                    "data": {
                        "type": "string",
                        "contentMediaType": "application/json",
                        "contentSchema": {"$ref": _reference(UploadResource)},
                    },
                    "retry": {"type": "integer", "description": "Milliseconds."},
                },
            }
        }
    }
    events["responses"]["204"] = {
        "description": "The `end` has been received already: do not connect again.",
        "headers": _header_references("X-Correlation-ID", "Cache-Control"),
    }
    return events


def _invalid() -> Json:
    invalid = _operation(
        "uploads",
        "List the invalid rows of an upload",
        "Every row that was not stored, as CSV with a head: the physical line on which it starts, and why. While the "
        "upload runs, those that were met so far.",
        operation_id="invalidRows",
        reply=UploadResource,
        problems=("notFound",),
    )
    invalid["responses"]["200"]["content"] = {"text/csv": {"schema": {"type": "string"}}}
    return invalid


def _operator_paths(*, console: bool) -> dict[str, Json]:
    paths: dict[str, Json] = {}
    for path, summary in (("/heartbeat", "The process answers"), ("/livez", "The process lives")):
        paths[path] = {"get": _public(summary, path, _json_content(StatusReply))}
    ready = _public("The process can serve", "/readyz", _json_content(StatusReply))
    ready["responses"] |= _problem_responses(("databaseUnavailable", "draining"), protected=False)
    paths["/readyz"] = {"get": ready}
    text: Json = {"schema": {"type": "string"}}
    metrics = _public("Metrics in the Prometheus text format", "/metrics", {"text/plain": text})
    metrics["responses"] |= _problem_responses(("metricsUnavailable",), protected=False)
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
    return _public("A token, in development only", "/dev/token", _json_content(TokenReply))


def _operation(
    tag: str,
    summary: str,
    description: str,
    *,
    operation_id: str,
    reply: type[BaseModel],
    problems: Sequence[str],
    parameters: Sequence[Json] = (),
    body: type[BaseModel] | None = None,
    body_required: bool = True,
) -> Json:
    operation: Json = {
        "tags": [tag],
        "summary": summary,
        "description": description,
        "operationId": operation_id,
        "parameters": list(parameters),
    }
    if body is not None:
        operation["requestBody"] = {"required": body_required, "content": _json_content(body)}
        problems = (*problems, *_BODY_PROBLEMS)
    operation["responses"] = {"200": _success(reply, "Done.")} | _problem_responses(
        (*_EVERYWHERE, *problems), protected=True
    )
    return operation


def _success(reply: type[BaseModel], description: str, *, headers: Sequence[str] = ()) -> Json:
    return {
        "description": description,
        "headers": _header_references("X-Correlation-ID", "Cache-Control", *headers),
        "content": _json_content(reply),
    }


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
                "headers": _header_references("X-Correlation-ID"),
                "content": content,
            },
            "default": _problem_response("Any other problem.", (), protected=False),
        },
    }


def _problem_responses(codes: Iterable[str], *, protected: bool) -> Json:
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(PROBLEMS[code].status, []).append(code)
    responses = {
        str(status): _problem_response(
            " Or: ".join(f"{PROBLEMS[code].title} (`{code}`)." for code in group), group, protected=protected
        )
        for status, group in sorted(by_status.items())
    }
    default = "Any other problem: `notFound`, `methodNotAllowed` (with `Allow`), `badRequest`."
    return responses | {"default": _problem_response(default, (), protected=protected)}


def _problem_response(description: str, codes: Sequence[str], *, protected: bool) -> Json:
    headers = ["X-Correlation-ID"]
    if protected:
        headers.append("Cache-Control")
    statuses = {PROBLEMS[code].status for code in codes}
    if 401 in statuses:
        headers.append("WWW-Authenticate")
    if 503 in statuses:
        headers.append("Retry-After")
    schema: Json = {"$ref": _reference(ProblemReply)}
    content: Json = {"schema": schema}
    if codes:
        content["schema"] = {"allOf": [schema], "properties": {"code": {"enum": list(codes)}}}
        content["examples"] = {code: {"value": _example(code)} for code in codes}
    return {
        "description": description,
        "headers": _header_references(*headers),
        "content": {PROBLEM_TYPE: content},
    }


def _example(code: str) -> Json:
    problem = PROBLEMS[code]
    example: Json = {
        "type": TYPE_PREFIX + code,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.title,
        "code": code,
        "correlationId": "0b8f1c9e-6d0c-4f5e-9a55-0d8f3f1f7f10",
    }
    if problem.status == 422:
        example |= {"line": 17, "count": {"in": 16, "inserted": 16, "updated": 0}}
    return example


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
    schemas["ReserveRequest"]["properties"]["count"]["maximum"] = limits.max_reserve
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


def _query_parameters(schema: Json) -> list[Json]:
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "description": member["description"],
            "schema": {key: value for key, value in member.items() if key != "description"},
        }
        for name, member in schema["properties"].items()
    ]


def _campaign_parameters() -> list[Json]:
    names = ("campaignId", "X-Correlation-ID", "traceparent")
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


def _headers() -> Json:
    text = {"type": "string"}
    return {
        "X-Correlation-ID": {"description": "What came in, or what was made.", "schema": text},
        "Cache-Control": {"description": "`no-store`", "schema": text},
        "WWW-Authenticate": {"description": "The challenge of RFC 6750.", "schema": text},
        "Location": {"description": "The address of the upload.", "schema": text},
        "Preference-Applied": {"description": "`respond-async`", "schema": text},
        "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    }


def _header_references(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _json_content(model: type[BaseModel]) -> Json:
    return {"application/json": {"schema": {"$ref": _reference(model)}}}


def _reference(model: type[BaseModel]) -> str:
    return f"#/components/schemas/{model.__name__}"
