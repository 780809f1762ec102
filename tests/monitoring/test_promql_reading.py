"""The reader of PromQL finds what the other tests here compare with /metrics."""

from .promql import read


def test_metrics_labels_and_values() -> None:
    found = read(
        """
        histogram_quantile(0.95, sum by (job, le) (rate(a_bucket{job="x", path=~"/v1/{b}", q!='1'}[5m])))
        > bool 5 or (b > 0) / on (namespace) group_left () max without (pod) (c:d:e offset 1h) and absent(up)
        """
    )
    assert found.selectors == [
        ("a_bucket", (("job", "=", "x"), ("path", "=~", "/v1/{b}"), ("q", "!=", "1"))),
        ("b", ()),
        ("c:d:e", ()),
        ("up", ()),
    ]
    assert found.grouped == {"job", "le", "namespace", "pod"}


def test_what_is_no_metric() -> None:
    assert read("time() - vector(1e6) * 3600").metrics == set()
