"""How the calls of the client are put together."""

import uuid
from typing import Any
from urllib.parse import quote

from codesvc.client.retries import Kind
from codesvc.client.transport import Call


def make_call(
    method: str,
    campaign_id: str,
    *parts: str,
    kind: Kind,
    correlation_id: str | None,
    **members: Any,
) -> Call:
    """Make a call below a campaign; every POST has an Idempotency-Key of its own."""
    if correlation_id is not None:
        members["correlation_id"] = correlation_id
    if method == "POST":
        members["key"] = str(uuid.uuid4())
    return Call(method, path_of(campaign_id, *parts), kind, **members)


def path_of(campaign_id: str, *parts: str) -> str:
    """Return the path of something below a campaign, percent-encoded."""
    return "/v1/" + "/".join(quote(part, safe="") for part in (campaign_id, *parts))
