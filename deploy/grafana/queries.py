"""PromQL that many panels have in common: selectors by the dashboard's variables, rates and quantiles."""

from typing import Final

from panels import Query

JOB: Final = 'job=~"$job", namespace=~"$namespace"'
POD: Final = f'{JOB}, pod=~"$pod"'
API: Final = 'path=~"/v1/.*"'
CALLS: Final = f'{API}, path!="/v1/{{campaignId}}/codes"'
"""Uploads apart: those that wait for the end of a file take as long as it is large."""

SHORT_CALLS: Final = f'{CALLS}, path!~".*/events"'
"""Nor those that follow an upload."""

WHO: Final = "{{pod}} {{instance}}"


def rate(name: str, by: str = "", labels: str = "") -> str:
    """Return how much a counter grows a second, over all chosen pods."""
    grouped = f" by ({by})" if by else ""
    selector = f"{POD}, {labels}" if labels else POD
    return f"sum{grouped} (rate({name}{{{selector}}}[$__rate_interval]))"


def quantile(share: float, name: str, by: str = "", labels: str = "") -> str:
    """Return a histogram's quantile over all chosen pods."""
    return f"histogram_quantile({share}, {rate(f'{name}_bucket', f'{by}, le' if by else 'le', labels)})"


def quantiles(name: str, labels: str = "") -> list[Query]:
    """Return the three quantiles of a histogram."""
    return [
        Query(quantile(share, name, labels=labels), f"{100 * share:.0f}th percentile")
        for share in (0.5, 0.95, 0.99)
    ]
