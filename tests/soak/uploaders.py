"""Uploaders: new files, old ones again, files that are both, and files that change the type of codes."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any

from api.harness import csv_of, make_codes

from .campaigns import CAMPAIGNS, PLENTY, RETYPED, SCARCE
from .client import Client, Going, Kind
from .ledger import Fault, Ledger

_PAUSE = (0.3, 1.5)
_TOP_UP = 20

Put = Callable[[str, bytes], None]
"""Stores an object; blocks."""


class Uploader:
    def __init__(self, client: Client, ledger: Ledger, chance: random.Random, put: Put) -> None:
        self._client = client
        self._ledger = ledger
        self._chance = chance
        self._put = put
        self._files: list[tuple[str, list[str]]] = []
        self._numbers: Iterator[int] = count()
        self._name = f"{chance.getrandbits(32):08x}"

    async def stock_up(self, going: Going) -> None:
        """Upload what the campaigns begin with."""
        for campaign in CAMPAIGNS:
            for code_type, number in campaign.stock.items():
                codes = make_codes(number)
                if not await self._upload(campaign.name, code_type, codes, going):
                    raise RuntimeError("The stock could not be uploaded")
                if campaign is PLENTY:
                    self._files.append((code_type, codes))

    async def grow(self, going: Going) -> None:
        """Upload files to where there is plenty: new codes, known ones, and both in one file."""
        await self._repeat(self._grow, going)

    async def move(self, going: Going) -> None:
        """Change types to and fro, and replace what the scarce campaign has given away."""
        await self._repeat(self._move, going)

    async def _repeat(self, action: Callable[[Going], Awaitable[None]], going: Going) -> None:
        while going():
            await action(going)
            await asyncio.sleep(self._chance.uniform(*_PAUSE))

    async def _grow(self, going: Going) -> None:
        code_type, known = self._chance.choice(self._files)
        stock = self._ledger.stock(PLENTY.name, code_type)
        fresh = len(stock.stored) - stock.out + stock.returned < PLENTY.stock[code_type]
        codes = make_codes(self._chance.randint(500, 1_500) if fresh else 10)
        codes += self._chance.choice([[], known[:300], known[:2_000]])
        # A code that comes twice is an insert and an update, or two updates.
        codes += codes[:5]
        if await self._upload(PLENTY.name, code_type, codes, going):
            self._files.append((code_type, codes))

    async def _move(self, going: Going) -> None:
        scarce = self._ledger.stock(SCARCE.name, "tm")
        missing = (
            SCARCE.stock["tm"] + SCARCE.earlier + self._ledger.assigned[SCARCE.name] - len(scarce.stored)
        )
        if missing >= _TOP_UP:
            await self._upload(SCARCE.name, "tm", make_codes(missing), going)
        stocks = [self._ledger.stock(RETYPED.name, code_type) for code_type in RETYPED.stock]
        codes = self._chance.sample(sorted(set.union(*(one.stored for one in stocks))), 400)
        await self._upload(RETYPED.name, self._chance.choice(list(RETYPED.stock)), codes, going)

    async def _upload(self, campaign: str, code_type: str, codes: list[str], going: Going) -> bool:
        """Upload a file, and again for as long as it is unknown what was stored; tell whether it was in the end."""
        key = f"codes/{campaign}/{code_type}/{self._name}-{next(self._numbers)}.csv"
        await asyncio.to_thread(self._put, key, csv_of(codes))
        new = {code for code in codes if (campaign, code) not in self._ledger.stored}
        least = len(new)
        while True:
            self._ledger.upload_sent(campaign, code_type, codes)
            told = await self._client.ask(Kind.UPLOAD, f"{campaign}/codes", {"fileKey": key})
            if told.body is not None:
                self._check(told.body, len(codes), least, len(new))
                self._ledger.uploaded(campaign, code_type, codes)
                return True
            self._ledger.upload_unknown(campaign, code_type, codes)
            if not going():
                return False
            # What this try stored, the next one finds.
            least = 0

    def _check(self, body: Any, number: int, least: int, most: int) -> None:
        counts = body["count"]
        right = (
            set(body) == {"count"}
            and counts["in"] == number == counts["inserted"] + counts["updated"]
            and least <= counts["inserted"] <= most
        )
        if not right:
            self._ledger.fault(
                Fault.UPLOAD_WRONG, f"{body} for {number} codes, of which {least} to {most} were new"
            )
