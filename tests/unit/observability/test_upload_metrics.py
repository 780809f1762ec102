"""Metrics of uploads while they run, and when they have ended."""

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from codesvc.observability.telemetry import Telemetry


def value(telemetry: Telemetry, name: str, **labels: str) -> float:
    [found] = [
        sample.value
        for family in text_string_to_metric_families(telemetry.render()[0].decode())
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    return float(found)


def test_uploads_that_run() -> None:
    telemetry = Telemetry()
    assert value(telemetry, "uploads_running") == 0
    assert value(telemetry, "upload_stalled_seconds") == 0
    with telemetry.upload(campaign_id="1", code_type="tm") as first:
        with telemetry.upload(campaign_id="2", code_type="external") as second:
            first.waiting(3)
            second.waiting(4)
            assert value(telemetry, "uploads_running") == 2
            assert value(telemetry, "upload_batches_waiting") == 7
            second.waiting(1)
            assert value(telemetry, "upload_batches_waiting") == 4
        assert value(telemetry, "uploads_running") == 1
        assert value(telemetry, "upload_batches_waiting") == 3
    assert value(telemetry, "uploads_running") == 0
    assert value(telemetry, "upload_batches_waiting") == 0


def test_the_upload_that_stands_still_longest_is_the_one_shown() -> None:
    telemetry = Telemetry()
    with telemetry.upload(campaign_id="1", code_type="tm") as first:
        time.sleep(0.05)
        with telemetry.upload(campaign_id="2", code_type="tm") as second:
            assert value(telemetry, "upload_stalled_seconds") >= 0.05
            first.read(10)
            second.moved -= 100
            assert 100 <= value(telemetry, "upload_stalled_seconds") < 110
            second.stored(inserted=1, updated=0)
            assert value(telemetry, "upload_stalled_seconds") < 50
    assert value(telemetry, "upload_stalled_seconds") == 0


@pytest.mark.parametrize("outcome", ["succeeded", "rejected", "failed", "cancelled"])
def test_outcomes_are_counted(outcome: str) -> None:
    telemetry = Telemetry()
    assert value(telemetry, "uploads_total", type="tm", outcome=outcome) == 0
    with telemetry.upload(campaign_id="1", code_type="tm") as upload:
        upload.ended(outcome)
    assert value(telemetry, "uploads_total", type="tm", outcome=outcome) == 1
    assert value(telemetry, "upload_duration_seconds_count", outcome=outcome) == 1
    assert sum(value(telemetry, "uploads_total", type="external", outcome=one) for one in [outcome]) == 0


def test_an_error_that_nobody_named_is_a_failure() -> None:
    telemetry = Telemetry()
    with pytest.raises(KeyError), telemetry.upload(campaign_id="1", code_type="tm"):
        raise KeyError
    assert value(telemetry, "uploads_total", type="tm", outcome="failed") == 1


def test_batches_are_timed_by_outcome() -> None:
    telemetry = Telemetry()
    with telemetry.upload(campaign_id="1", code_type="tm") as upload:
        with upload.batch(5):
            time.sleep(0.01)
        with pytest.raises(KeyError), upload.batch(5):
            raise KeyError
    assert value(telemetry, "upload_batch_duration_seconds_count", outcome="ok") == 1
    assert value(telemetry, "upload_batch_duration_seconds_sum", outcome="ok") >= 0.01
    assert value(telemetry, "upload_batch_duration_seconds_count", outcome="error") == 1
    assert value(telemetry, "upload_batches_in_flight") == 0


def test_uploads_that_wait() -> None:
    telemetry = Telemetry()
    assert value(telemetry, "uploads_queued") == 0
    telemetry.watch_queue(lambda: 3)
    assert value(telemetry, "uploads_queued") == 3


def test_the_build_is_shown() -> None:
    assert value(Telemetry(version="1.2.3"), "codesvc_build_info", version="1.2.3") == 1
