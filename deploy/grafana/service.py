"""The rows of the dashboard that callers would ask for: requests, stock, uploads."""

from panels import RUNBOOKS, Panel, Query, bars, graph, stat, table
from queries import API, CALLS, JOB, POD, SHORT_CALLS, WHO, quantile, quantiles, rate


def hurt() -> list[Panel]:
    """Return what tells within a glance whether anybody is hurt."""
    budget = (
        f'1 - sum(increase(http_request_count{{{JOB}, {CALLS}, status=~"5.."}}[30d]))'
        f" / sum(increase(http_request_count{{{JOB}, {CALLS}}}[30d])) / 0.001"
    )
    return [
        stat(
            "Processes that answer",
            "Can Prometheus scrape anybody?",
            Query(f"sum(up{{{JOB}}})"),
            unit="none",
            limits=[(0, "red"), (1, "green")],
            runbooks=["CodesvcDown", "CodesvcInstanceDown"],
        ),
        stat(
            "Not ready",
            "How many processes tell the readiness probe to send callers elsewhere?",
            Query(f"sum(instance:readyz_unready:ratio_rate2m{{{JOB}}} > bool 0.5)"),
            unit="none",
            limits=[(1, "orange")],
            runbooks=["CodesvcNoneReady", "CodesvcNotReady"],
        ),
        stat("Calls", "How much is asked?", Query(rate("http_request_count", labels=API)), unit="reqps"),
        stat(
            "Errors",
            "Which share of the calls of the last five minutes was answered with a 5xx?",
            Query(f"max(job:http_request_errors:ratio_rate5m{{{JOB}}})"),
            unit="percentunit",
            limits=[(0.001, "orange"), (0.0144, "red")],
            runbooks=["CodesvcErrorBudgetBurnsFast", "CodesvcErrorBudgetBurnsSlowly"],
        ),
        stat(
            "Budget of errors left",
            "How much of what the objective (99.9% of calls without a 5xx) allows in 30 days is left?",
            Query(f"({budget}) or vector(1)"),
            unit="percentunit",
            minimum=None,
            limits=[(-1e6, "red"), (0, "orange"), (0.25, "green")],
            runbooks=["CodesvcErrorBudgetBurnsFast", "CodesvcErrorBudgetBurnsSlowly"],
        ),
        stat(
            "Slowest reserves",
            "How long do the slowest of a hundred reserves take?",
            Query(
                f'max(path:http_response_duration_seconds:p99_rate5m{{{JOB}, path="/v1/{{campaignId}}/reserve"}})'
            ),
            unit="s",
            limits=[(0.5, "orange"), (1, "red")],
            runbooks=["CodesvcReservesSlow"],
        ),
        table(
            "Alerts",
            "What is firing? The name leads to the runbooks.",
            Query('ALERTS{alertname=~"Codesvc.*", alertstate="firing", namespace=~"$namespace"}'),
            columns=["alertname", "severity", "campaign", "type", "pod", "instance"],
            # An anchor is in small letters, which Grafana cannot make of a name.
            link={"title": "Runbooks", "url": f"{RUNBOOKS}alerts-and-runbooks", "targetBlank": True},
            width=24,
            height=6,
            unit="none",
        ),
    ]


def requests() -> list[Panel]:
    """Return traffic, errors and latency by route."""
    name = "http_response_duration_seconds"
    slow = [(1.0, "orange"), (5.0, "red")]
    return [
        graph(
            "Requests by route",
            "What is asked, and how often?",
            Query(rate("http_request_count", "path", API), "{{path}}"),
            unit="reqps",
            stacked=True,
        ),
        graph(
            "Errors by route and status",
            "What fails?",
            Query(rate("http_request_count", "path, status", f'{API}, status=~"5.."'), "{{status}} {{path}}"),
            unit="reqps",
            runbooks=["CodesvcErrorBudgetBurnsFast", "CodesvcErrorBudgetBurnsSlowly"],
        ),
        graph(
            "Refused requests by status",
            "What do callers do wrong?",
            Query(rate("http_request_count", "path, status", f'{API}, status=~"4.."'), "{{status}} {{path}}"),
            unit="reqps",
        ),
        *(
            graph(
                f"{100 * share:.0f}th percentile by route",
                f"How long do {100 * share:.0f} of a hundred calls take at most?",
                Query(quantile(share, name, "path", SHORT_CALLS), "{{path}}"),
                unit="s",
                limits=slow,
                runbooks=["CodesvcReservesSlow", "CodesvcCallsSlow"],
            )
            for share in (0.5, 0.95, 0.99)
        ),
        graph(
            "Refused for want of room",
            "Which bound on what a process takes on at once was met?",
            Query(rate("http_requests_refused_total", "reason"), "{{reason}}"),
            unit="reqps",
            runbooks=["CodesvcCallsRefused"],
        ),
        graph(
            "Calls under way",
            "How near is the busiest process to what it takes on at once?",
            Query(f"max by (kind) (http_requests_in_flight{{{POD}}})", "{{kind}}"),
            unit="none",
            runbooks=["CodesvcCallsRefused"],
        ),
        graph(
            "Connections ended by force",
            "Which callers are cut off?",
            Query(rate("http_connections_ended_total", "reason"), "{{reason}}"),
            unit="ops",
        ),
        graph(
            "How fast the budget burns",
            "1 uses up the budget of errors in exactly 30 days; what do the windows of the alerts see?",
            *(
                Query(f"max(job:http_request_errors:ratio_rate{window}{{{JOB}}}) / 0.001", window)
                for window in ("5m", "1h", "6h", "1d", "3d")
            ),
            unit="none",
            width=24,
            limits=[(1, "orange"), (14.4, "red")],
            runbooks=["CodesvcErrorBudgetBurnsFast", "CodesvcErrorBudgetBurnsSlowly"],
        ),
    ]


