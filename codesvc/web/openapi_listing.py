"""The listing of codes in the OpenAPI document."""

from codesvc.web.openapi_parts import Json, operation, query_parameters, reference
from codesvc.web.schemas import CodeReply, CodesReply


def codes(schemas: Json) -> Json:
    """Describe how codes are listed, and exported."""
    listed = operation(
        "codes",
        "List codes",
        "A page of a campaign's codes, in the order of their UTF-8 bytes; or, as `text/csv` or `application/x-ndjson` "
        "(`Accept`), all of them in one stream. Where something fails, it is broken off: go on with `after`, the last "
        "code that came. A code that is there all the while, and keeps its type and status, comes once. Where few of "
        "many codes are wanted, a page may be short, or empty, with `next` all the same. The columns of CSV are code, "
        "type, status, reserveId, saved, reserved, assigned; codes are written as they are, also those that a "
        "spreadsheet would take for formulas.",
        operation_id="codes",
        parameters=query_parameters(schemas["CodesQuery"]),
        reply=CodesReply,
        problems=("invalidType", "invalidStatus", "invalidAfter", "invalidLimit", "notAcceptable"),
    )
    listed["responses"]["200"]["content"] |= {
        "text/csv": {"schema": {"type": "string"}},
        "application/x-ndjson": {
            "schema": {
                "type": "string",
                "description": "A line for each code.",
                "contentMediaType": "application/json",
                "contentSchema": {"$ref": reference(CodeReply)},
            }
        },
    }
    return listed
