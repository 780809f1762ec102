"""The collection of Idempotency-Keys: who has which, and the replies that are kept under them.

    {_id: {campaignId, key}, operation: "reserve", fingerprint: Binary (SHA-256 of what was asked),
     claim: "<id>",                  whose the key is, and with whose reply it is answered
     generation: 1,                  of claims; rises with each that is taken over
     claimedAt: Date,
     names: ["<id>", …],             what claims did, or may have done, goes by: reservations, uploads
     leaseUntil: Date,               by the server's clock; absent when there is a reply
     status, headers: [[name, value], …], body: Binary, packed: true, pieces: 0,   the reply
     expireAt: Date}                 when it goes

A body of more than 16 KB is packed (zlib, RFC 1950). What does not fit into a document then is in pieces beside it:

    {_id: {campaignId, key, claim, piece: 0}, data: Binary, expireAt}

A claim is one write, which decides by what it finds: nothing, or what has expired (MongoDB deletes that within minutes
only), or a lease that is over. Two who come at once meet in the index of ``_id``. Whatever else is written is on
condition that the claim still stands.
"""

import asyncio
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

import pymongo
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from codesvc.datastore.client import Mongo
from codesvc.datastore.failures import translated
from codesvc.datastore.telemetry import Telemetry
from codesvc.errors import DatabaseRefusedError, DatabaseUnavailableError
from codesvc.models import KeptReply, KeyClaim, KeyedRequest, KeyStanding

# Renewed five times in its length, a lease outlives its process by four fifths of it at least: longer than the server
# goes on with a command, whose time limit is the driver's. So nothing of a process that died is carried out after that.
_LEASE_OF_TIMEOUT: Final = 1.25
_LEASE_MORE: Final = 2.0
_PACKED_FROM: Final = 16 << 10
_PIECE: Final = 4 << 20
# Pieces outlive what names them.
_PIECES_LONGER: Final = 3_600_000
_TRIES: Final = 5


