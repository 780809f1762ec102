"""Documents of the collection of codes, read as the domain's values."""

from datetime import datetime
from typing import Any

from codesvc.models import Code, CodeType, Status


def read_code(document: dict[str, Any], cut_off: datetime) -> Code:
    """Read a document; a hold that has ended is none, but an assigned code keeps the one that it was assigned with."""
    date = document["date"]
    reserved, assigned = date.get("reserved"), date.get("assigned")
    if assigned is not None:
        status = Status.ASSIGNED
    elif reserved is not None and reserved > cut_off:
        status = Status.RESERVED
    else:
        status = Status.AVAILABLE
        reserved = None
    return Code(
        code=document["_id"]["code"],
        type=CodeType(document["type"]),
        status=status,
        saved=date["saved"],
        reserve_id=None if reserved is None else document.get("reserveId"),
        reserved=reserved,
        assigned=assigned,
    )
