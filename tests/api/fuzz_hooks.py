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
    """Of reserves, pass over those that the document cannot judge.

    A minimum may be so much as the count, which no schema can say. By POST, what is in the body wins, so that nobody
    looks at what is wrong in the query; and what is missing in both is wrong, though it may be missing in either.
    """
    if not case.operation.path.endswith("/reserve"):
        return True
    if _is_wrong(case):
        return case.method != "POST" or not case.query
    sent = {**case.query, **(case.body if isinstance(case.body, dict) else {})}
    return {"type", "count"} <= sent.keys() and int(sent.get("min", 0)) <= int(sent["count"])


def _is_wrong(case: AnyCase) -> bool:
    return case.meta is not None and case.meta.generation.mode is GenerationMode.NEGATIVE