class IdempotencyKeys:
    """Reads and writes the keys.

    Every method raises DatabaseUnavailableError when MongoDB gives no answer within the time limit of the settings,
    and DatabaseRefusedError when it will not do what was asked.

    Arguments:
        kept: how long a reply is kept.

    """

    def __init__(self, mongo: Mongo, telemetry: Telemetry, *, kept: timedelta) -> None:
        self._mongo = mongo
        self._telemetry = telemetry
        self._kept = kept // timedelta(milliseconds=1)
        self._lease = round(1000 * (_LEASE_OF_TIMEOUT * mongo.timeout + _LEASE_MORE))

    @property
    def lease_seconds(self) -> float:
        """How long a claim holds unless it is renewed."""
        return self._lease / 1000

    async def claim(self, asked: KeyedRequest, claim_id: str, name: str) -> KeyClaim | KeyStanding:
        """Claim a key, unless another request has it."""
        with self._operation("claim_key"):
            found = await self._claim(asked, claim_id, name)
            if found["claim"] == claim_id:
                return KeyClaim(asked, claim_id, name, tuple(found["names"][:-1]))
            reply = await self._reply(asked, found) if "status" in found else None
            return KeyStanding(bytes(found["fingerprint"]), reply)

    async def renew(self, claim: KeyClaim) -> bool:
        """Begin the lease anew, if the claim still stands; tell whether it did."""
        with self._operation("renew_key"):
            return await self._change(
                claim, [{"$set": {"leaseUntil": _from_now(self._lease), "expireAt": self._forgotten()}}]
            )

    async def keep(self, claim: KeyClaim, reply: KeptReply) -> bool:
        """Keep the reply, if the claim still stands; tell whether it did."""
        with self._operation("keep_reply"):
            body, packed = reply.body, len(reply.body) > _PACKED_FROM
            if packed:
                body = await asyncio.to_thread(zlib.compress, body, 1)
            pieces = (
                [body[at : at + _PIECE] for at in range(0, len(body), _PIECE)] if len(body) > _PIECE else []
            )
            for number, piece in enumerate(pieces):
                await self._mongo.idempotency_keys.update_one(
                    {"_id": _piece_id(claim.asked, claim.id, number)},
                    [
                        {
                            "$set": {
                                "data": {"$literal": piece},
                                "expireAt": _from_now(self._kept + _PIECES_LONGER),
                            }
                        }
                    ],
                    upsert=True,
                )
            kept = {
                "status": reply.status,
                "headers": [list(pair) for pair in reply.headers],
                "body": b"" if pieces else body,
                "packed": packed,
                "pieces": len(pieces),
            }
            change = {name: {"$literal": value} for name, value in kept.items()}
            change["expireAt"] = _from_now(self._kept)
            return await self._change(claim, [{"$set": change}, {"$unset": ["leaseUntil", "names"]}])

    async def let_go(self, claim: KeyClaim, names: Sequence[str]) -> None:
        """End the claim, so that the next request takes over what goes by ``names``."""
        with self._operation("free_key"):
            # Under a claim that is nobody's: nothing that is still on its way for this one will find it.
            change = {"claim": "", "names": {"$literal": list(names)}, "leaseUntil": "$$NOW"}
            await self._change(claim, [{"$set": change}])

    async def free(self, asked: KeyedRequest, claim_id: str) -> None:
        """End the claim, so that the key is as if it had never been used."""
        with self._operation("free_key"):
            await self._mongo.idempotency_keys.delete_one({"_id": _id(asked), "claim": claim_id})

    @contextmanager
    def _operation(self, name: str) -> Iterator[None]:
        with self._telemetry.datastore_operation(name), translated(), pymongo.timeout(self._mongo.timeout):
            yield

    async def _claim(self, asked: KeyedRequest, claim_id: str, name: str) -> dict[str, Any]:
        same = {"$eq": ["$fingerprint", {"$literal": asked.fingerprint}]}
        under_way = {"$and": [same, {"$eq": [{"$type": "$status"}, "missing"]}]}
        free = {
            "$or": [
                {"$eq": [{"$type": "$expireAt"}, "missing"]},
                {"$lte": ["$expireAt", "$$NOW"]},
                {"$and": [under_way, {"$lte": ["$leaseUntil", "$$NOW"]}]},
            ]
        }
        claimed = {
            "_id": "$_id",
            "operation": {"$literal": asked.operation},
            "fingerprint": {"$literal": asked.fingerprint},
            "claim": {"$literal": claim_id},
            "generation": {"$add": [{"$cond": [under_way, "$generation", 0]}, 1]},
            "claimedAt": "$$NOW",
            "names": {"$concatArrays": [{"$cond": [under_way, "$names", []]}, [{"$literal": name}]]},
            "leaseUntil": _from_now(self._lease),
            "expireAt": self._forgotten(),
        }
        for _ in range(_TRIES):
            try:
                found: dict[str, Any] = await self._mongo.idempotency_keys.find_one_and_update(
                    {"_id": _id(asked)},
                    [{"$replaceWith": {"$cond": [free, claimed, "$$ROOT"]}}],
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
            except DuplicateKeyError:
                continue  # somebody has just claimed it: the next look shows whom
            return found
        raise DatabaseUnavailableError("The key of the request could not be claimed.")

    async def _change(self, claim: KeyClaim, change: list[dict[str, Any]]) -> bool:
        found = await self._mongo.idempotency_keys.update_one(
            {"_id": _id(claim.asked), "claim": claim.id}, change
        )
        return bool(found.matched_count)

    async def _reply(self, asked: KeyedRequest, found: dict[str, Any]) -> KeptReply:
        body = bytes(found["body"])
        if found["pieces"]:
            pieces = []
            for number in range(found["pieces"]):
                piece = await self._mongo.idempotency_keys.find_one(
                    {"_id": _piece_id(asked, found["claim"], number)}
                )
                if piece is None:
                    raise DatabaseRefusedError("A reply that was kept is not complete.")
                pieces.append(bytes(piece["data"]))
            body = b"".join(pieces)
        if found["packed"]:
            body = await asyncio.to_thread(zlib.decompress, body)
        headers = tuple((str(name), str(value)) for name, value in found["headers"])
        return KeptReply(int(found["status"]), headers, body)

    def _forgotten(self) -> dict[str, Any]:
        """Return when a claim that nobody comes back to goes: not while its request may still be under way."""
        return _from_now(self._lease + self._kept)


def _id(asked: KeyedRequest) -> dict[str, Any]:
    return {"campaignId": asked.campaign_id, "key": asked.key}


def _piece_id(asked: KeyedRequest, claim_id: str, number: int) -> dict[str, Any]:
    return {**_id(asked), "claim": claim_id, "piece": number}


def _from_now(milliseconds: int) -> dict[str, Any]:
    return {"$add": ["$$NOW", milliseconds]}
