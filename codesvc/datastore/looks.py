"""Looks: which codes of a batch are there already.

A batch is looked at from its first code to its last, first a few hundred of them, then many at a time: where the
file's codes lie close together in the index of ``_id``, by reading that stretch of it from end to end; where they lie
far apart, by asking for each. A look has read concern ``majority``, so that what it shows is as durable as what is
written; a standalone server has no majority, and shows what it has.
"""

from typing import Final

from bson.timestamp import Timestamp

from codesvc._fastcsv import NOT_SEEN, Batch
from codesvc.datastore.wire import MAX_FOUND, Wire

# Codes that are looked at first, and then at a time: the replies of a few MB keep memory small.
_FIRST_LOOK: Final = 512
_LOOK: Final = 50_000
_LOOK_FOR_EACH: Final = 5_000

# A stretch of the index is read while it holds at most so many documents for each code of the file: to read one costs
# the server about a sixth of a search for one.
_DENSE: Final = 6

# From this share of known codes on, it pays to look before the insert: a known code that is inserted costs the server
# some 40 us (E11000, then an upsert), a look at a stretch 1 to 4, a search 5.
_WORTH_A_LOOK: Final = {True: 0.03, False: 0.12}
"""By whether the codes lie close together."""


class Looks:
    """Looks codes up; any number of batches at once."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def known(self, batch: Batch) -> bytearray:
        """Mark all codes of a sorted batch that are there, whatever their type; the others are NOT_SEEN."""
        marks, _ = await self._look(batch, typed=False, whole=True)
        return marks

    async def look(self, batch: Batch, *, typed: bool) -> tuple[bytearray, Timestamp | None]:
        """Mark codes of a sorted batch that are there, as long as enough of them are for that to be worth it.

        With ``typed``, those of another type are marked as such. Returns as well an instant (of the cluster's clock)
        that is not before what was seen; None where nothing was read, and on a standalone server.
        """
        return await self._look(batch, typed=typed, whole=False)

    async def _look(self, batch: Batch, *, typed: bool, whole: bool) -> tuple[bytearray, Timestamp | None]:
        marks = bytearray(len(batch))
        instant: Timestamp | None = None
        position = 0
        dense = True
        while position < len(batch):
            seldom = _WORTH_A_LOOK[dense] * position
            if not whole and position and position - marks.count(NOT_SEEN, 0, position) < seldom:
                break
            if dense:
                stop = min(position + (_LOOK if position else _FIRST_LOOK), len(batch))
                limit = min(_DENSE * (stop - position), MAX_FOUND)
                query = batch.within(position, stop)
            else:
                stop = min(position + _LOOK_FOR_EACH, len(batch))
                limit = stop - position
                query = batch.among(position, stop)
            found = await self._wire.find(query, limit=limit, typed=typed)
            if found.instant is not None:
                instant = found.instant if instant is None else max(instant, found.instant)
            documents, reached, cursor = batch.mark(found.reply, position, stop, marks)
            if cursor:
                # Only where others' documents of a huge _id lie between: the reply was full before the limit.
                await self._wire.kill_cursor(cursor)
            if not cursor and (not dense or documents < limit):
                reached = stop  # there is nothing else up to there
            # Also where nothing was reached at all.
            dense = dense and documents <= _DENSE * (reached - position)
            position = reached
        return marks, instant
