"""The statements that hold codes for orders, read back what is held, and give it back."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from pymongo.errors import OperationFailure, WriteConcernError

from codesvc.datastore.candidates import Candidate, Candidates, EndedHold
from codesvc.datastore.client import COLLECTION, AsyncSession, Mongo
from codesvc.datastore.orders import Order, Request, Share
from codesvc.models import CodeType

_CODES_PER_STATEMENT: Final = 1_000
# A statement takes 450 KB at the most (codes of 256 bytes in a campaign of 128), a command 16 MB.
_STATEMENTS_PER_COMMAND: Final = 32
# What is chosen by _id is found by it: codes_by_reservation would have the server pass over all else of a reservation.
_BY_ID: Final = {"_id": 1}

RELEASED: Final = {"$unset": {"date.reserved": "", "date.held": "", "reserveId": ""}}
"""What takes a hold off."""


class Holds:
    """Holds codes of one campaign and type, each on condition that it is still available.

    Raises what the driver raises; WriteConcernError where something was written that a failover may undo.
    """

    def __init__(self, mongo: Mongo, candidates: Candidates, campaign_id: str, code_type: CodeType) -> None:
        self._mongo = mongo
        self._never_held = candidates.never_held
        self._campaign_id = campaign_id
        self._type = code_type

    async def hold(self, shares: Sequence[Share], session: AsyncSession | None = None) -> int:
        """Hold what is still available, each for its order; return how many codes are held by that."""
        statements = (
            statement
            for share in shares
            for statement in self._statements(share.order.request, share.candidates)
        )
        return await self._run(statements, session)

    async def read_back(self, shares: Sequence[Share]) -> set[str]:
        """Tell which of the codes are held for one of the orders."""
        ours = {"reserveId": {"$in": [share.order.request.reserve_id for share in shares]}}
        found: set[str] = set()
        for chosen in self._chosen([one for share in shares for one in share.candidates]):
            cursor = self._mongo.codes.find(chosen | ours, {"_id": 1}, hint=_BY_ID)
            found.update([one["_id"]["code"] for one in await cursor.to_list(_CODES_PER_STATEMENT)])
        return found

    async def give_back(self, order: Order) -> None:
        """Take the hold off all that is held for an order: each code is as it was before.

        An ended hold is put back, since a request that came earlier, and dates its hold by that, must not have the code
        before the end of it.
        """
        by_hold: dict[EndedHold | None, list[Candidate]] = {}
        for one in order.held:
            by_hold.setdefault(one.ended, []).append(one)
        mine = {"reserveId": order.request.reserve_id, "date.assigned": None}
        await self._run(
            {"q": chosen | mine, "u": _put_back(ended), "multi": True, "hint": _BY_ID}
            for ended, candidates in by_hold.items()
            for chosen in self._chosen(candidates)
        )
        order.held = []

    def _statements(self, request: Request, candidates: Sequence[Candidate]) -> Iterator[dict[str, Any]]:
        fields: dict[str, Any] = {
            "reserveId": request.reserve_id,
            "date.reserved": request.now - request.shortened,
        }
        change: dict[str, Any] = {"$set": fields}
        anew = {"$set": fields, "$unset": {"date.held": ""}}
        if request.shortened:
            fields["date.held"] = request.now
            anew = change
        still = {
            "type": self._type.value,
            "date.assigned": None,
            "date.reserved": {"$not": {"$gt": request.cut_off}},
        }
        fresh = [one.code for one in candidates if one.ended is None]
        for start in range(0, len(fresh), _CODES_PER_STATEMENT):
            # By the index that the change goes through in any case: so nothing is fetched of what others have taken.
            codes = {"_id.code": {"$in": fresh[start : start + _CODES_PER_STATEMENT]}}
            yield {"q": self._never_held | codes, "u": change, "multi": True}
        for chosen in self._chosen([one for one in candidates if one.ended is not None]):
            yield {"q": chosen | still, "u": anew, "multi": True}

    def _chosen(self, candidates: Sequence[Candidate]) -> Iterator[dict[str, Any]]:
        return chosen(self._campaign_id, [one.code for one in candidates])

    async def _run(self, statements: Iterable[dict[str, Any]], session: AsyncSession | None = None) -> int:
        """Run any number of update statements; return how many documents they changed."""
        changed = 0
        left = iter(statements)
        while some := list(islice(left, _STATEMENTS_PER_COMMAND)):
            changed += await self._update(some, session)
        return changed

    async def _update(self, statements: Sequence[dict[str, Any]], session: AsyncSession | None = None) -> int:
        """Run update statements; return how many documents they changed."""
        command: dict[str, Any] = {"update": COLLECTION, "updates": list(statements), "ordered": False}
        if session is None:
            command["writeConcern"] = self._mongo.write_concern.document
        reply = await self._mongo.database.command(command, session=session)
        if (unmet := reply.get("writeConcernError")) is not None:
            raise WriteConcernError("", unmet.get("code"), unmet)
        if failed := reply.get("writeErrors"):
            raise OperationFailure("", failed[0].get("code"), failed[0])
        return int(reply["nModified"])


def _put_back(ended: EndedHold | None) -> dict[str, Any]:
    if ended is None:
        return RELEASED
    fields = {"date.reserved": ended.reserved, "date.held": ended.held, "reserveId": ended.reserve_id}
    change = {"$set": {name: value for name, value in fields.items() if value is not None}}
    absent = {name: "" for name, value in fields.items() if value is None}
    return change | ({"$unset": absent} if absent else {})


def chosen(campaign_id: str, codes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield queries that together select the codes, each small enough for one statement."""
    for start in range(0, len(codes), _CODES_PER_STATEMENT):
        some = codes[start : start + _CODES_PER_STATEMENT]
        yield {"_id": {"$in": [{"campaign_id": campaign_id, "code": code} for code in some]}}
