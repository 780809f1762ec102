"""Walking through a campaign's codes by ``_id``, in pieces that are short whatever the campaign's size."""

import time
from typing import Any, Final

from bson.max_key import MaxKey

from codesvc.datastore.client import AsyncCollection

BY_ID: Final = {"_id": 1}
"""The index that a walk goes along."""


def stretch(campaign_id: str, after: str, to: str | None = None) -> dict[str, Any]:
    """Select the codes of a campaign behind ``after``, up to ``to`` or to the last."""
    return {
        "_id": {
            "$gt": {"campaign_id": campaign_id, "code": after},
            "$lte": {"campaign_id": campaign_id, "code": MaxKey() if to is None else to},
        }
    }


class Pieces:
    """Cuts a walk into pieces by the number of documents, which follows the time that the last piece took.

    Args:
        first: documents of the first piece.
        most: documents of the largest.
        seconds: for a piece; one that takes less than half of it makes the next one larger.

    """

    def __init__(
        self, codes: AsyncCollection, campaign_id: str, *, first: int, most: int, seconds: float
    ) -> None:
        self._codes = codes
        self._campaign_id = campaign_id
        self._documents = first
        self._most = most
        self._seconds = seconds
        self._began = 0.0

    async def end(self, after: str) -> str | None:
        """Return the last code of the piece that begins behind ``after``; None where that is the campaign's last.

        Keys of the index are all that is read for that.
        """
        self._began = time.monotonic()
        found = await self._codes.find_one(
            stretch(self._campaign_id, after),
            {"_id": 1},
            sort=[("_id", 1)],
            skip=self._documents - 1,
            hint=BY_ID,
        )
        return None if found is None else str(found["_id"]["code"])

    def done(self) -> None:
        """Note that the piece is done, and choose the size of the next."""
        took = time.monotonic() - self._began
        if took < self._seconds / 2:
            self._documents = min(2 * self._documents, self._most)
        elif took > self._seconds:
            self.shorten()

    def shorten(self) -> None:
        """Make the next piece shorter."""
        self._documents = max(self._documents // 2, 1)
