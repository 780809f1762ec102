"""What an upload's progress looks like."""

import io
import re

import pytest
from rich.console import Console

from codesvc import progress
from codesvc.progress import UploadProgress


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=120, highlight=False), out


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_terminal_shows_a_bar_with_codes_rate_bytes_and_time_left() -> None:
    shown, out = console(terminal=True)
    with UploadProgress(shown, bytes_total=13_000_000, codes_total=1_000_000) as bar:
        bar.update(codes=250_000, bytes_done=4_000_000)
    line = plain(out.getvalue())
    assert re.search(r"25% 250,000/1,000,000 codes  [\d,]+ codes/s  4\.0/13\.0 MB  ETA 0:\d\d", line)


def test_without_a_total_of_codes_the_bytes_tell_how_far_it_is() -> None:
    shown, out = console(terminal=True)
    with UploadProgress(shown) as bar:
        bar.update(codes=10, bytes_done=500_000, bytes_total=1_000_000)
    assert re.search(r"50% 10 codes  [\d,]+ codes/s  0\.5/1\.0 MB  ETA ", plain(out.getvalue()))


def test_elsewhere_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, out = console(terminal=False)
    with UploadProgress(shown, bytes_total=100, codes_total=10) as bar:
        bar.update(codes=1, bytes_done=10)
    assert out.getvalue() == ""
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    with UploadProgress(shown, bytes_total=100, codes_total=10) as bar:
        bar.update(codes=1, bytes_done=10)
        bar.update(codes=5, bytes_done=50)
    lines = out.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [["10%", "1/10"], ["50%", "5/10"]]
    assert "\x1b" not in out.getvalue()


def test_nothing_done_yet_has_no_time_left() -> None:
    shown, out = console(terminal=True)
    with UploadProgress(shown, bytes_total=0, codes_total=0) as bar:
        bar.update(codes=0, bytes_done=0)
    assert "ETA -:--" in plain(out.getvalue())
