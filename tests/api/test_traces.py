"""Traces of a whole service, as a collector gets them over HTTP and over gRPC."""

import json
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from .harness import csv_of, eventually, in_parallel, make_codes, run_command
from .otlp import CALLER, Receiver, attributes, receiving_grpc, receiving_http
from .world import Hosting, World

SERVER, CLIENT = 2, 3
ERROR = 2
TOKEN = "a-token-of-the-collector"

Launch = Callable[..., World]


@pytest.fixture(scope="module")
def launch(
    hosting: Hosting, api_settings: dict[str, str | None], new_database: Callable[[str], str]
) -> Iterator[Launch]:
    """Starts services that send spans; those that a test has not stopped are stopped afterwards."""
    with ExitStack() as stack:

        def start(**settings: str) -> World:
            chosen = api_settings | {"OTEL_BSP_SCHEDULE_DELAY": "50"} | settings
            return stack.enter_context(hosting(chosen, new_database("traces")))

        yield start


@pytest.fixture(scope="module", params=["http/protobuf", "grpc"])
def traced(request: pytest.FixtureRequest, launch: Launch) -> Iterator[tuple[World, Receiver]]:
    """A service that takes the traces of callers who want it, and none besides; and who gets them."""
    with (receiving_grpc if request.param == "grpc" else receiving_http)() as receiver:
        world = launch(
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL=request.param,
            OTEL_EXPORTER_OTLP_HEADERS=f"lightstep-access-token={TOKEN}",
            OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
            OTEL_TRACES_SAMPLER="parentbased_traceidratio",
            OTEL_TRACES_SAMPLER_ARG="0",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
            CODESVC_BATCH_SIZE="20",
            CODESVC_READ_PART_SIZE="400",
        )
        yield world, receiver
        # While there is somebody to send to.
        world.service.stop()
        assert TOKEN not in world.service.log.read_text()


def caller(*, sampled: bool = True, trace: str | None = None) -> tuple[str, str, dict[str, str]]:
    """Return a new trace, a new correlation ID, and the headers of a request with both."""
    trace, correlation = trace or uuid.uuid4().hex, uuid.uuid4().hex
    flags = "01" if sampled else "00"
    headers = {
        "traceparent": f"00-{trace}-{CALLER}-{flags}",
        "tracestate": "vendor=opaque",
        "baggage": "who=me",
        "X-Correlation-ID": correlation,
    }
    return trace, correlation, headers


