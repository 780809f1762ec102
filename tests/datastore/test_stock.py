"""The sample of the whole stock: what it shows, whose turn it is, and what it costs."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

from codesvc.datastore.stock import Sampling, Stock
from codesvc.models import CodeType

from .rig import CAMPAIGN, TTL, Commands, Documents, Rig, Rigs, document, numbered
from .shown import shown

SAMPLE_NAMES = (
    "inventory_codes",
    "inventory_campaigns",
    "inventory_lowest_available_codes",
    "inventory_sampled_timestamp_seconds",
)


def stock_of(rig: Rig, *, lowest: int = 20, interval: float = 3600.0) -> Stock:
    # An interval so long that nothing a test does is beyond its share of it.
    return rig.store.stock(rig.telemetry.stock, Sampling(interval, lowest, TTL), rig.clock)


def codes(rig: Rig) -> dict[str, float]:
    """The sums that are not 0."""
    # Labels in the order of their names: status, type.
    series = shown(rig, "inventory_codes")
    return {f"{kind} {status}": value for (status, kind), value in series.items() if value}


def lowest(rig: Rig) -> dict[tuple[str, ...], float]:
    return shown(rig, "inventory_lowest_available_codes")


async def test_sums_and_the_lowest(rig: Rig) -> None:
    stock = stock_of(rig)
    assert await stock.round()
    assert shown(rig, "inventory_campaigns") == {(): 0}
    assert len(shown(rig, "inventory_codes")) == 6, "every series is there from the start"
    assert codes(rig) == {}
    await rig.upload(numbered(10), campaign_id="a")
    await rig.upload(numbered(30), campaign_id="b")
    await rig.upload(numbered(20), campaign_id="b-2", code_type=CodeType.EXTERNAL)
    held = await rig.reserve(7, campaign_id="a")
    await rig.inventory.assign("a", held[:2])
    before = time.time()
    assert await stock.round()
    assert codes(rig) == {
        "tm available": 33,
        "tm reserved": 5,
        "tm assigned": 2,
        "external available": 20,
    }
    assert shown(rig, "inventory_campaigns") == {(): 3}
    assert lowest(rig) == {("a", "tm"): 3, ("b-2", "external"): 20, ("b", "tm"): 30}
    [sampled] = shown(rig, "inventory_sampled_timestamp_seconds").values()
    assert before - 0.01 <= sampled <= time.time()


async def test_the_list_of_the_lowest_is_bounded(rig: Rig) -> None:
    for number in range(1, 7):
        await rig.upload(numbered(number), campaign_id=f"c-{number}")
        await rig.upload(
            numbered(number, prefix="E-"), campaign_id=f"c-{number}", code_type=CodeType.EXTERNAL
        )
    assert await stock_of(rig, lowest=3).round()
    assert lowest(rig) == {("c-1", "tm"): 1, ("c-1", "external"): 1, ("c-2", "external"): 2}
    assert codes(rig) == {"tm available": 21, "external available": 21}
    assert await stock_of(rig, lowest=0).round()
    assert lowest(rig) == {}
    assert codes(rig) == {"tm available": 21, "external available": 21}


async def test_a_campaign_that_is_empty_is_listed_while_it_is_in_use(rig: Rig, campaigns: Documents) -> None:
    stock = stock_of(rig)
    await rig.upload(numbered(3), campaign_id="ended")
    await rig.upload(numbered(5), campaign_id="in-use")
    await rig.reserve(3, campaign_id="ended")
    await stock.round()
    assert lowest(rig) == {("ended", "tm"): 0, ("in-use", "tm"): 5}
    long_ago = datetime.now(UTC) - timedelta(days=4)
    campaigns.update_one({"_id": "ended"}, {"$set": {"touched": long_ago}})
    await stock.round()
    assert lowest(rig) == {("in-use", "tm"): 5}
    assert codes(rig) == {"tm available": 5, "tm reserved": 3}, "it is in the sums all the same"


async def test_only_what_changed_is_counted(rigs: Rigs, driver: str) -> None:
    commands = Commands()
    rig = await rigs(mongo_driver=driver, listeners=[commands])
    for number in range(4):
        await rig.upload(numbered(10), campaign_id=f"c-{number}")
    await rig.store.close()  # its last words to the campaigns
    stock = stock_of(rig)
    await stock.round()
    commands.sent.clear()
    await stock.round()
    touching = [one for one in commands.sent if "codes" in (one.get("aggregate"), one.get("find"))]
    assert touching == [], "nothing is asked of the codes"
    await rig.reserve(4, campaign_id="c-2")
    commands.sent.clear()
    await stock.round()
    # Of the pipelines: what else a command carries is random, and may look like a campaign.
    asked = {str(one["pipeline"]) for one in commands.sent if one.get("aggregate") == "codes"}
    named = {one for one in asked if "c-" in one}
    assert named
    assert all("c-2" in one for one in named), named
    assert codes(rig) == {"tm available": 36, "tm reserved": 4}
    # A round is the lease, what is due and the sums: as few commands for many campaigns as for few.
    commands.sent.clear()
    await rig.store.close()
    await stock.round()
    commands.sent.clear()
    await stock.round()
    assert len(commands.sent) <= 6


async def test_holds_that_expire_are_seen_without_a_write(rig: Rig, campaigns: Documents) -> None:
    stock = stock_of(rig)
    await rig.upload(numbered(9))
    await rig.reserve(4)
    await rig.store.close()
    await stock.round()
    rig.clock.now += TTL
    a_while_ago = datetime.now(UTC) - timedelta(minutes=20)
    campaigns.update_one({"_id": CAMPAIGN}, {"$set": {"stock.at": a_while_ago}})
    await stock.round()
    assert codes(rig) == {"tm available": 9}


async def test_one_process_samples_at_a_time(rigs: Rigs) -> None:
    first, second = await rigs(), await rigs()
    await first.upload(numbered(5))
    stocks = [stock_of(first), stock_of(second)]
    assert await stocks[0].round()
    for _ in range(2):
        assert not await stocks[1].round()
    assert codes(first) == {"tm available": 5}
    for name in SAMPLE_NAMES:
        assert shown(first, name)
        assert not shown(second, name)
    assert await stocks[0].round()


async def test_a_race_for_the_turn_has_one_winner(rigs: Rigs, driver: str) -> None:
    opened = [await rigs(mongo_driver=driver) for _ in range(4)]
    won = await asyncio.gather(*(stock_of(rig).round() for rig in opened))
    assert sum(won) == 1


async def test_another_takes_over_from_one_that_ends(rigs: Rigs) -> None:
    first, second = await rigs(), await rigs()
    await first.upload(numbered(5))
    ending, waiting = stock_of(first), stock_of(second)
    ending.start()
    deadline = time.monotonic() + 20
    while not codes(first):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert not await waiting.round()
    await ending.close()
    assert not any(shown(first, name) for name in SAMPLE_NAMES)
    assert await waiting.round()
    assert codes(second) == {"tm available": 5}


async def test_another_takes_over_from_one_that_died(rigs: Rigs) -> None:
    first, second = await rigs(), await rigs()
    await first.upload(numbered(5))
    died, waiting = stock_of(first), stock_of(second)
    assert await died.round()
    assert not await waiting.round()
    # The time that passes is the server's.
    await second.mongo.database["duties"].update_one(
        {"_id": "stock"}, {"$set": {"until": datetime.now(UTC) - timedelta(seconds=1)}}
    )
    assert await waiting.round()
    assert codes(second) == {"tm available": 5}
    # It was not dead, only slow: it finds that another has its turn, and shows nothing.
    assert not await died.round()
    assert not any(shown(first, name) for name in SAMPLE_NAMES)


async def test_figures_are_not_shown_beyond_the_lease(rigs: Rigs) -> None:
    rig = await rigs(mongo_timeout=0.7)
    await rig.upload(numbered(5))
    assert await stock_of(rig, interval=0.1).round()
    assert codes(rig) == {"tm available": 5}
    await asyncio.sleep(1.0)
    assert not any(shown(rig, name) for name in SAMPLE_NAMES)


async def test_campaigns_that_are_gone_vanish(
    rigs: Rigs, driver: str, documents: Documents, campaigns: Documents
) -> None:
    rig = await rigs(mongo_driver=driver)
    for name in ("a", "b", "c"):
        await rig.upload(numbered(5), campaign_id=name)
    await rig.store.close()
    stock = stock_of(rig)
    await stock.round()
    assert codes(rig) == {"tm available": 15}
    # With its document, at once; past codesvc, when the next walk has found it out.
    campaigns.delete_one({"_id": "a"})
    documents.delete_many({"_id.campaign_id": {"$in": ["a", "c"]}})
    await stock.round()
    assert set(lowest(rig)) == {("b", "tm"), ("c", "tm")}
    assert codes(rig) == {"tm available": 10}
    await stock_of(rig).round()  # begins with a walk
    assert codes(rig) == {"tm available": 5}
    assert set(lowest(rig)) == {("b", "tm")}
    assert shown(rig, "inventory_campaigns") == {(): 1}


async def test_campaigns_without_a_document_are_found(
    rig: Rig, documents: Documents, campaigns: Documents
) -> None:
    names = [f"c-{number:03d}" for number in range(205)]
    documents.insert_many([document("A", campaign_id=name) for name in names])
    documents.insert_one(document("B", campaign_id="c-100", code_type="external"))
    assert campaigns.count_documents({}) == 0
    stock = stock_of(rig)
    deadline = time.monotonic() + 60
    while codes(rig) != {"tm available": 205, "external available": 1}:
        assert time.monotonic() < deadline
        assert await stock.round()
    assert lowest(rig) == {}, "never in use"
    assert shown(rig, "inventory_campaigns") == {(): 205}
    # What was made for the figures is no obstacle to those who write.
    await rig.upload(numbered(3), campaign_id="c-100")
    assert await rig.reserve(1, campaign_id="c-100")
    await stock.round()
    assert codes(rig) == {"tm available": 207, "tm reserved": 1, "external available": 1}


async def test_the_figures_do_not_change_what_counts_say(rig: Rig) -> None:
    stock = stock_of(rig)
    await rig.upload(numbered(20))
    for _ in range(3):
        await stock.round()
        await rig.reserve(2)
        counts = await rig.inventory.count(CAMPAIGN, CodeType.TM)
        await stock.round()
        assert codes(rig) == {"tm available": counts.available, "tm reserved": counts.reserved}


async def test_counting_keeps_to_its_share_of_the_time(rigs: Rigs, driver: str) -> None:
    rig = await rigs(mongo_driver=driver)
    for number in range(3):
        await rig.upload(numbered(5), campaign_id=f"c-{number}")
    await rig.store.close()
    stock = stock_of(rig, interval=0.000_01)
    # A second is granted once; what is spent beyond it must have passed twenty times over before any more is counted.
    stock._allowance = 1e-9
    await stock.round()
    counted = codes(rig).get("tm available", 0.0)
    assert counted < 15
    await stock.round()
    assert codes(rig).get("tm available", 0.0) == counted


async def test_nothing_is_sampled_without_an_interval(rig: Rig) -> None:
    stock = stock_of(rig, interval=0)
    stock.start()
    await rig.upload(numbered(5))
    await asyncio.sleep(0.2)
    assert not any(shown(rig, name) for name in SAMPLE_NAMES)
    await stock.close()


async def test_an_odd_campaign_is_no_label(rig: Rig, documents: Documents) -> None:
    stock = stock_of(rig)
    documents.insert_one(document("A", campaign_id='quo"te\n'))
    await rig.upload(numbered(3), campaign_id='quo"te\n')
    await rig.upload(numbered(4))
    await stock.round()
    assert lowest(rig) == {(CAMPAIGN, "tm"): 4}
    assert codes(rig) == {"tm available": 8}
