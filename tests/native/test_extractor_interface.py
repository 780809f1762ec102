"""What Extractor takes, what it refuses, and how it behaves when it is misused."""

import array
import threading

import pytest
from support import CAMPAIGN_ID, SAVED_MS, batches, extractor

from codesvc._fastcsv import Extractor


@pytest.mark.parametrize(
    "data",
    [
        b"A\nB\n",
        bytearray(b"A\nB\n"),
        memoryview(b"A\nB\n"),
        memoryview(b"..A\nB\n..")[2:-2],
        array.array("B", b"A\nB\n"),
    ],
)
def test_takes_any_contiguous_buffer(data: bytes) -> None:
    x = extractor()
    assert x.feed(data) == []
    assert [batch.codes() for batch in x.finish()] == [["A", "B"]]


def test_lets_go_of_the_buffer() -> None:
    data = bytearray(b"A\nB")
    x = extractor()
    x.feed(data)
    data.clear()  # BufferError if it were still exported
    assert [batch.codes() for batch in x.finish()] == [["A", "B"]]


def test_refuses_what_is_no_contiguous_buffer_and_goes_on() -> None:
    x = extractor()
    with pytest.raises(BufferError):
        x.feed(memoryview(b"A\nB\n")[::2])
    with pytest.raises(TypeError):
        x.feed("A\n")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        x.feed(None)  # type: ignore[arg-type]
    assert [batch.codes() for batch in batches(x, b"C\n")] == [["C"]]


def test_nothing_fed_is_an_empty_file() -> None:
    x = extractor()
    assert x.feed(b"") == []
    assert x.finish() == []
    assert (x.codes, x.invalid_count, x.invalid_samples, x.failure) == (0, 0, [], None)


def test_feed_after_finish() -> None:
    x = extractor()
    x.finish()
    with pytest.raises(ValueError, match="finish"):
        x.feed(b"A\n")
    assert x.finish() == []


def test_feed_after_a_failure() -> None:
    x = extractor(strict=True)
    assert x.feed(b"A\n\xff\nB\n") == []
    assert x.failure == ("invalidRow", 2, "the code is not valid UTF-8")
    with pytest.raises(ValueError, match="failure"):
        x.feed(b"C\n")
    assert [batch.codes() for batch in x.finish()] == [["A"]]
    assert (x.codes, x.invalid_count) == (1, 1)


def test_a_failing_feed_returns_the_batches_completed_before() -> None:
    x = extractor(strict=True, max_batch_codes=1)
    assert [batch.codes() for batch in x.feed(b"A\nB\n\x00\nC\n")] == [["A"], ["B"]]
    assert x.finish() == []


def test_a_strict_failure_in_the_last_line() -> None:
    x = extractor(strict=True)
    x.feed(b'A\n"B')
    assert x.failure is None
    assert [batch.codes() for batch in x.finish()] == [["A"]]
    assert x.failure == ("invalidRow", 2, "a quote is still open at the end of the file")


def test_samples_are_limited_and_the_count_is_not() -> None:
    for limit in (0, 1, 3, 9, 10, 11):
        x = extractor(max_samples=limit)
        batches(x, b"\xff\n" * 10)
        assert x.invalid_count == 10
        assert [line for line, _ in x.invalid_samples] == list(range(1, min(limit, 10) + 1))


def test_reasons_hold_nothing_of_the_file() -> None:
    x = extractor()
    batches(x, b'"SECRET"x\nSECRET\x00\nSECRET\xff\n' + b"SECRET" * 50 + b'\n"SECRET')
    assert x.invalid_count == 5
    assert not any("SECRET" in reason for _, reason in x.invalid_samples)


@pytest.mark.parametrize(
    "nonsense",
    [
        {"campaign_id": ""},
        {"campaign_id": "c" * 1025},
        {"campaign_id": "\ud800"},
        {"code_type": ""},
        {"saved_ms": 1 << 63},
        {"max_batch_codes": 0},
        {"max_batch_codes": -1},
        {"max_batch_bytes": 100},
        {"max_batch_bytes": 1 << 40},
        {"max_code_bytes": 0},
        {"max_code_bytes": 1 << 30},
        {"max_row_bytes": 0},
        {"max_samples": -1},
        {"max_samples": 1 << 70},
        {"instruction_set": "mmx"},
        {"instruction_set": ""},
    ],
)
def test_nonsense_is_a_value_error(nonsense: dict[str, object]) -> None:
    arguments: dict[str, object] = {
        "campaign_id": CAMPAIGN_ID,
        "code_type": "tm",
        "saved_ms": SAVED_MS,
        **nonsense,
    }
    with pytest.raises(ValueError, match=r"must be|has no room|surrogates"):
        Extractor(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"campaign_id": None}, {"saved_ms": 1.5}, {"max_samples": "1"}])
def test_other_types_are_a_type_error(wrong: dict[str, object]) -> None:
    arguments: dict[str, object] = {
        "campaign_id": CAMPAIGN_ID,
        "code_type": "tm",
        "saved_ms": SAVED_MS,
        **wrong,
    }
    with pytest.raises(TypeError):
        Extractor(**arguments)  # type: ignore[arg-type]


def test_two_threads_at_once_are_refused_and_lose_nothing() -> None:
    x = extractor()
    chunk = b"0123456789AB\n" * 1_000_000
    made = []

    def work() -> None:
        while True:
            try:
                made.append(x.feed(chunk))
            except RuntimeError:  # met the other thread's short visit
                continue
            return

    thread = threading.Thread(target=work)
    thread.start()
    refused = False
    while thread.is_alive() and not refused:
        try:
            x.feed(b"")
        except RuntimeError:
            refused = True
    thread.join()
    assert refused
    assert sum(map(len, made[0] + x.finish())) == x.codes == 1_000_000


def test_the_gil_is_released() -> None:
    """Another thread runs while one long chunk is parsed; with the GIL held it could not."""
    x = extractor(max_batch_codes=10_000_000, max_batch_bytes=2_000_000_000)
    chunk = b" ,0123456789\n" * 2_000_000
    ticks = 0
    started, over = threading.Event(), threading.Event()

    def tick() -> None:
        nonlocal ticks
        started.set()
        while not over.is_set():
            ticks += 1

    thread = threading.Thread(target=tick)
    thread.start()
    started.wait()
    before = ticks
    x.feed(chunk)
    during = ticks - before
    over.set()
    thread.join()
    assert during > 1000


@pytest.mark.parametrize("size", [1, 2, 17, 4096])
def test_all_invalid_rows_are_handed_out(size: int) -> None:
    """As they come, however many there are, each once; the samples are their beginning."""
    data = b"".join(b"\x01\nGOOD-%d\n\x80,x\n" % number for number in range(3000)) + b'"SECRET'
    x = extractor(all_invalid=True)
    taken = b""
    for start in range(0, len(data), size):
        x.feed(data[start : start + size])
        taken += x.take_invalid()
        assert x.take_invalid() == b""
    x.finish()
    taken += x.take_invalid()
    rows = [line.split(",") for line in taken.decode().split("\r\n")[:-1]]
    lines = [3 * number + at for number in range(3000) for at in (1, 3)]
    assert [int(line) for line, _ in rows] == [*lines, 9001]
    assert [(int(line), reason) for line, reason in rows[:100]] == x.invalid_samples
    assert len(rows) == x.invalid_count
    assert b"SECRET" not in taken


def test_invalid_rows_that_nobody_asked_for_are_not_kept() -> None:
    x = extractor()
    x.feed(b"\x01\n" * 5)
    assert (x.invalid_count, x.take_invalid()) == (5, b"")
