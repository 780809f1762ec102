"""What callers of a stocked inventory wait for: reserve, count, assign and release, against the textbook's way.

The contenders stand on databases of the same contents. What a round of reserves lends is put back by a release through
the contender's own route, so that the next round finds as many; a round of assigns keeps its codes, the same for each
contender.
"""

from benchmarks.bench import Bench
from benchmarks.report import Report
from benchmarks.suites import counting, reserving, scarcity, workers
from benchmarks.suites.sizes import FULL, QUICK


def run(bench: Bench, report: Report, rounds: int) -> None:
    """Compare codesvc with the textbook, and look for its limits where the textbook has none."""
    sizes = QUICK if report.quick else FULL
    # Minutes each; three rounds tell as much as five.
    rounds = min(rounds, 3)
    reserving.run(bench, report, sizes, rounds)
    scarcity.run(bench, report, sizes)
    counting.run(bench, report, sizes, min(rounds, 2))
    workers.run(bench, report, sizes, rounds)
    report.measured.append(
        f"Inventory: reserve, count, assign and release through HTTP on a stock of {sizes.codes:,} codes, against a "
        "bare aiohttp service that does each in the textbook's way (find, update_many, find again; count_documents for "
        "each status; update_many with one $in); a nearly empty stock drained by "
        f"{sizes.callers} callers; counts of a campaign that nobody writes to; "
        "and codesvc alone, with one worker and with two."
    )
    report.settings["The textbook's service"] = (
        "Motor, write concern majority with journal, as codesvc's default; the same indexes; no tokens, no checks, no "
        "metrics, no time limits (benchmarks/textbook.py)"
    )
    report.data["Stock"] = (
        f"{sizes.codes:,} codes of one campaign and type: half never held, a tenth with a hold that has ended, a fifth "
        "with a live hold, a fifth assigned, dealt over the codes pseudo-randomly; holds began up to 49 hours ago; "
        "ten neighbours share one"
    )
