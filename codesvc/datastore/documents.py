"""Documents of the collection of codes, read as the domain's values."""

from datetime import datetime
from typing import Any

from codesvc.models import Code, CodeType, Status


def began(date: dict[str, Any]) -> datetime | None:
    """Tell when a code was reserved, of the dates of its document; None if it was not.

    A hold that is shorter than others is stored as one that began earlier, with its true beginning beside that. (What
    a process of an earlier version has left there of an ended hold is earlier still.)
    """
    reserved: datetime | None = date.get("reserved")
    return reserved if reserved is None else max(reserved, date.get("held", reserved))


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
        reserved=None if reserved is None else began(date),
        assigned=assigned,
        reckoned=reserved,
    )
