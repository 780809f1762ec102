"""Whose turn it is: the order in which uploads run, where they come from many campaigns and are of all sizes."""

import pytest

from codesvc.errors import TooManyUploadsError
from codesvc.ingest.turns import SMALL_BYTES, Bounds, Turn, Turns

HUGE = 1 << 40


class Queue:
    """Turns, and who has one, in the order in which they came."""

    def __init__(self, running: int, waiting: int = 1000) -> None:
        self.turns = Turns(Bounds(running=running, waiting=waiting))
        self.asked: dict[str, Turn] = {}
        self._seen: list[str] = []

    def ask(self, name: str, size: int = HUGE) -> None:
        """Ask for a turn of the campaign before the name's colon, and look at the file, as an upload does."""
        self.asked[name] = turn = self.turns.ask(name.partition(":")[0])
        self.turns.measured(turn, size)

    def end(self, name: str) -> None:
        self.turns.give_back(self.asked.pop(name))

    def begun(self) -> list[str]:
        """Return those that have begun since the last look, those of the same moment by name."""
        new = sorted(n for n, turn in self.asked.items() if turn.running and n not in self._seen)
        self._seen += new
        assert all(self.asked[one].granted.done() for one in new)
        return new


async def test_campaigns_have_their_turns_one_after_the_other() -> None:
    queue = Queue(1)
    for name in ("a:1", "a:2", "a:3", "a:4", "b:1", "b:2", "c:1"):
        queue.ask(name)
    order = []
    for _ in range(7):
        [name] = queue.begun()
        order.append(name)
        queue.end(name)
    assert order == ["a:1", "a:2", "b:1", "c:1", "a:3", "b:2", "a:4"]


async def test_a_thousand_of_one_campaign_do_not_keep_the_first_of_another_waiting() -> None:
    queue = Queue(16)
    for number in range(800):
        queue.ask(f"a:{number}")
    began = queue.begun()
    # The first, twelve further ones; the rest of the places is kept.
    assert began == sorted(f"a:{number}" for number in range(13))
    queue.ask("b:first")
    assert queue.begun() == ["b:first"], "it has a place at once"
    queue.ask("b:second")
    queue.ask("c:first")
    assert queue.begun() == [], "what is left is kept for small ones"
    queue.end("a:0")
    assert queue.begun() == ["c:first"], "of c, none runs"
    queue.end("a:1")
    assert queue.begun() == ["b:second"], "of b run fewer than of a"
    queue.end("a:2")
    assert queue.begun() == ["a:13"]


async def test_small_files_pass_by_huge_ones() -> None:
    queue = Queue(8)
    for number in range(20):
        queue.ask(f"a:{number}")
    for number in range(20):
        queue.ask(f"{number}:huge")
    assert len(queue.begun()) == 7
    queue.ask("a:small", SMALL_BYTES)
    assert queue.begun() == ["a:small"]
    queue.ask("b:small", SMALL_BYTES)
    queue.ask("c:not quite", SMALL_BYTES + 1)
    assert queue.begun() == [], "every place is taken"
    queue.end("a:small")
    assert queue.begun() == ["b:small"]


async def test_small_files_of_one_campaign_leave_a_place_for_others() -> None:
    queue = Queue(8)
    for number in range(20):
        queue.ask(f"a:{number}", 1)
    assert len(queue.begun()) == 8  # the first, and seven further ones
    queue.end("a:0")
    assert queue.begun() == [], "the place of a campaign's first upload is kept"
    queue.ask("b:1", 1)
    assert queue.begun() == ["b:1"]


async def test_a_few_places_are_for_anybody() -> None:
    queue = Queue(7)
    for number in range(9):
        queue.ask(f"a:{number}")
    assert len(queue.begun()) == 7


async def test_a_running_upload_that_turns_out_to_be_small_makes_room() -> None:
    queue = Queue(8)
    first, second, *_, last = [queue.turns.ask("a") for _ in range(8)]
    assert second.running
    assert not last.running
    queue.turns.measured(first, 1)
    assert not last.running, "the first had a place of a kind that no further one may have"
    queue.turns.measured(second, 1)
    assert last.running


async def test_no_more_wait_than_may() -> None:
    queue = Queue(1, waiting=16)
    queue.ask("a:running")
    for number in range(14):
        queue.ask(f"a:{number}")
    with pytest.raises(TooManyUploadsError):
        queue.ask("a:one too many")
    queue.ask("b:1")
    queue.ask("c:1")
    with pytest.raises(TooManyUploadsError):
        queue.ask("d:1")
    assert queue.turns.waiting == 16


async def test_none_waits_where_none_may() -> None:
    queue = Queue(1, waiting=0)
    queue.ask("a:running")
    with pytest.raises(TooManyUploadsError):
        queue.turns.check("b")
    queue.end("a:running")
    queue.turns.check("b")


async def test_whoever_gives_up_is_passed_over() -> None:
    queue = Queue(1)
    for name in ("a:1", "b:1", "b:2", "c:1"):
        queue.ask(name)
    queue.begun()
    queue.end("b:1")
    queue.asked["b:2"].granted.cancel()  # is about to give it back
    queue.end("a:1")
    assert queue.begun() == ["c:1"]
    queue.end("b:2")
    queue.end("c:1")
    assert queue.turns.waiting == 0
    queue.ask("a:again")
    assert queue.begun() == ["a:again"]


async def test_nothing_is_left_behind() -> None:
    queue = Queue(16)
    names = [f"{number % 40}:{number}" for number in range(400)]
    for name in names:
        queue.ask(name, 1 if name.endswith("3") else HUGE)
    done: list[str] = []
    while began := queue.begun():
        done += began
        for name in began:
            queue.end(name)
    assert sorted(done) == sorted(names)
    assert queue.turns.waiting == 0
