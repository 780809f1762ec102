"""Uploads whose commands fail, or whose replies are lost, before and after they took effect."""

import asyncio

import pytest
from datastore.rig import Documents, Rig, Rigs, numbered

import codesvc.datastore.codes
from codesvc.errors import DatabaseRefusedError, DatabaseUnavailableError
from codesvc.local.mongod import Mongod
from codesvc.models import CodeType, UploadCounts

from .conftest import FailPoint
from .proxy import Proxy, command

# A file of new, known and repeated codes; in batches of 50, several in flight.
KNOWN = numbered(120, start=150)
FILE = numbered(400) + numbered(40, start=360)
COUNTS = UploadCounts(inserted=280, updated=160)

STRATEGIES = ["insert-first", "upsert"]


@pytest.fixture(params=STRATEGIES)
async def writing(request: pytest.FixtureRequest, rigs: Rigs) -> Rig:
    """A rig that writes in each of the ways; some of the file's codes are stored."""
    rig = await rigs(
        mongo_driver="pymongo",
        write_strategy=request.param,
        batch_size=50,
        write_concurrency=3,
        mongo_timeout=3,
    )
    await rig.upload(KNOWN)
    return rig


async def second_try_is_exact(rig: Rig, documents: Documents, error: type[Exception]) -> None:
    with pytest.raises(error):
        await rig.upload(FILE)
    missing = 400 - documents.count_documents({})
    assert await rig.upload(FILE) == UploadCounts(inserted=missing, updated=len(FILE) - missing)


def all_there(documents: Documents) -> None:
    assert documents.count_documents({}) == 400


@pytest.mark.parametrize("code", [7, 91, 189, 9001, 10107, 11600, 11602, 13435])
async def test_a_command_that_is_refused_for_the_moment(
    writing: Rig, documents: Documents, failing: FailPoint, code: int
) -> None:
    with failing("insert", "update", times=2, errorCode=code):
        assert await writing.upload(FILE) == COUNTS
    all_there(documents)


@pytest.mark.parametrize("raw", [True, False])
async def test_old_news_of_a_failover_does_not_keep_the_driver_waiting(
    rigs: Rigs, mongod: Mongod, failing: FailPoint, monkeypatch: pytest.MonkeyPatch, *, raw: bool
) -> None:
    # The error says which state of the server it tells of. The driver knows of it already, so it need not wait until
    # the server has something new to say, which by default takes ten seconds.
    monkeypatch.setattr(codesvc.datastore.codes, "raw_encoding_works", lambda: raw)
    rig = await rigs(uri=mongod.uri, batch_size=50, write_concurrency=3, mongo_timeout=5)
    with failing("insert", "update", times=2, errorCode=10107):
        assert await rig.upload(FILE) == UploadCounts(inserted=400, updated=40)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_connection_that_is_closed_instead_of_a_reply(
    writing: Rig, documents: Documents, failing: FailPoint, times: int
) -> None:
    with failing("insert", "update", times=times, closeConnection=True):
        assert await writing.upload(FILE) == COUNTS
    all_there(documents)


@pytest.mark.parametrize("code", [91, 189, 11600])
async def test_a_write_that_took_effect_while_the_server_was_leaving(
    writing: Rig, documents: Documents, failing: FailPoint, code: int
) -> None:
    # The write is done, but the write concern is not: the command is sent again, and must not count twice.
    lost = {"code": code, "errmsg": "leaving"}
    with failing("insert", "update", times=3, writeConcernError=lost):
        assert await writing.upload(FILE) == COUNTS
    all_there(documents)


