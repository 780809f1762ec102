"""The matrices behind docs/tuning.md.

Write concern, journal, batch size, writes in flight, for new and known codes; and how many codes are sorted together.
"""

from functools import partial
from itertools import product

from benchmarks.bench import Bench, Step, shown, take_turns
from benchmarks.charts import HeatMap
from benchmarks.report import Report, Table

_CONCERNS = (("1", "false"), ("1", "true"), ("majority", "true"))
_BATCHES = ("10000", "50000", "100000")
_IN_FLIGHT = ("1", "2", "4", "8")
_SORTED = ("1", "100000", "250000", "500000", "1000000", "2000000")


def run(bench: Bench, report: Report, rounds: int, *, nodes: int = 1) -> None:
    """Load the same file under every combination."""
    count = 20_000 if report.quick else 300_000
    concerns = _CONCERNS[-1:] if report.quick else _CONCERNS
    batches = _BATCHES[1:2] if report.quick else _BATCHES
    in_flight = _IN_FLIGHT[1:2] if report.quick else _IN_FLIGHT
    file = bench.file(count)
    steps = (Step("new", file), Step("known", file, known=count))

    def contender(concern: str, journal: str, batch: str, flight: str) -> dict[str, str]:
        return {
            "CODESVC_WRITE_CONCERN": concern,
            "CODESVC_WRITE_JOURNAL": journal,
            "CODESVC_BATCH_SIZE": batch,
            "CODESVC_WRITE_CONCURRENCY": flight,
        }

    settings = {
        f"w:{concern} j:{journal} batch {batch} in flight {flight}": contender(
            concern, journal, batch, flight
        )
        for (concern, journal), batch, flight in product(concerns, batches, in_flight)
    }
    table = take_turns(
        f"tuning, {nodes} nodes",
        count,
        {name: partial(bench.uploads, steps, chosen) for name, chosen in settings.items()},
        rounds=max(1, rounds // 5),
    )
    for case in ("new", "known"):
        rows = []
        for (concern, journal), batch in product(concerns, batches):
            cells = [
                shown(table[f"w:{concern} j:{journal} batch {batch} in flight {flight}", case].rate)
                for flight in in_flight
            ]
            rows.append([f"w:{concern} j:{journal}, batches of {int(batch):,}", *cells])
        head = ("write concern, batch", *(f"{flight} in flight" for flight in in_flight))
        report.tables.append(Table(f"Tuning, {nodes} nodes: {case} codes, codes/s", head, rows))
        report.charts.append(
            HeatMap(
                f"Tuning, {nodes} nodes: {case} codes",
                unit="codes/s",
                axes=("write concern", "codes in a batch", "writes in flight"),
                rows=[f"w:{concern} j:{journal}" for concern, journal in concerns],
                columns=[(f"{int(batch):,}", flight) for batch, flight in product(batches, in_flight)],
                cells=[
                    [
                        table[f"w:{concern} j:{journal} batch {batch} in flight {flight}", case].values
                        for batch, flight in product(batches, in_flight)
                    ]
                    for concern, journal in concerns
                ],
            )
        )
    report.figures[f"tuning, {nodes} nodes"] = list(table.values())
    if nodes == 1:
        _sorting(bench, report, rounds)


def _sorting(bench: Bench, report: Report, rounds: int) -> None:
    """Load the same file with ever more of it sorted together."""
    count = 20_000 if report.quick else 2_000_000
    file = bench.file(count)
    steps = (Step("new", file), Step("known", file, known=count))
    chosen = _SORTED[-1:] if report.quick else _SORTED
    table = take_turns(
        "sorting",
        count,
        {codes: partial(bench.uploads, steps, {"CODESVC_SORT_CODES": codes}) for codes in chosen},
        rounds=max(1, rounds // 5),
    )
    rows = [
        [
            "each batch by itself" if codes == "1" else f"{int(codes):,}",
            *(shown(table[codes, case].rate) for case in ("new", "known")),
            f"{max(run.peak_memory for run in table[codes, 'new'].runs) / 1e6:.0f}",
        ]
        for codes in chosen
    ]
    head = ("codes sorted together", "new, codes/s", "known, codes/s", "peak MB")
    report.tables.append(Table(f"Sorting: {count:,} codes", head, rows))
    report.figures["sorting"] = list(table.values())
