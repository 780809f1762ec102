"""What a service under test is started with besides, by way of PYTHONPATH: nothing of it is in the service itself.

Variables:
    FAULTS_CLOCK_OFFSET: seconds that this process's wall clock is ahead (before, if negative); its monotonic clock, by
        which it waits, and the server's clock stay as they are.
    FAULTS_HEARTBEAT: the shortest time, in seconds, between two looks of the driver at a server that seemed to be gone;
        0.5 otherwise. A fail point takes a server away for one command only.
"""

import os

if _heartbeat := os.environ.get("FAULTS_HEARTBEAT"):
    import pymongo.common

    pymongo.common.MIN_HEARTBEAT_INTERVAL = float(_heartbeat)

if _offset := os.environ.get("FAULTS_CLOCK_OFFSET"):
    import datetime as dt
    import time

    _seconds = float(_offset)
    _time = time.time

    class _Shifted(dt.datetime):
        """The present is another's; every other instant is as it was."""

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> "_Shifted":
            return cls.fromtimestamp(_time() + _seconds, tz)

        @classmethod
        def utcnow(cls) -> "_Shifted":
            return cls.now(dt.UTC).replace(tzinfo=None)

    time.time = lambda: _time() + _seconds
    dt.datetime = _Shifted  # type: ignore[misc]
