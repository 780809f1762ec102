"""What a rig's metrics show."""

from prometheus_client.parser import text_string_to_metric_families

from .rig import Rig


def shown(rig: Rig, name: str) -> dict[tuple[str, ...], float]:
    """Return the values of every series of a metric, by the values of its labels in the order of their names."""
    text = rig.telemetry.render()[0].decode()
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }
