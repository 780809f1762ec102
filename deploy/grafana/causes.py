"""The rows of the dashboard that tell why: MongoDB, S3, the processes themselves."""

from panels import Panel, Query, graph
from queries import JOB, POD, WHO, quantile, quantiles, rate


def mongodb() -> list[Panel]:
    """Return whether it is MongoDB."""
    name = "datastore_operation_duration_seconds"
    return [
        graph(
            "99th percentile of operations",
            "Is MongoDB the slow part?",
            Query(quantile(0.99, name, "operation"), "{{operation}}"),
            unit="s",
        ),
        graph(
            "Operations",
            "What is it asked?",
            Query(rate(f"{name}_count", "operation"), "{{operation}}"),
            unit="ops",
        ),
        graph(
            "Failed operations and retries",
            "What does it refuse, and what had to be sent again?",
            Query(rate(f"{name}_count", "operation", 'outcome="error"'), "{{operation}} failed"),
            Query(rate("datastore_retries_total"), "sent again"),
            unit="ops",
            runbooks=["CodesvcRetriesHigh"],
        ),
        graph(
            "Connections",
            "How many of the connections are in use?",
            Query(f"sum by (state) (datastore_pool_connections{{{POD}}})", "{{state}}"),
            Query(f"sum(datastore_pool_max_connections{{{POD}}})", "limit"),
            unit="none",
            runbooks=["CodesvcPoolNearLimit", "CodesvcPoolExhausted"],
        ),
        graph(
            "Wait for a connection",
            "How long do operations wait for one of them?",
            *quantiles("datastore_pool_checkout_seconds"),
            unit="s",
            limits=[(0.5, "red")],
            runbooks=["CodesvcPoolExhausted"],
        ),
        graph(
            "Lag of the furthest secondary",
            "Would a failover now make callers wait?",
            Query(f"max(datastore_replica_lag_seconds{{{JOB}}})", "lag"),
            unit="s",
            limits=[(10, "orange"), (30, "red")],
            runbooks=["CodesvcReplicaLag"],
        ),
        graph(
            "Checks of kept counts",
            "Were counts that were kept right when they were checked?",
            Query(
                f"sum by (outcome) (increase(count_checks_total{{{POD}}}[$__rate_interval]))", "{{outcome}}"
            ),
            unit="none",
            width=24,
            height=6,
            runbooks=["CodesvcCountsWrong"],
        ),
    ]


def storage() -> list[Panel]:
    """Return whether it is S3."""
    name = "storage_request_duration_seconds"
    return [
        graph(
            "Requests to S3",
            "What is it asked, and what does it refuse?",
            Query(rate(f"{name}_count", "operation, outcome"), "{{operation}} {{outcome}}"),
            unit="reqps",
            runbooks=["CodesvcStorageFailing"],
        ),
        graph(
            "95th percentile of requests to S3",
            "How long does it take?",
            Query(quantile(0.95, name, "operation"), "{{operation}}"),
            unit="s",
        ),
        graph(
            "Retries of requests to S3",
            "Does it throttle, or is the way to it bad?",
            Query(rate("storage_retries_total"), "sent again"),
            unit="reqps",
            runbooks=["CodesvcStorageRetriesHigh"],
        ),
    ]


def process() -> list[Panel]:
    """Return whether it is the processes themselves."""
    limit = (
        'kube_pod_container_resource_limits{namespace=~"$namespace", pod=~"$pod", container="codesvc",'
        ' resource="memory"}'
    )
    return [
        graph(
            "CPU",
            "How many cores does each pod use?",
            Query(f"rate(process_cpu_seconds_total{{{POD}}}[$__rate_interval])", WHO),
            unit="none",
        ),
        graph(
            "Memory",
            "How much does each pod use, and how much may it (with kube-state-metrics)?",
            Query(f"process_resident_memory_bytes{{{POD}}}", WHO),
            Query(f"min({limit})", "limit"),
            unit="bytes",
            runbooks=["CodesvcMemoryNearLimit"],
        ),
        graph(
            "Event-loop lag",
            "By how long was each process late at worst, within the last minute?",
            Query(f"event_loop_lag_max_seconds{{{POD}}}", WHO),
            unit="s",
            limits=[(0.25, "orange")],
            runbooks=["CodesvcEventLoopLag"],
        ),
        graph(
            "Garbage collection",
            "How often does each generation run?",
            Query(rate("python_gc_collections_total", "generation"), "generation {{generation}}"),
            unit="ops",
        ),
        graph(
            "File descriptors and threads",
            "Does a pod leak them?",
            Query(f"process_open_fds{{{POD}}}", f"{WHO} descriptors"),
            Query(f"process_threads{{{POD}}}", f"{WHO} threads"),
            unit="none",
            runbooks=["CodesvcDescriptorsNearLimit"],
        ),
        graph(
            "Workers, and those that died",
            "How many processes serve in each pod, and how many died within the interval?",
            Query(f"codesvc_workers{{{POD}}}", f"{WHO} workers"),
            Query(f"increase(codesvc_worker_restarts_total{{{POD}}}[$__rate_interval])", f"{WHO} died"),
            unit="none",
            runbooks=["CodesvcWorkersDie", "CodesvcRestarting"],
        ),
        graph(
            "Versions",
            "How far is a roll-out?",
            Query(f"count by (version) (codesvc_build_info{{{POD}}})", "{{version}}"),
            unit="none",
            width=24,
            height=6,
            stacked=True,
        ),
    ]
