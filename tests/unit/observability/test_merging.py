"""The figures of several processes as one."""

from collections.abc import Sequence

from aioprometheus.collectors import Counter, Registry
from prometheus_client.parser import text_string_to_metric_families

from codesvc.observability.merging import NOTHING, Families, add_sums, figures, merged, sums_alone
from codesvc.observability.metrics import LatencyHistogram, Merge, MergedGauge, render


class Process:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.asked = Counter("asked_total", "Asked.", registry=self.registry)
        self.took = LatencyHistogram("took_seconds", "Took.", ("path",), self.registry)
        self.gauges = {
            rule: MergedGauge(f"gauge_{rule}", "A gauge.", merge=rule, registry=self.registry)
            for rule in Merge
        }

    def told(self) -> bytes:
        self.took.collect()
        return figures(self.registry)


def together(told: Sequence[bytes]) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return every sample of the whole, by its name and the values of its labels."""
    text = render(merged(Process().registry, told))[0].decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def two() -> tuple[Process, Process]:
    one, other = Process(), Process()
    for process, factor in ((one, 1), (other, 10)):
        process.asked.add({"path": "/x"}, factor)
        process.took.observe(("/x",), 0.003 * factor)
        for gauge in process.gauges.values():
            gauge.set({}, 2.5 * factor)
    other.asked.add({"path": "/y"}, 7)
    return one, other


def test_counters_histograms_and_gauges() -> None:
    one, other = two()
    whole = together([one.told(), NOTHING, other.told()])
    assert whole["asked_total", ("/x",)] == 11
    assert whole["asked_total", ("/y",)] == 7
    assert whole["took_seconds_count", ("/x",)] == 2
    assert round(whole["took_seconds_sum", ("/x",)], 6) == 0.033
    buckets = {labels[0]: count for (name, labels), count in whole.items() if name == "took_seconds_bucket"}
    assert (buckets["0.0025"], buckets["0.005"], buckets["0.025"], buckets["0.05"]) == (0, 1, 1, 2)
    assert buckets["+Inf"] == 2
    assert whole["gauge_sum", ()] == 27.5
    assert whole["gauge_max", ()] == 25
    assert whole["gauge_min", ()] == 2.5


def test_it_shows_what_was_told_and_nothing_since() -> None:
    one, other = two()
    told = [one.told(), other.told()]
    before = together(told)
    one.asked.inc({"path": "/x"})
    assert together(told) == before


def test_the_dead_keep_their_sums_and_lose_their_gauges() -> None:
    one, other = two()
    dead: Families = {}
    add_sums(dead, one.told())
    add_sums(dead, other.told())
    whole = together([sums_alone(dead)])
    assert whole["asked_total", ("/x",)] == 11
    assert whole["took_seconds_count", ("/x",)] == 2
    assert not [name for name, _ in whole if name.startswith("gauge")]


def test_a_gauge_that_is_no_number_is_passed_over() -> None:
    one, other = two()
    one.gauges[Merge.MAX].set({}, float("nan"))
    assert together([one.told(), other.told()])["gauge_max", ()] == 25