def test_an_upload_from_its_request_to_the_drivers(traced: tuple[World, Receiver], campaign: str) -> None:
    world, receiver = traced
    content = csv_of([*make_codes(60), "\x01"])
    key = world.put(campaign, content)
    trace_id, correlation, headers = caller()
    reply = world.service.post(f"/v1/{campaign}/codes", {"fileKey": key}, headers=headers)
    assert reply.status == 200
    trace = receiver.trace(trace_id)

    server = trace.one("POST /v1/{campaignId}/codes")
    assert (server.kind, server.parent_span_id.hex()) == (SERVER, CALLER)
    assert {span.trace_state for span in trace.spans} == {"vendor=opaque"}
    assert {attributes(span)["codesvc.correlation_id"] for span in trace.spans} == {correlation}

    upload = trace.one("upload")
    assert upload.parent_span_id == server.span_id
    told = attributes(upload)
    assert told["codesvc.upload.bytes"] == len(content)
    assert (told["codesvc.upload.inserted"], told["codesvc.upload.invalid"]) == (60, 1)

    # Every part is a span, with the requests for it below; the first part's came with the opening.
    opened = trace.one("storage.open")
    parts = trace.named("storage.get")
    assert {span.parent_span_id for span in (opened, *parts)} == {upload.span_id}
    assert len(parts) == -(-len(content) // 400)
    assert sum(attributes(span)["codesvc.storage.bytes"] for span in parts) == len(content)
    for span in (opened, *parts):
        told = attributes(span)
        assert (told["rpc.system"], told["rpc.service"], told["rpc.method"]) == ("aws-api", "S3", "GetObject")
        assert (told["aws.s3.bucket"], told["aws.s3.key"]) == (world.bucket, key)
        requests = [each for each in trace.below(span) if each.name == "GET"]
        assert len(requests) == (1 if span is opened else told["codesvc.storage.requests"])
        assert {each.kind for each in requests} <= {CLIENT}
        assert all("?" not in attributes(each)["http.url"] for each in requests)

    batches = trace.named("upload.batch")
    assert {span.parent_span_id for span in batches} == {upload.span_id}
    assert sum(attributes(span)["codesvc.upload.codes"] for span in batches) == 60
    assert sum(attributes(span)["codesvc.upload.inserted"] for span in batches) == 60
    for batch in batches:
        inserts = [span for span in trace.below(batch) if span.name == "datastore.insert"]
        assert inserts
        for insert in inserts:
            assert attributes(insert)["codesvc.datastore.bytes"] > 0
            assert [span.name.rpartition(".")[2] for span in trace.below(insert)] == ["insert"]
            assert [span.kind for span in trace.below(insert)] == [CLIENT]

    for line in world.service.log_lines_of(correlation):
        assert line["traceId"] == trace_id


def test_an_upload_that_goes_on_after_its_reply(traced: tuple[World, Receiver], campaign: str) -> None:
    world, receiver = traced
    key = world.put(campaign, csv_of(make_codes(60)))
    trace_id, correlation, headers = caller()
    reply = world.service.post(
        f"/v1/{campaign}/codes", {"fileKey": key}, headers=headers | {"Prefer": "respond-async"}
    )
    assert reply.status == 202
    eventually(lambda: any(span.name == "upload" for span in receiver.of(trace_id)), limit=10)
    trace = receiver.trace(trace_id)
    upload = trace.one("upload")
    assert upload.parent_span_id == trace.one("POST /v1/{campaignId}/codes").span_id
    assert attributes(upload)["codesvc.upload.inserted"] == 60
    assert (
        len(trace.named("upload.batch"))
        == len([s for s in trace.below(upload) if s.name == "upload.batch"])
        > 0
    )
    assert {attributes(span)["codesvc.correlation_id"] for span in trace.spans} == {correlation}


def test_what_the_collector_is_told_of_the_sender(traced: tuple[World, Receiver], campaign: str) -> None:
    world, receiver = traced
    trace_id, _, headers = caller()
    world.service.get(f"/v1/{campaign}/codes/count?type=tm", headers=headers)
    receiver.trace(trace_id)
    assert {one["lightstep-access-token"] for one in receiver.headers} == {TOKEN}
    for request in receiver.requests:
        for spans in request.resource_spans:
            told = attributes(spans.resource)
            assert told["service.name"] == "codesvc"
            assert told["service.version"]
            assert told["deployment.environment.name"] == "test"


def test_callers_served_together_have_traces_of_their_own(
    traced: tuple[World, Receiver], campaign: str
) -> None:
    world, receiver = traced
    world.stock(campaign, make_codes(200))
    callers = [caller() for _ in range(12)]
    target = f"/v1/{campaign}/reserve?count=2&type=tm"
    in_parallel([partial(world.service.get, target, headers=headers) for *_, headers in callers])
    groups: set[bytes] = set()
    for trace_id, correlation, _ in callers:
        trace = receiver.trace(trace_id)
        server = trace.one("GET /v1/{campaignId}/reserve")
        waited = trace.one("datastore.reserve")
        assert waited.parent_span_id == server.span_id
        assert waited.end_time_unix_nano <= server.end_time_unix_nano
        # Whoever it was done for: below its own span, or linked to it and back.
        done = trace.below(waited)
        shared = [span.span_id for span in done] + [link.span_id for link in waited.links]
        assert len(shared) == 1
        groups.update(shared)
        for span in done:
            assert span.name == "datastore.lend"
            assert attributes(span)["codesvc.datastore.callers"] == len(span.links) + 1
            assert any(each.kind == CLIENT for each in trace.below(span))
        assert {attributes(span)["codesvc.correlation_id"] for span in trace.spans} == {correlation}
    lent = [span for span in receiver.spans if span.span_id in groups]
    assert sum(len(span.links) + 1 for span in lent) == 12


def test_an_error_is_marked_all_the_way_up(traced: tuple[World, Receiver], campaign: str) -> None:
    world, receiver = traced
    trace_id, _, headers = caller()
    key = f"codes/{campaign}/tm/missing.csv"
    assert world.service.post(f"/v1/{campaign}/codes", {"fileKey": key}, headers=headers).status == 404
    trace = receiver.trace(trace_id)
    for name in ("storage.open", "upload"):
        span = trace.one(name)
        assert (span.status.code, attributes(span)["error.type"]) == (ERROR, "SourceNotFoundError")
    # A refusal is no fault of the server (OpenTelemetry's conventions for HTTP servers).
    assert trace.one("POST /v1/{campaignId}/codes").status.code != ERROR
    assert not any(span.events for span in trace.spans)


def test_who_did_not_ask_leaves_no_trace(traced: tuple[World, Receiver], campaign: str) -> None:
    world, receiver = traced
    service = world.service
    world.stock(campaign, make_codes(30))
    unsampled, correlation, headers = caller(sampled=False)
    target = f"/v1/{campaign}/reserve?count=2&type=tm"
    assert service.get(target, headers=headers).status == 200
    service.get(target)
    service.get("/readyz", headers=caller()[2])
    last, _, headers = caller()
    service.get(f"/v1/{campaign}/codes/count?type=tm", headers=headers)
    receiver.trace(last)
    assert not receiver.of(unsampled)
    # Neither the upkeep in the background nor a probe begins a trace of its own.
    assert all(span.parent_span_id for span in receiver.spans)
    assert not [span for span in receiver.spans if span.name == "admin.hello"]
    # Its lines name the trace all the same.
    assert {line["traceId"] for line in service.log_lines_of(correlation)} == {unsampled}


def test_a_share_of_all_traces_sent_as_the_process_ends(launch: Launch) -> None:
    """By the trace's id, so that every service of a trace decides alike; whatever waits is sent at the end."""
    with receiving_grpc() as receiver:
        world = launch(
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=receiver.endpoint,
            OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="grpc",
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_TRACES_SAMPLER="traceidratio",
            OTEL_TRACES_SAMPLER_ARG="0.5",
            OTEL_BSP_SCHEDULE_DELAY="60000",
            CODESVC_LOG_PROBES="0",
        )
        low, high = f"{1:032x}", "f" * 32
        for trace in (low, high):
            world.service.get("/v1/c/codes/count?type=tm", headers=caller(trace=trace)[2])
        for _ in range(64):
            world.service.get("/v1/c/codes/count?type=tm")
        assert not receiver.requests
        world.service.stop()
        requests = [line for line in world.service.log_lines() if line["logger"] == "codesvc.access"]
        # Those of the probe that waited for the service, until it was ready, do not tell more than once that it is.
        assert sum(line["route"] == "/readyz" and line["status"] == 200 for line in requests) <= 1
        assert sum(line["route"] == "/v1/{campaignId}/codes/count" for line in requests) == 66
    assert receiver.of(low)
    assert not receiver.of(high)
    # Each of the 64 by a throw of a coin; more than 2**50 runs would be needed to see none or all of them.
    assert 0 < len([span for span in receiver.spans if span.kind == SERVER]) - 1 < 64


@contextmanager
def silent() -> Iterator[str]:
    """Give the address of a collector that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_collector_that_is_away_costs_spans_and_nothing_else(launch: Launch) -> None:
    with silent() as endpoint:
        worlds = {
            "refused": launch(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9"),
            "silent": launch(
                OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
                OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
                OTEL_EXPORTER_OTLP_TIMEOUT="1",
                OTEL_BSP_MAX_QUEUE_SIZE="20",
                OTEL_BSP_MAX_EXPORT_BATCH_SIZE="10",
            ),
        }
        for world in worlds.values():
            for _ in range(60):
                assert world.service.get("/v1/c/codes/count?type=tm").status == 200
        time.sleep(1.2)
        began = time.monotonic()
        for world in worlds.values():
            world.service.signal(signal.SIGTERM)
        for world in worlds.values():
            world.service.wait(limit=30)
            world.service.stop()
    assert time.monotonic() - began < 20, "the end waits for a collector that does not come"
    told = {
        name: [line for line in world.service.log_lines() if "span" in line["message"]]
        for name, world in worlds.items()
    }
    for lines in told.values():
        assert {line["level"] for line in lines} == {"WARNING"}
        # Once while it serves, and once as it ends; not for each try.
        failures = [line for line in lines if line["message"] == "spans could not be sent"]
        assert 1 <= len(failures) <= 2
        assert failures[-1]["spansLost"] > 0
    assert told["refused"][-1]["reason"] == "ConnectionError"
    assert told["silent"][-1]["reason"] in {"DEADLINE_EXCEEDED", "UNAVAILABLE", "CANCELLED"}
    drops = [line for line in told["silent"] if line["message"].startswith("spans are dropped")]
    assert len(drops) == 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
        ("OTEL_PROPAGATORS", "no-such-thing"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_TRACES_EXPORTER", "no-such-thing"),
    ],
)
def test_a_malformed_variable_stops_the_start(
    api_settings: dict[str, str | None], variable: str, value: str
) -> None:
    settings = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_TRACES_SAMPLER": "traceidratio", variable: value}
    done = run_command("serve", settings=api_settings | settings)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"codesvc: {variable}: ")
    assert (
        value not in line.partition(": ")[2].partition("is none of")[0] or variable == "OTEL_TRACES_EXPORTER"
    )
    assert not [json.loads(line) for line in done.stdout.splitlines() if "listening" in line]
