"""Which index the collection of codes has: what each choice costs an upload, and what it gives to reserve and count."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from statistics import median
from typing import Any, Final

from benchmarks.bench import CAMPAIGN, Bench, shown
from benchmarks.data import codes
from benchmarks.report import Report, Table
from codesvc.datastore.indexes import BY_STATUS, INDEXES

Keys = Sequence[tuple[str, int]]

_CHOSEN: Final = INDEXES[BY_STATUS]
CHOICES: Final[Mapping[str, Keys]] = {
    "none but _id": (),
    "campaign, type, assigned, reserved": _CHOSEN[:-1],
    "campaign, type, assigned, reserved, code (chosen)": _CHOSEN,
    "campaign, type, assigned, reserved, code, saved": (*_CHOSEN, ("date.saved", 1)),
}
_STOCK: Final[dict[str, Any]] = {"_id.campaign_id": CAMPAIGN, "type": "tm"}
_UNASSIGNED: Final = _STOCK | {"date.assigned": {"$exists": False}}
_TEN: Final = 10
_HELD: Final = 500


def run(bench: Bench, report: Report, rounds: int) -> None:  # noqa: ARG001 - sizes and examined keys do not vary
    """Fill a collection under each choice, then look for candidates in it, hold some, and count."""
    count = 20_000 if report.quick else 1_000_000
    probes = 5 if report.quick else 50
    file = bench.file(count)
    points = [row.tobytes().decode() for row in codes(count, count + probes)]
    rows = []
    for name, keys in CHOICES.items():
        with bench.database({"chosen": {"key": dict(keys)}} if keys else {}) as database:
            run_ = bench.fill(database, file)
            collection = bench.client[database].codes
            sizes = bench.client[database].command("collStats", "codes")["indexSizes"]
            if not keys:
                rows.append(
                    [name, shown(run_.rate), f"{run_.server_cpu / count * 1e6:.1f}", "", "", "", "", ""]
                )
                continue
            search, examined = _search(collection, points)
            rows.append(
                [
                    name,
                    shown(run_.rate),
                    f"{run_.server_cpu / count * 1e6:.1f}",
                    f"{sizes['chosen'] / 1e6:.0f}",
                    f"{examined:,.0f}",
                    f"{search:.2f}",
                    f"{_timed(partial(_hold, collection)) / _HELD * 1000:.0f}",
                    f"{_timed(partial(_count, collection)):.0f}",
                ]
            )
    head = (
        "index",
        "upload, codes/s",
        "mongod µs/code",
        "MB",
        f"keys examined for {_TEN} candidates",
        "the search, ms",
        "hold, µs/code",
        "count, ms",
    )
    note = (
        "Codes that were never held, written in the order of their codes. Candidates are sought from a random code "
        "on, so that callers seldom meet. The count is of all that are unassigned, by an aggregate."
    )
    report.tables.append(Table(f"Indexes: {count:,} codes", head, rows, note))


def _search(collection: Any, points: Sequence[str]) -> tuple[float, float]:
    """Return the median of the time in ms, and of the keys examined, of a search for ten codes from a point on."""
    seconds, keys = [], []
    for point in points:
        query = _UNASSIGNED | {"date.reserved": {"$exists": False}, "_id.code": {"$gt": point}}
        found = collection.find(query, {"date.saved": 1}, limit=_TEN)
        started = time.perf_counter()
        list(found)
        seconds.append(time.perf_counter() - started)
        keys.append(found.clone().explain()["executionStats"]["totalKeysExamined"])
    return 1000 * median(seconds), median(keys)


def _hold(collection: Any) -> None:
    ids = [one["_id"] for one in collection.find(_STOCK, {"_id": 1}, limit=_HELD)]
    held = {"$set": {"date.reserved": datetime.now(UTC), "reserveId": "0" * 36}}
    collection.update_many({"_id": {"$in": ids}}, held)


def _count(collection: Any) -> None:
    list(collection.aggregate([{"$match": _STOCK | {"date.assigned": None}}, {"$count": "n"}]))


def _timed(call: Callable[[], None]) -> float:
    """Return the median of five times, in ms."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return 1000 * median(seconds)
