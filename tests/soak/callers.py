"""A caller: reserves, keeps codes for a while, and gives them away or back; counts now and then."""

import asyncio
import random
import time
import uuid
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from .campaigns import CAMPAIGNS, Campaign
from .client import SLOW_SECONDS, Client, Going, Kind, Told
from .ledger import Fault, Ledger

_PAUSE = (0.05, 0.4)
_MOST_HELD = 3


@dataclass(frozen=True, slots=True)
class Holding:
    """Codes that a caller has been told are its own, until ``safe_until``."""

    campaign: Campaign
    code_type: str
    reserve_id: str
    codes: list[str]
    safe_until: float
    whole: bool = True
    """Nothing has been given away or back of it yet; of that, perhaps nobody has told what came of it."""

    def body(self, codes: list[str], chance: random.Random) -> dict[str, Any]:
        """Name the codes, or the reservation where it is all that it still holds."""
        if self.whole and len(codes) == len(self.codes) and chance.random() < 0.4:
            return {"reserveId": self.reserve_id}
        return {"codes": codes}


class Caller:
    """Arguments:
    still: for how many seconds a request may stand still besides, with the process that serves it.
    """

    def __init__(self, client: Client, ledger: Ledger, chance: random.Random, *, still: float) -> None:
        self._still = still
        self._client = client
        self._ledger = ledger
        self._chance = chance
        self._holdings: list[Holding] = []

    async def run(self, going: Going) -> None:
        while going():
            await self._act()
            await asyncio.sleep(self._chance.uniform(*_PAUSE))

    async def _act(self) -> None:
        chance = self._chance.random()
        if chance < 0.2:
            await self._count()
        elif self._holdings and (chance < 0.6 or len(self._holdings) == _MOST_HELD):
            await self._finish(self._holdings.pop(self._chance.randrange(len(self._holdings))))
        else:
            await self._reserve()

    async def _reserve(self) -> None:
        campaign = self._campaign()
        code_type = self._chance.choice(list(campaign.stock))
        count = self._chance.randint(1, 20)
        if self._chance.random() < 0.04:
            count = self._chance.randint(21, campaign.largest)
        least = self._chance.choice([0, 0, 0, count, max(1, count // 2)])
        asked = self._ledger.reserve_sent(campaign.name, code_type, count, time.monotonic())
        told = await self._ask_for(f"{campaign.name}/reserve?count={count}&type={code_type}", least)
        if told.refused == "notEnoughCodes":
            self._ledger.refused(asked, least, moving=campaign.moving)
            return
        if told.body is None:
            self._ledger.reserve_unknown(asked)
            return
        if len(told.body["codes"]) < least:
            self._ledger.fault(Fault.MISFIT, f"fewer than {least}: {told.body}")
        reserve_id, items = told.body["reserveId"], told.body["codes"]
        self._check_reservation(told.body, count, code_type)
        dates = {one["code"]: datetime.fromisoformat(one["date"]["reserved"]) for one in items}
        self._ledger.reserved(asked, reserve_id, dates, told.ended, moving=campaign.moving)
        if dates:
            # What takes until the end of the hold might meet the codes in another's hands.
            safe_until = asked.at + self._ledger.ttl.total_seconds() - SLOW_SECONDS - self._still
            self._holdings.append(Holding(campaign, code_type, reserve_id, list(dates), safe_until))

    async def _ask_for(self, path: str, least: int) -> Told:
        """Ask for codes; half of the callers under a key, and again while nobody tells what came of it."""
        path += f"&min={least}" if least else ""
        if self._chance.random() < 0.5:
            return await self._client.ask(Kind.RESERVE, path)
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        until = time.monotonic() + SLOW_SECONDS / 2
        while True:
            told = await self._client.ask(Kind.RESERVE, path, headers=headers)
            if told.body is not None or told.refused == "notEnoughCodes" or time.monotonic() > until:
                return told

    def _check_reservation(self, body: Any, count: int, code_type: str) -> None:
        codes = [one["code"] for one in body["codes"]]
        if len(set(codes)) < len(codes):
            self._ledger.fault(Fault.LENT_TWICE, f"in one reply: {sorted(codes)}")
        fits = (
            body["count"] == len(codes) <= count
            and {one["type"] for one in body["codes"]} <= {code_type}
            and {one["reserveId"] for one in body["codes"]} <= {body["reserveId"]}
            and all(set(one["date"]) == {"saved", "reserved"} for one in body["codes"])
        )
        if not fits:
            self._ledger.fault(Fault.MISFIT, f"{count} of {code_type}: {body}")

    async def _finish(self, holding: Holding) -> None:
        """Give a part of the codes or all of them away or back; some are forgotten, and their hold expires."""
        chance = self._chance.random()
        if chance < 0.02:
            return
        some = self._chance.randint(1, len(holding.codes)) if chance < 0.2 else len(holding.codes)
        codes = holding.codes[:some]
        if some < len(holding.codes):
            self._holdings.append(replace(holding, codes=holding.codes[some:], whole=False))
        if self._chance.random() < holding.campaign.assigned:
            await self._assign(holding, codes)
        else:
            await self._release(holding, codes)

    async def _assign(self, holding: Holding, codes: list[str]) -> None:
        """Assign, and send it again while it is unknown whether it was done."""
        holds = [self._ledger.hold(holding.campaign.name, code, holding.reserve_id) for code in codes]
        first, body = True, holding.body(codes, self._chance)
        while time.monotonic() < holding.safe_until:
            if first:
                for hold in holds:
                    hold.assign_sent = time.monotonic()
            told = await self._client.ask(Kind.ASSIGN, f"{holding.campaign.name}/assign", body)
            if told.body is not None:
                if first or "codes" in body:
                    self._check_change(told, len(codes), least=len(codes) if first else 0)
                self._ledger.assigned[holding.campaign.name] += len(codes)
                for hold in holds:
                    hold.assigned = told.ended
                return
            first = False

    async def _release(self, holding: Holding, codes: list[str]) -> None:
        """Release once: sent again, it might end the hold of another, who was lent the codes meanwhile."""
        if time.monotonic() > holding.safe_until:
            return
        name = holding.campaign.name
        holds = [self._ledger.hold(name, code, holding.reserve_id) for code in codes]
        for hold in holds:
            hold.release_sent = time.monotonic()
        told = await self._client.ask(Kind.RELEASE, f"{name}/release", holding.body(codes, self._chance))
        if told.body is not None:
            self._check_change(told, len(codes), least=len(codes))
            self._ledger.released(name, holding.code_type, len(codes))
            for hold in holds:
                hold.released = True

    def _check_change(self, told: Told, count: int, *, least: int) -> None:
        counts = told.body["count"]
        if counts["in"] != count or not least <= counts["updated"] <= count:
            self._ledger.fault(Fault.CHANGE_WRONG, f"{counts} for {count} codes, all of them held")

    async def _count(self) -> None:
        campaign = self._campaign()
        code_type = self._chance.choice(list(campaign.stock))
        path = f"{campaign.name}/codes/count?type={code_type}"
        stock = self._ledger.stock(campaign.name, code_type)
        stored = len(stock.stored)
        one_status = self._chance.random() < 0.3
        told = await self._client.ask(Kind.COUNT, f"{path}&status=available" if one_status else path)
        if told.body is None or campaign.moving:
            return
        # The three are of one instant: whatever moves meanwhile, none is missing and none is counted twice.
        least, most = 0 if one_status else stored, len(stock.sent)
        if not least <= sum(told.body.values()) <= most:
            expected = f"{least} to {most} in all"
            self._ledger.fault(Fault.COUNT_WRONG, f"{campaign.name}/{code_type}: {told.body}, not {expected}")

    def _campaign(self) -> Campaign:
        return self._chance.choices(CAMPAIGNS, [one.weight for one in CAMPAIGNS])[0]
