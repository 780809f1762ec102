"""What schemathesis cannot know from the document; it imports this file by itself (see schemathesis.toml)."""

from typing import Any

import schemathesis
from schemathesis import Case, GenerationMode, HookContext

AnyCase = Case[Any]


@schemathesis.hook
def map_case(context: HookContext, case: AnyCase) -> AnyCase:
    """Let a file's key and the path name one campaign, which no schema can ask for."""
    if not _is_wrong(case) and isinstance(case.body, dict) and "fileKey" in case.body:
        case.path_parameters["campaignId"] = str(case.body["fileKey"]).split("/")[1]
    return case


@schemathesis.hook
def filter_case(context: HookContext, case: AnyCase) -> bool:
    """Of reserves by POST, pass over those that the document cannot judge.

    What is in the body wins, so that nobody looks at what is wrong in the query; and what is missing in both is wrong,
    though it may be missing in either.
    """
    if case.method != "POST" or not case.operation.path.endswith("/reserve"):
        return True
    if _is_wrong(case):
        return not case.query
    body = case.body if isinstance(case.body, dict) else {}
    return {"type", "count"} <= {*case.query, *body}


def _is_wrong(case: AnyCase) -> bool:
    return case.meta is not None and case.meta.generation.mode is GenerationMode.NEGATIVE
