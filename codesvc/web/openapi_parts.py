"""What the OpenAPI document is put together from."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from pydantic import BaseModel

from codesvc.web.problems import PROBLEM_TYPE, PROBLEMS, TYPE_PREFIX
from codesvc.web.schemas import ProblemReply

Json = dict[str, Any]

_BODY_PROBLEMS: Final = ("invalidJson", "requestTimeout", "payloadTooLarge", "unsupportedMediaType")
_KEY_PROBLEMS: Final = ("invalidIdempotencyKey", "idempotencyKeyInUse", "idempotencyKeyReused")
KEY_HEADERS: Final = ("Idempotency-Key", "Idempotency-Replayed")
"""Of replies to a request with an Idempotency-Key."""
_EVERYWHERE: Final = (
    *("invalidCampaignId", "unauthorized", "supremeUserRequired"),
    *("internalError", "databaseUnavailable", "keysUnavailable", "overloaded", "draining"),
)


def operation(
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
    keyed: bool = False,
) -> Json:
    """Describe one operation: its parameters, its body, its reply, and every problem that it may be.

    ``keyed`` says whether it honours Idempotency-Key.
    """
    headers: Sequence[str] = ()
    if keyed:
        parameters = (*parameters, {"$ref": "#/components/parameters/Idempotency-Key"})
        headers = KEY_HEADERS
        problems = (*problems, *_KEY_PROBLEMS)
    operation: Json = {
        "tags": [tag],
        "summary": summary,
        "description": description,
        "operationId": operation_id,
        "parameters": list(parameters),
    }
    if body is not None:
        operation["requestBody"] = {"required": body_required, "content": json_content(body)}
        problems = (*problems, *_BODY_PROBLEMS)
    operation["responses"] = {"200": success(reply, "Done.", headers=headers)} | problem_responses(
        (*_EVERYWHERE, *problems), protected=True
    )
    return operation


def success(reply: type[BaseModel], description: str, *, headers: Sequence[str] = ()) -> Json:
    """Describe a reply that is no problem."""
    return {
        "description": description,
        "headers": header_references("X-Correlation-ID", "Cache-Control", *headers),
        "content": json_content(reply),
    }


def problem_responses(codes: Iterable[str], *, protected: bool) -> Json:
    """Describe problems, by their status."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(PROBLEMS[code].status, []).append(code)
    responses = {
        str(status): problem_response(
            " Or: ".join(f"{PROBLEMS[code].title} (`{code}`)." for code in group), group, protected=protected
        )
        for status, group in sorted(by_status.items())
    }
    default = "Any other problem: `notFound`, `methodNotAllowed` (with `Allow`), `badRequest`."
    return responses | {"default": problem_response(default, (), protected=protected)}


def problem_response(description: str, codes: Sequence[str], *, protected: bool) -> Json:
    """Describe problems of one status."""
    headers = ["X-Correlation-ID"]
    if protected:
        headers.append("Cache-Control")
    statuses = {PROBLEMS[code].status for code in codes}
    if 401 in statuses:
        headers.append("WWW-Authenticate")
    if codes and all(PROBLEMS[code].retry_after is not None for code in codes):
        headers.append("Retry-After")
    schema: Json = {"$ref": reference(ProblemReply)}
    content: Json = {"schema": schema}
    if codes:
        content["schema"] = {"allOf": [schema], "properties": {"code": {"enum": list(codes)}}}
        content["examples"] = {code: {"value": _example(code)} for code in codes}
    return {
        "description": description,
        "headers": header_references(*headers),
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
    if problem.status == 422 and code not in _KEY_PROBLEMS:
        example |= {"line": 17, "count": {"in": 16, "inserted": 16, "updated": 0}}
    return example


def query_parameters(schema: Json) -> list[Json]:
    """Describe the members of a schema as parameters of a query."""
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


def campaign_parameters() -> list[Json]:
    """Name the parameters of every path of a campaign."""
    names = ("campaignId", "X-Correlation-ID", "traceparent")
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


def header_references(*names: str) -> Json:
    """Name headers of replies."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def json_content(model: type[BaseModel]) -> Json:
    """Describe a body that is JSON."""
    return {"application/json": {"schema": {"$ref": reference(model)}}}


def reference(model: type[BaseModel]) -> str:
    """Name the schema of a model."""
    return f"#/components/schemas/{model.__name__}"
