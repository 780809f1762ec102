"""When a call is tried again, and how long it waits until then."""

import random
import time
from dataclasses import dataclass
from enum import Enum, auto

from codesvc.client.errors import CodesvcClientError, ConflictError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and how long, a call is tried.

    The pause before a try is a random part ("full jitter") of ``first_pause`` doubled with each try, up to
    ``longest_pause``; if the service said ``Retry-After``, that much longer.

    Attributes:
        tries: all of them, the first included.
        seconds: the time for the whole call, pauses and all tries included. Of an upload, it is the time that may pass
            without a sign of life; the upload itself may take as long as it does.

    """

    tries: int = 6
    seconds: float = 120.0
    first_pause: float = 0.2
    longest_pause: float = 10.0

    def __post_init__(self) -> None:
        if self.tries < 1 or min(self.seconds, self.first_pause, self.longest_pause) <= 0:
            raise ValueError("tries is at least 1, and every time is above 0")

    def start(self) -> "Attempts":
        """Begin a call."""
        return Attempts(self)


class Attempts:
    """The tries of one call."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._made = 0
        self._until = time.monotonic() + policy.seconds

    @property
    def seconds_left(self) -> float:
        """What is left of the time for the call."""
        return max(0.0, self._until - time.monotonic())

    def pause(self, retry_after: float | None, *, counts: bool = True) -> float | None:
        """Return how many seconds to wait before the next try; None if there is none, or no time for it.

        One that does not count was made to see whether another has ended.
        """
        self._made += counts
        if self._made >= self._policy.tries:
            return None
        # 2.0 ** 1024 is too large for a float.
        longest = min(self._policy.longest_pause, self._policy.first_pause * 2.0 ** min(self._made - 1, 60))
        seconds = (retry_after or 0.0) + random.uniform(0, longest)  # noqa: S311 - no secret
        return seconds if seconds < self.seconds_left else None


class Kind(Enum):
    """What it means to send a request twice."""

    READ = auto()
    REPEATABLE = auto()
    """The second time finds everything as it was asked to be; only the counts tell less."""
    ONCE = auto()
    """The second time does it again."""


def may_repeat(kind: Kind, error: CodesvcClientError, *, key_known: bool) -> bool:
    """Tell whether a try that ended with ``error`` may be followed by another."""
    if isinstance(error, ConflictError) and key_known and error.retry_after is not None:
        return True  # the try before this one is still under way
    if not error.transient:
        return False
    return kind is not Kind.ONCE or key_known or not error.may_have_taken_effect
