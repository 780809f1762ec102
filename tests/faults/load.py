"""Callers and uploads for the time that something goes wrong, and the account of what they were told."""

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from api.harness import Reply, Service, csv_of, eventually, make_codes, new_campaign
from api.world import World

STOCK = 3_000
FILE = 20_000


class Load:
    """Callers who reserve and assign, and count, at both services, for the time of a block; and one upload to each."""

    def __init__(self, worlds: Sequence[World], campaign: str) -> None:
        self.worlds = worlds
        self.campaign = campaign
        self.lent: dict[str, list[str]] = {}
        self.unknown = 0
        self.assigned: set[str] = set()
        self.totals: set[int] = set()
        self.done: list[int] = [0 for _ in worlds]
        self.wrong: list[Reply] = []
        self.files = [make_codes(FILE) for _ in worlds]
        self.uploads: list[Future[Reply]] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(12)
        self._callers: list[Future[None]] = []

    def __enter__(self) -> Self:
        for number, world in enumerate(self.worlds):
            key = world.put(f"{self.campaign}-{number}", csv_of(self.files[number]))
            self.uploads.append(self._pool.submit(world.service.upload, key, timeout=90.0))
            self._callers += [
                self._pool.submit(self._call, number, world.service, caller) for caller in range(3)
            ]
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()

    def check(self) -> None:
        """Compare what callers were told with what there is."""
        for caller in self._callers:
            caller.result()
        assert not self.wrong, self.wrong[:3]
        documents = self.worlds[0].documents(self.campaign)
        assert len(documents) == STOCK
        told = [code for codes in self.lent.values() for code in codes]
        assert len(told) == len(set(told)), "a code was lent twice"
        for reserve_id, codes in self.lent.items():
            assert {documents[code].get("reserveId") for code in codes} == {reserve_id}, "a hold is lost"
        assert all("assigned" in documents[code]["date"] for code in self.assigned), "an assign is lost"
        held = {code for code, one in documents.items() if "reserveId" in one}
        assert len(held) - len(told) <= 5 * self.unknown
        assert self.totals == {STOCK}, "codes were counted twice, or not at all"
        assigned = sum("assigned" in one["date"] for one in documents.values())
        counts = {"available": STOCK - len(held), "reserved": len(held) - assigned, "assigned": assigned}
        for world in self.worlds:
            assert world.service.count(self.campaign) == counts

    def check_uploads(self) -> None:
        """An upload has exact counts, or none and then its second try has."""
        for number, world in enumerate(self.worlds):
            reply = self.uploads[number].result()
            campaign = f"{self.campaign}-{number}"
            before = 0
            if reply.status != 200:
                assert reply.status == 503, reply
                before = len(world.stored(campaign))
                key = world.put(campaign, csv_of(self.files[number]))
                reply = eventually(lambda: _if_done(world.service, key), limit=60, every=0.5)  # noqa: B023
            inserted = reply.json()["count"]["inserted"]
            assert reply.json()["count"] == {"in": FILE, "inserted": inserted, "updated": FILE - inserted}
            assert inserted == FILE - before
            assert world.stored(campaign) == set(self.files[number])

    def _call(self, number: int, service: Service, caller: int) -> None:
        while not self._over.is_set():
            if caller == 0:
                self._count(number, service)
            else:
                self._reserve(number, service)
            time.sleep(random.uniform(0.01, 0.05))

    def _count(self, number: int, service: Service) -> None:
        reply = self._ask(number, lambda: service.get(f"/v1/{self.campaign}/codes/count?type=tm"))
        if reply is not None:
            self.totals.add(sum(reply.json().values()))

    def _reserve(self, number: int, service: Service) -> None:
        reply = self._ask(number, lambda: service.post(f"/v1/{self.campaign}/reserve?type=tm&count=5"))
        if reply is None:
            with self._lock:
                self.unknown += 1
            return
        codes = [one["code"] for one in reply.json()["codes"]]
        if not codes:
            return
        with self._lock:
            self.lent[reply.json()["reserveId"]] = codes
        if random.random() < 0.5:
            done = self._ask(number, lambda: service.post(f"/v1/{self.campaign}/assign", {"codes": codes}))
            if done is not None:
                with self._lock:
                    self.assigned.update(codes)

    def _ask(self, number: int, call: Any) -> Reply | None:
        reply: Reply = call()
        with self._lock:
            if reply.status == 200:
                self.done[number] += 1
                return reply
            if reply.status != 503:
                self.wrong.append(reply)
        return None


def _if_done(service: Service, key: str) -> Reply | None:
    reply = service.upload(key)
    return reply if reply.status == 200 else None


def stocked(worlds: Sequence[World]) -> str:
    campaign = new_campaign()
    worlds[0].stock(campaign, make_codes(STOCK))
    return campaign
