"""What the bulk commands take for granted of the driver, and what follows when it does not hold."""

from typing import Any

import bson
import pytest

from codesvc.datastore import wire
from codesvc.datastore.wire import raw_encoding_works

from .rig import Documents, Rigs, numbered


def test_this_driver_takes_encoded_batches() -> None:
    assert raw_encoding_works()


def test_a_driver_that_does_not_copy_runs_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire._RawRun, "_type_marker", 0)
    assert not raw_encoding_works()


def test_a_driver_that_decodes_replies_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(data: bytes, _options: Any) -> dict[str, Any]:
        return dict(original(data))

    original = bson.decode
    monkeypatch.setattr(bson, "decode", decode)
    assert not raw_encoding_works()


async def test_an_upload_of_long_replies(rigs: Rigs, documents: Documents) -> None:
    # Replies that are left as they are, and replies that are decoded, tell the same.
    rig = await rigs(mongo_driver="pymongo", write_concurrency=1)
    for size in (100, 2_000):
        documents.delete_many({})
        known = numbered(size)
        await rig.upload(known)
        file = known + numbered(size, start=size)
        counts = await rig.upload(file, batch_size=2 * size)
        assert (counts.inserted, counts.updated) == (size, size)
        assert (await rig.upload(file, batch_size=2 * size)).updated == 2 * size
