"""Writes the PrometheusRule of components/monitoring from Prometheus' own rule files, which are the one truth.

python deploy/prometheus_rule.py            # after a change of deploy/prometheus/rules
python deploy/prometheus_rule.py --check    # exit code 1 if that was forgotten
"""

import sys
from pathlib import Path
from typing import Any, Final

import yaml

DEPLOY: Final = Path(__file__).parent
RULES: Final = DEPLOY / "prometheus" / "rules"
MANIFEST: Final = DEPLOY / "kubernetes" / "components" / "monitoring" / "prometheusrule.yaml"

_HEAD: Final = "# Written by deploy/prometheus_rule.py from deploy/prometheus/rules: change it there.\n"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def manifest() -> str:
    """Return the manifest that holds the groups of all rule files, by the files' names."""
    groups: list[Any] = []
    for file in sorted(RULES.glob("*.yaml")):
        groups += yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    made = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "codesvc", "labels": {"app.kubernetes.io/name": "codesvc"}},
        "spec": {"groups": groups},
    }
    return _HEAD + yaml.dump(made, Dumper=_Dumper, sort_keys=False, width=118, allow_unicode=True)


def main(arguments: list[str]) -> int:
    """Write the manifest, or tell whether it is as it would be written."""
    if arguments == ["--check"]:
        same = MANIFEST.exists() and MANIFEST.read_text(encoding="utf-8") == manifest()
        if not same:
            sys.stderr.write(
                "the PrometheusRule is not that of the rule files: python deploy/prometheus_rule.py\n"
            )
        return 0 if same else 1
    MANIFEST.write_text(manifest(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
