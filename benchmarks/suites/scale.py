"""Long files: the rate holds as the collection grows, and memory does not grow with the file."""

from benchmarks.bench import REFERENCE, Bench, Series, Step, add_table
from benchmarks.charts import Better, Line, LineChart
from benchmarks.report import Report, Target


def run(bench: Bench, report: Report, rounds: int) -> None:  # noqa: ARG001 - minutes each; one round shows a peak
    """Load ever longer files, the wire ceiling beside the longest, the reference beside the shortest."""
    counts = (
        (50_000, 100_000, 150_000, 200_000) if report.quick else (1_000_000, 2_000_000, 5_000_000, 20_000_000)
    )
    table: dict[tuple[str, str], Series] = {}

    def add(contender: str, count: int, settings: dict[str, str] | None) -> Series:
        case = f"{count:,} codes"
        runs = bench.uploads((Step(case, bench.file(count)),), settings)
        series = table[contender, case] = Series(contender, case, count, [runs[case]])
        return series

    add("reference", counts[0], REFERENCE)
    measured = [add("codesvc", count, None) for count in counts]
    longest = bench.file(counts[-1])
    ceiling = Series("wire ceiling", f"{counts[-1]:,} codes", counts[-1], [bench.ceiling(longest, 2)])
    table["wire ceiling", ceiling.case] = ceiling
    add_table(report, "Scale", table)
    rate = [(float(series.codes), series.values) for series in measured]
    memory = [(float(series.codes), [series.runs[0].peak_memory / 1e6]) for series in measured]
    axis = "codes in the file"
    report.charts += [
        LineChart("Rate over the size of the file", "codes/s", axis, [Line("codesvc", rate)]),
        LineChart(
            "Peak memory over the size of the file",
            "MB",
            axis,
            [Line("codesvc", memory)],
            better=Better.LOWER,
        ),
    ]

    peaks = [series.runs[0].peak_memory / 1e6 for series in measured]
    report.targets += [
        Target(f"peak memory, {counts[1]:,} codes", "< 250 MB", f"{peaks[1]:.0f} MB", peaks[1] < 250),
        Target(f"peak memory, {counts[3]:,} codes", "< 250 MB", f"{peaks[3]:.0f} MB", peaks[3] < 250),
    ]
    growth = peaks[3] / peaks[1]
    report.targets.append(
        Target(
            f"peak memory, {counts[3]:,} over {counts[1]:,} codes", "<= 1.10", f"{growth:.2f}", growth <= 1.1
        )
    )
    if measured[3].rate is None or ceiling.rate is None:
        report.targets.append(Target("the longest file, of the wire ceiling", ">= 0.80", "N/A", None))
    else:
        ratio = measured[3].rate / ceiling.rate
        report.targets.append(
            Target("the longest file, of the wire ceiling", ">= 0.80", f"{ratio:.2f}", ratio >= 0.8)
        )
