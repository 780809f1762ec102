"""An upload that stands still in its middle, for what is to happen meanwhile."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from .harness import Reply, csv_of, eventually, make_codes
from .proxy import Proxy
from .world import World

CODES: Final = 20_000


class Upload:
    """An upload of 21,000 rows that stands still in its middle, with a part of them stored."""

    def __init__(self, world: World, s3_proxy: Proxy, campaign: str) -> None:
        self.codes = make_codes(CODES)
        rows = [*self.codes, *self.codes[:1000]]
        self.key = world.put(campaign, csv_of(f"{code},{'.' * 25}" for code in rows))
        self.world = world
        self.campaign = campaign
        stalled = s3_proxy.stall_after(400_000)
        self._pool = ThreadPoolExecutor(1)
        self.reply: Future[Reply] = self._pool.submit(world.service.upload, self.key)
        assert stalled.wait(30)
        eventually(lambda: self.stored() > 0, limit=20)

    def stored(self) -> int:
        """The number of codes in MongoDB."""
        return self.world.codes.count_documents({"_id.campaign_id": self.campaign})

    def close(self) -> None:
        """Leave no thread behind."""
        self._pool.shutdown()
