"""Metrics: the contract's names, read by Prometheus's own parser."""

import asyncio
import os
import time
from typing import Any

import pytest
from aioprometheus.collectors import MetricsTypes
from prometheus_client.parser import text_string_to_metric_families

from codesvc.observability.metrics import MergedGauge
from codesvc.observability.telemetry import Telemetry


def families(telemetry: Telemetry) -> dict[str, Any]:
    text = telemetry.render()[0].decode()
    assert text.endswith("\n")
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(telemetry: Telemetry, name: str, **labels: str) -> float:
    found = [
        sample.value
        for family in families(telemetry).values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    assert len(found) == 1, f"{name} {labels}: {found}"
    return float(found[0])


def test_nothing_is_appended_to_a_name() -> None:
    telemetry = Telemetry()
    telemetry.http_request(("GET", "/x", 200), 0.1)
    with telemetry.datastore_operation("count"):
        pass
    lines = telemetry.render()[0].decode().splitlines()
    names = {line.partition("{")[0].partition(" ")[0] for line in lines if not line.startswith("#")}
    assert {
        "http_request_count",
        *(f"http_response_duration_seconds_{part}" for part in ("bucket", "sum", "count")),
        *(f"datastore_operation_duration_seconds_{part}" for part in ("bucket", "sum", "count")),
        *("upload_codes_total", "upload_bytes_total", "upload_batches_in_flight"),
    } <= names
    assert "# TYPE http_request_count counter" in lines
    assert "# TYPE http_response_duration_seconds histogram" in lines


def test_buckets_are_cumulative() -> None:
    telemetry = Telemetry()
    for seconds in (0.0005, 0.0006, 0.2, 0.2, 29.9, 5000.0):
        telemetry.http_request(("GET", "/x", 200), seconds)
    telemetry.http_request(("GET", "/x", 404), 1)
    labels = {"method": "GET", "path": "/x", "status": "200"}
    name = "http_response_duration_seconds"
    for bound, count in (
        ("0.0005", 1),
        ("0.001", 2),
        ("0.1", 2),
        ("0.25", 4),
        ("30.0", 5),
        ("1800.0", 5),
        ("+Inf", 6),
    ):
        assert value(telemetry, f"{name}_bucket", **labels, le=bound) == count
    assert value(telemetry, f"{name}_count", **labels) == 6
    assert value(telemetry, f"{name}_sum", **labels) == pytest.approx(5030.3011)
    assert value(telemetry, "http_request_count_total", **labels) == 6
    assert value(telemetry, "http_request_count_total", **(labels | {"status": "404"})) == 1


def test_reading_changes_nothing() -> None:
    telemetry = Telemetry()
    telemetry.http_request(("GET", "/x", 200), 0.1)
    for _ in range(3):
        assert value(telemetry, "http_request_count_total", method="GET", path="/x", status="200") == 1


def test_operations_of_the_datastore() -> None:
    telemetry = Telemetry()
    with telemetry.datastore_operation("reserve", campaign_id="1", count=10):
        time.sleep(0.01)
    with pytest.raises(KeyError), telemetry.datastore_operation("reserve"):
        raise KeyError
    name = "datastore_operation_duration_seconds"
    assert value(telemetry, f"{name}_count", operation="reserve", outcome="ok") == 1
    assert value(telemetry, f"{name}_sum", operation="reserve", outcome="ok") >= 0.01
    assert value(telemetry, f"{name}_count", operation="reserve", outcome="error") == 1


def test_an_upload_is_seen_while_it_runs() -> None:
    telemetry = Telemetry()
    assert value(telemetry, "upload_codes_total", type="tm", outcome="inserted") == 0
    with telemetry.upload(campaign_id="1", code_type="tm") as upload:
        upload.read(1000)
        with upload.batch(50_000), upload.batch(10):
            assert value(telemetry, "upload_batches_in_flight") == 2
        upload.stored(inserted=49_000, updated=1_000)
        assert value(telemetry, "upload_codes_total", type="tm", outcome="inserted") == 49_000
        assert value(telemetry, "upload_batches_in_flight") == 0
        upload.stored(inserted=10, updated=0)
        upload.invalid(3)
        upload.read(24)
    with telemetry.upload(campaign_id="2", code_type="external") as upload:
        upload.stored(inserted=1, updated=0)
    for outcome, count in (("inserted", 49_010), ("updated", 1_000), ("invalid", 3)):
        assert value(telemetry, "upload_codes_total", type="tm", outcome=outcome) == count
    assert value(telemetry, "upload_codes_total", type="external", outcome="inserted") == 1
    assert value(telemetry, "upload_bytes_total") == 1024


def test_a_batch_that_fails_is_in_flight_no_longer() -> None:
    telemetry = Telemetry()
    with (
        pytest.raises(ValueError, match="x"),
        telemetry.upload(campaign_id="1", code_type="tm") as upload,
        upload.batch(1),
    ):
        raise ValueError("x")
    assert value(telemetry, "upload_batches_in_flight") == 0


def test_figures_of_the_process() -> None:
    telemetry = Telemetry()
    found = families(telemetry)
    assert {"python_gc_collections", "python_gc_objects_collected", "process_threads"} <= found.keys()
    assert 10e6 < value(telemetry, "process_resident_memory_bytes") < 4e9
    assert value(telemetry, "process_cpu_seconds_total") > 0
    assert abs(value(telemetry, "process_start_time_seconds") - _started()) < 2
    before = value(telemetry, "process_open_fds")
    read, write = os.pipe()
    assert value(telemetry, "process_open_fds") == before + 2
    os.close(read)
    os.close(write)
    assert {sample.labels["generation"] for sample in found["python_gc_collections"].samples} == {
        "0",
        "1",
        "2",
    }


async def test_a_blocked_loop_is_seen() -> None:
    telemetry = Telemetry()
    telemetry.event_loop_lag.start()
    telemetry.event_loop_lag.start()
    await asyncio.sleep(0.45)
    time.sleep(0.25)  # noqa: ASYNC251 - the loop is blocked on purpose
    await asyncio.sleep(0.05)
    telemetry.event_loop_lag.stop()
    assert 0.1 < value(telemetry, "event_loop_lag_seconds") < 0.6
    assert value(telemetry, "event_loop_lag_max_seconds") == value(telemetry, "event_loop_lag_seconds")
    telemetry.event_loop_lag.stop()


def test_every_gauge_says_how_it_is_merged() -> None:
    gauges = [one for one in Telemetry().registry.get_all() if one.kind is MetricsTypes.gauge]
    assert len(gauges) > 5
    assert [one.name for one in gauges if not isinstance(one, MergedGauge)] == []


def test_registries_are_apart() -> None:
    first, second = Telemetry(), Telemetry()
    first.http_request(("GET", "/x", 200), 0.1)
    assert b'path="/x"' not in second.render()[0]


def _started() -> float:
    return time.time() - (time.monotonic() - _monotonic_start())


def _monotonic_start() -> float:
    with open("/proc/self/stat", "rb") as stat:  # noqa: PTH123 - as bytes
        return int(stat.read().rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