@pytest.mark.parametrize("code", [0, 64, 79, 100])
async def test_a_write_concern_that_is_not_met_is_an_error(
    writing: Rig, documents: Documents, failing: FailPoint, code: int
) -> None:
    error = DatabaseUnavailableError if code == 64 else DatabaseRefusedError
    unmet = {"code": code, "errmsg": "not met", "errInfo": {"wtimeout": True}}
    with failing("insert", "update", times=1, writeConcernError=unmet):
        await second_try_is_exact(writing, documents, error)
    all_there(documents)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (8, DatabaseRefusedError),
        (13, DatabaseRefusedError),
        (50, DatabaseUnavailableError),
        (112, DatabaseUnavailableError),
        (11601, DatabaseUnavailableError),
        (14031, DatabaseUnavailableError),
    ],
)
async def test_a_command_that_is_refused(
    writing: Rig, documents: Documents, failing: FailPoint, code: int, error: type[Exception]
) -> None:
    with failing("insert", "update", times=1, errorCode=code):
        await second_try_is_exact(writing, documents, error)
    all_there(documents)


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_server_that_goes_on_refusing(
    rigs: Rigs, documents: Documents, failing: FailPoint, strategy: str
) -> None:
    rig = await rigs(write_strategy=strategy, mongo_timeout=1)
    with failing("insert", "update", times=10_000, errorCode=91), pytest.raises(DatabaseUnavailableError):
        await rig.upload(FILE)
    assert documents.count_documents({}) == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["insert", "update"])
async def test_a_reply_that_is_lost(
    rigs: Rigs,
    driver: str,
    strategy: str,
    name: str,
    proxy: Proxy,
    proxy_uri: str,
    documents: Documents,
) -> None:
    rig = await rigs(
        uri=proxy_uri, mongo_driver=driver, write_strategy=strategy, batch_size=50, write_concurrency=3
    )
    await rig.upload(KNOWN)
    proxy.lose_replies(command(name), times=2)
    assert await rig.upload(FILE, code_type=CodeType.EXTERNAL) == COUNTS
    assert proxy.swallowed == (0 if strategy == "upsert" and name == "insert" else 2)
    all_there(documents)


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_every_connection_reset_again_and_again(
    rigs: Rigs, driver: str, strategy: str, proxy: Proxy, proxy_uri: str, documents: Documents
) -> None:
    rig = await rigs(
        uri=proxy_uri, mongo_driver=driver, write_strategy=strategy, batch_size=20, write_concurrency=4
    )
    await rig.upload(KNOWN)
    uploading = asyncio.create_task(rig.upload(FILE * 5))
    while not uploading.done():
        await asyncio.sleep(0.15)
        proxy.reset()
    missing = 280
    try:
        counts = await uploading
    except DatabaseUnavailableError:
        # The driver gives up sooner than the store does; then it is the second try that counts.
        missing = 400 - documents.count_documents({})
        counts = await rig.upload(FILE * 5)
    assert counts == UploadCounts(inserted=missing, updated=5 * len(FILE) - missing)
    all_there(documents)


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_document_that_a_validator_refuses_is_not_counted(
    rigs: Rigs, documents: Documents, strategy: str
) -> None:
    rig = await rigs(write_strategy=strategy, batch_size=50, write_concurrency=3)
    await rig.upload(KNOWN)
    refused = {"$expr": {"$ne": ["$_id.code", FILE[70]]}}
    documents.database.command("collMod", "codes", validator=refused)
    try:
        with pytest.raises(DatabaseRefusedError, match="121"):
            await rig.upload(FILE)
        assert documents.count_documents({"_id.code": FILE[70]}) == 0
    finally:
        documents.database.command("collMod", "codes", validator={})
    missing = 400 - documents.count_documents({})
    assert missing > 0
    assert await rig.upload(FILE) == UploadCounts(inserted=missing, updated=len(FILE) - missing)


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_duplicate_of_another_index_is_not_counted(
    rigs: Rigs, documents: Documents, strategy: str
) -> None:
    rig = await rigs(write_strategy=strategy, batch_size=50)
    await rig.upload(KNOWN, campaign_id="other")
    documents.create_index("_id.code", unique=True, name="foreign")
    try:
        with pytest.raises(DatabaseRefusedError, match="11000"):
            await rig.upload(FILE)
    finally:
        documents.drop_index("foreign")


async def test_an_error_tells_no_code(rigs: Rigs, documents: Documents) -> None:
    rig = await rigs()
    await rig.upload(["SECRET-1"], campaign_id="other")
    documents.create_index("_id.code", unique=True, name="foreign")
    try:
        with pytest.raises(DatabaseRefusedError) as raised:
            await rig.upload(["SECRET-1"])
    finally:
        documents.drop_index("foreign")
    assert "SECRET" not in str(raised.value)