def stock() -> list[Panel]:
    """Return how many codes there are, and how they go."""
    lowest = f"campaign_type:inventory_lowest_available_codes:latest{{{JOB}}}"
    return [
        graph(
            "Codes by type and status",
            "How many codes are there in all?",
            Query(
                f"sum by (type, status) (type_status:inventory_codes:latest{{{JOB}}})", "{{type}} {{status}}"
            ),
            stacked=True,
        ),
        bars(
            "Lowest stocks",
            "Which campaigns have the fewest available codes?",
            Query(f"sort(min by (campaign, type) ({lowest}))", "{{campaign}} {{type}}"),
            limits=[(0, "red"), (1000, "orange"), (10000, "green")],
            runbooks=["CodesvcStockLow", "CodesvcStockExhausted"],
        ),
        graph(
            "Lowest stocks over time",
            "How fast do they go, and since when?",
            Query(f"min by (campaign, type) ({lowest})", "{{campaign}} {{type}}"),
            runbooks=["CodesvcStockRunsOut"],
        ),
        graph(
            "Codes asked for and lent",
            "Do callers get what they ask for?",
            Query(rate("reserve_requested_codes_total", "type"), "{{type}} asked for"),
            Query(rate("reserve_lent_codes_total", "type"), "{{type}} lent"),
        ),
        graph(
            "Reserves that came away short",
            "How many a second got fewer codes than they asked for?",
            Query(rate("reserve_short_total", "type"), "{{type}}"),
            unit="reqps",
            runbooks=["CodesvcReservesShort"],
        ),
        graph(
            "Conflicts and ended holds",
            "Do callers get in one another's way? How many codes come back unused?",
            Query(rate("reserve_conflicts_total"), "codes that somebody else took first"),
            Query(rate("reserve_expired_holds_total"), "codes lent again after a hold that ended"),
        ),
        stat(
            "Campaigns",
            "How many campaigns are there?",
            Query(f"max(inventory_campaigns{{{JOB}}})"),
            unit="none",
        ),
        stat(
            "Age of these figures",
            "When was the inventory last sampled?",
            Query(f"time() - max(inventory_sampled_timestamp_seconds{{{JOB}}})"),
            unit="s",
            limits=[(300, "orange"), (900, "red")],
            runbooks=["CodesvcStockUnknown"],
        ),
    ]


def uploads() -> list[Panel]:
    """Return whether files get in, and how fast."""
    return [
        graph(
            "Codes stored per second",
            "How fast are codes stored, and how many rows are broken?",
            Query(rate("upload_codes_total", "type, outcome"), "{{type}} {{outcome}}"),
            stacked=True,
        ),
        graph(
            "Bytes read per second",
            "How fast are files read?",
            Query(rate("upload_bytes_total"), "bytes"),
            unit="Bps",
        ),
        graph(
            "Uploads under way",
            "How many run, and how many wait for their turn?",
            Query(f"sum(uploads_running{{{POD}}})", "running"),
            Query(f"sum(uploads_queued{{{POD}}})", "waiting"),
            unit="none",
            runbooks=["CodesvcUploadsWait"],
        ),
        graph(
            "How uploads end",
            "How many ended within the interval, and how?",
            Query(f"sum by (outcome) (increase(uploads_total{{{POD}}}[$__rate_interval]))", "{{outcome}}"),
            unit="none",
            runbooks=["CodesvcUploadsFailing"],
        ),
        graph(
            "Longest standstill",
            "For how long has an upload neither read nor stored anything?",
            Query(f"max by (pod, instance) (upload_stalled_seconds{{{POD}}})", WHO),
            unit="s",
            limits=[(60, "orange"), (120, "red")],
            runbooks=["CodesvcUploadStuck"],
        ),
        graph(
            "Batches",
            "Does MongoDB hold uploads up (batches wait), or the reading of files (none does)?",
            Query(f"sum(upload_batches_in_flight{{{POD}}})", "being written"),
            Query(f"sum(upload_batches_waiting{{{POD}}})", "waiting"),
            unit="none",
        ),
        graph(
            "Duration of bulk writes",
            "How long does MongoDB take for a batch?",
            *quantiles("upload_batch_duration_seconds"),
            unit="s",
            width=12,
            limits=[(5, "orange")],
            runbooks=["CodesvcUploadsSlow"],
        ),
        graph(
            "Duration of uploads",
            "How long do whole uploads take?",
            *quantiles("upload_duration_seconds"),
            unit="s",
            width=12,
        ),
    ]
