"""The Grafana dashboard as code: writes codesvc.json beside this file, or says with --check whether it is up to date.

Queries lean on the rules in deploy/prometheus/rules where those record a name (with colons); limits are the alerts'.
"""

import json
import sys
from pathlib import Path
from typing import Final

import causes
import service
from panels import DATASOURCE, RUNBOOKS, Json, place, variable
from queries import JOB, POD, WHO

TARGET: Final = Path(__file__).with_name("codesvc.json")


def dashboard() -> Json:
    """Return the whole of it."""
    rows = [
        ("Is anybody hurt?", service.hurt()),
        ("Requests", service.requests()),
        ("Stock", service.stock()),
        ("Uploads", service.uploads()),
        ("MongoDB", causes.mongodb()),
        ("S3", causes.storage()),
        ("Processes", causes.process()),
    ]
    restarts = {
        "name": "Restarts",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "purple",
        "expr": f"process_start_time_seconds{{{POD}}} * 1000",
        # The value is when the process began, in milliseconds, and the mark is put there.
        "useValueForTime": True,
        "step": "60s",
        "titleFormat": "Start",
        "textFormat": WHO,
        "tagKeys": "pod,instance",
    }
    return {
        "uid": "codesvc",
        "title": "codesvc",
        "description": "Made by deploy/grafana/dashboard.py: change it there.",
        "tags": ["codesvc"],
        "schemaVersion": 39,
        "version": 1,
        "id": None,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "title": "Runbooks",
                "type": "link",
                "url": f"{RUNBOOKS}alerts-and-runbooks",
                "targetBlank": True,
            }
        ],
        "annotations": {"list": [restarts]},
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Data source",
                    "type": "datasource",
                    "query": "prometheus",
                    "refresh": 1,
                    "hide": 0,
                    "options": [],
                },
                variable("job", "Job", "label_values(event_loop_lag_seconds, job)"),
                variable("namespace", "Namespace", 'label_values(up{job=~"$job"}, namespace)'),
                variable("pod", "Pod", f"label_values(up{{{JOB}}}, pod)"),
                {
                    "name": "docs",
                    "label": "Address of operations.md",
                    "type": "textbox",
                    "query": "docs/operations.md",
                    "current": {"text": "docs/operations.md", "value": "docs/operations.md"},
                    "options": [],
                    "hide": 0,
                },
            ]
        },
        "panels": place(rows),
    }


def main() -> None:
    """Write the file, or compare it."""
    text = json.dumps(dashboard(), indent=1) + "\n"
    if sys.argv[1:] == ["--check"]:
        if TARGET.read_text(encoding="utf-8") != text:
            sys.exit(f"{TARGET.name} is not what {Path(__file__).name} writes: run it")
    elif sys.argv[1:]:
        sys.exit(f"usage: {sys.argv[0]} [--check]")
    else:
        TARGET.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
