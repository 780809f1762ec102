"""Uploads that are long enough for their process to die in the middle; each is followed to its end, and counted."""

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from api.harness import csv_of, make_codes
from pymongo.errors import PyMongoError

from .client import Client, Going, Kind
from .fleet import Fleet
from .ledger import Fault, Ledger

_T = TypeVar("_T")

_NEW = 12_000
_KNOWN = 4_000
_TWICE = 300
_LOOK_SECONDS = 0.5
_UNAVAILABLE = frozenset({"databaseUnavailable", "storageUnavailable"})
# A lease, a failover in the middle of it, and the rest of the file on a busy machine; several deaths in a row.
_PATIENCE = 300.0


class LongUploads:
    """One after the other, each in a campaign of its own, which is checked and emptied when it has ended.

    Attributes:
        ended: uploads that came to their end.
        taken_over: how often one of them had another owner than before.

    """

    def __init__(self, client: Client, ledger: Ledger, chance: random.Random, fleet: Fleet) -> None:
        self.ended = 0
        self.taken_over = 0
        self._client = client
        self._ledger = ledger
        self._chance = chance
        self._fleet = fleet
        self._trying_again = False

    async def run(self, going: Going) -> None:
        number = 0
        while going():
            campaign = f"long-{number}"
            number += 1
            codes = make_codes(_NEW)
            if await self._upload(campaign, "first", codes, set()) and going():
                known = set(codes)
                more = [*make_codes(_NEW - _KNOWN), *self._chance.sample(codes, _KNOWN)]
                self._chance.shuffle(more)
                await self._upload(campaign, "second", more, known)
            await asyncio.to_thread(patiently, lambda campaign=campaign: self._empty(campaign))

    async def _upload(self, campaign: str, name: str, codes: list[str], known: set[str]) -> bool:
        """Upload a file, and compare what the resource and the documents say in the end; tell whether it went well."""
        key = f"codes/{campaign}/tm/{name}.csv"
        lines = [*codes, *codes[:_TWICE]]
        await asyncio.to_thread(self._fleet.put, key, csv_of(f"{code},{'.' * 40}" for code in lines))
        while True:
            before = known if not self._trying_again else await self._look(campaign)
            upload = await self._follow(campaign, await self._begin(campaign, key))
            if upload is not None and (upload["error"] or {}).get("code") in _UNAVAILABLE:
                # Allowed, if MongoDB was away for long; then the second try has to be exact.
                self._trying_again = True
                continue
            break
        self._trying_again = False
        if upload is None or upload["state"] != "succeeded":
            self._ledger.fault(Fault.UPLOAD_LOST, f"{key}: {upload}")
            return False
        missing = len(set(codes) - before)
        expected = {"in": len(lines), "inserted": missing, "updated": len(lines) - missing}
        if upload["count"] != expected:
            self._ledger.fault(Fault.UPLOAD_WRONG, f"{key}: {upload}, not {expected}")
        stored = await self._look(campaign)
        if stored != known | set(codes):
            self._ledger.fault(
                Fault.UPLOAD_WRONG, f"{key}: {len(stored)} codes are stored, not {len(known | set(codes))}"
            )
        self.ended += 1
        return True

    async def _begin(self, campaign: str, key: str) -> str:
        """Begin it, under a key until somebody tells that it has begun: it must not begin twice."""
        headers = {"Prefer": "respond-async", "Idempotency-Key": uuid.uuid4().hex}
        while True:
            told = await self._client.ask(Kind.UPLOAD, f"{campaign}/codes", {"fileKey": key}, headers)
            if told.body is not None:
                return str(told.body["uploadId"])

    async def _follow(self, campaign: str, upload_id: str) -> Any:
        """Return the resource once it has ended, or None if it has not in a long time; it goes on after the callers."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            told = await self._client.ask(Kind.LOOK, f"{campaign}/uploads/{upload_id}")
            if told.body is not None and told.body["finishedAt"] is not None:
                record = await asyncio.to_thread(
                    patiently, lambda: self._fleet.uploads.find_one({"_id": upload_id})
                )
                self.taken_over += (record or {}).get("generation", 0)
                return told.body
            await asyncio.sleep(_LOOK_SECONDS)
        return None

    async def _look(self, campaign: str) -> set[str]:
        return await asyncio.to_thread(patiently, lambda: self._stored(campaign))

    def _stored(self, campaign: str) -> set[str]:
        found = self._fleet.documents.find({"_id.campaign_id": campaign}, {"_id.code": 1})
        return {one["_id"]["code"] for one in found}

    def _empty(self, campaign: str) -> None:
        self._fleet.documents.delete_many({"_id.campaign_id": campaign})


def patiently(action: Callable[[], _T]) -> _T:
    """Do it, and again while MongoDB has no primary."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return action()
        except PyMongoError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_SECONDS)
