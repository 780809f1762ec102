"""A real Prometheus with deploy/prometheus/prometheus.yml, but for the target's address and shorter intervals."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from codesvc.local.process import ChildProcess, free_port

from .rulefiles import PROMETHEUS

INTERVAL: Final = "1s"
_PATIENCE: Final = 60.0


class Prometheus:
    """Its HTTP API: https://prometheus.io/docs/prometheus/latest/querying/api/."""

    def __init__(self, port: int, process: ChildProcess) -> None:
        self._port = port
        self._process = process

    def ask(self, path: str, **parameters: str | float) -> Any:
        """Return the data of a reply, which must be a success without warnings."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}?{query}", timeout=20) as response:
            reply = json.load(response)
        assert reply["status"] == "success", reply
        assert not reply.get("warnings"), reply
        return reply["data"]

    def series(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each series that an expression gives now."""
        found = self.ask("/api/v1/query", query=expr)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def value(self, expr: str) -> float | None:
        """Return the value of the one series that an expression gives now, or None if there is none."""
        found = self.series(expr)
        assert len(found) < 2, found
        return found[0][1] if found else None

    def eventually(self, check: Callable[[], Any]) -> Any:
        """Return the first true value of a check, which is made anew after each scrape."""
        deadline = time.monotonic() + _PATIENCE
        while not (value := check()):
            self._process.check()
            assert time.monotonic() < deadline, "it did not come true"
            time.sleep(0.2)
        return value

    def complaints(self) -> list[str]:
        """Return what it logged that is no mere information."""
        return [line for line in self._process.log.read_text().splitlines() if "level=info" not in line]

    def ready(self) -> bool:
        """Tell whether it serves."""
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=5).close()
        except (urllib.error.URLError, OSError):
            return False
        return True


@contextmanager
def prometheus(program: Path, directory: Path, target: str) -> Iterator[Prometheus]:
    """Start one that scrapes ``target`` (host:port), and end it."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {
        "scrape_interval": INTERVAL,
        "scrape_timeout": INTERVAL,
        "evaluation_interval": INTERVAL,
    }
    config["rule_files"] = [str(PROMETHEUS / pattern) for pattern in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    port = free_port()
    process = ChildProcess(
        [
            program,
            f"--config.file={file}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        name="prometheus",
        log=directory / "prometheus.log",
    )
    process.start()
    try:
        server = Prometheus(port, process)
        server.eventually(server.ready)
        yield server
    finally:
        process.stop()
