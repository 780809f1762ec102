"""The services that the suite shares, one process for each configuration."""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from .harness import SECRET, Document, Service, new_campaign
from .proxy import Proxy
from .world import Hosting, World


@pytest.fixture(scope="session")
def api_bucket(s3: Any) -> str:
    """The bucket of the whole suite; the S3 endpoint and all that it holds ends with the run."""
    name = f"api-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def api_settings(mongo_uri: str, s3_endpoint: str, api_bucket: str) -> dict[str, str | None]:
    """What every service of the suite needs, but for its database."""
    return {
        "CODESVC_MONGO_URI": mongo_uri,
        "CODESVC_S3_BUCKET": api_bucket,
        "CODESVC_S3_ENDPOINT_URL": s3_endpoint,
        "CODESVC_JWT_SECRET": SECRET,
        # Every reply has a line, to be found by its correlation ID; by default, probes that succeed have none.
        "CODESVC_LOG_PROBES": "1",
    }


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the services' output."""
    return tmp_path_factory.mktemp("services")


@pytest.fixture(scope="session")
def new_database(mongo: MongoClient[Document]) -> Iterator[Callable[[str], str]]:
    """Give names of databases that nobody else uses, dropped when every service has ended."""
    names: list[str] = []

    def make(purpose: str) -> str:
        names.append(f"api-{purpose}-{uuid.uuid4().hex}")
        return names[-1]

    yield make
    # A process that was killed may have left a transaction open, which would hold up a drop for a minute
    # (transactionLifetimeLimitSeconds).
    mongo.admin.command("killAllSessions", [])
    for name in names:
        mongo.drop_database(name)


@pytest.fixture(scope="session")
def main_database(new_database: Callable[[str], str]) -> str:
    """The database of ``world`` and ``second_service``."""
    return new_database("main")


@pytest.fixture(scope="session")
def hosting(mongo: MongoClient[Document], s3: Any, api_bucket: str, logs: Path) -> Hosting:
    """Start a service with these settings on this database, and end it at the end of the block, whatever happens in it.

    It is ready when the block begins, or only launched with ``ready=False``. A test may kill it, or end it itself.
    """

    @contextlib.contextmanager
    def host(settings: Mapping[str, str | None], database: str, *, ready: bool = True) -> Iterator[World]:
        log = logs / f"{database}-{uuid.uuid4().hex}.log"
        service = Service(log, **{**settings, "CODESVC_MONGO_DATABASE": database})
        service.launch()
        try:
            if ready:
                service.wait_until_ready()
            yield World(service, mongo[database], s3, api_bucket)
        finally:
            service.stop()

    return host


@pytest.fixture(scope="session")
def world(hosting: Hosting, api_settings: dict[str, str | None], main_database: str) -> Iterator[World]:
    """The service with nothing set but what it cannot do without."""
    with hosting(api_settings, main_database) as world:
        yield world


@pytest.fixture(scope="session")
def service(world: World) -> Service:
    """The service of ``world``."""
    return world.service


@pytest.fixture(scope="session")
def second_service(
    hosting: Hosting, api_settings: dict[str, str | None], main_database: str
) -> Iterator[Service]:
    """Another process behind the database of ``world``."""
    with hosting(api_settings, main_database) as world:
        yield world.service


TINY = {
    "CODESVC_DEV": "1",
    "CODESVC_BATCH_SIZE": "3",
    "CODESVC_SORT_CODES": "10",
    "CODESVC_WRITE_CONCURRENCY": "3",
    "CODESVC_WRITE_CONCERN": "1",
    "CODESVC_WRITE_JOURNAL": "false",
    "CODESVC_READ_CONCURRENCY": "3",
    "CODESVC_READ_PART_SIZE": "100",
    "CODESVC_MAX_ROW_BYTES": "1000",
    "CODESVC_RESERVATION_TTL": "2",
    "CODESVC_MAX_RESERVE": "5",
    "CODESVC_MAX_CODES_PER_REQUEST": "6",
}


@pytest.fixture(scope="session")
def tiny(
    hosting: Hosting, api_settings: dict[str, str | None], new_database: Callable[[str], str]
) -> Iterator[World]:
    """A service whose every size is as small as can be, whose holds last 2 s, and with /dev/token."""
    with hosting(api_settings | TINY, new_database("tiny")) as world:
        yield world


@pytest.fixture(scope="session")
def mongo_proxy(mongo_uri: str) -> Iterator[Proxy]:
    """What stands between ``fragile`` and MongoDB."""
    with MongoClient[Document](mongo_uri) as client:
        client.admin.command("ping")
        assert client.address is not None
        port = client.address[1]
    with Proxy(port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def s3_proxy(s3_endpoint: str) -> Iterator[Proxy]:
    """What stands between ``fragile`` and S3."""
    with Proxy(int(s3_endpoint.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def fragile_settings(
    api_settings: dict[str, str | None], mongo_proxy: Proxy, s3_proxy: Proxy
) -> dict[str, str | None]:
    """The settings of a service behind the two proxies; parts of 64 KiB, batches of 500 codes, little patience."""
    return api_settings | {
        # Without directConnection, the driver would ask the server for its address, and go past the proxy.
        "CODESVC_MONGO_URI": f"mongodb://127.0.0.1:{mongo_proxy.port}/?directConnection=true",
        "CODESVC_S3_ENDPOINT_URL": f"http://127.0.0.1:{s3_proxy.port}",
        "CODESVC_READ_PART_SIZE": "65536",
        "CODESVC_READ_CONCURRENCY": "2",
        "CODESVC_BATCH_SIZE": "500",
        "CODESVC_MONGO_TIMEOUT": "3",
        "CODESVC_DRAIN_SECONDS": "6",
    }


@pytest.fixture(scope="session")
def fragile_session(
    hosting: Hosting, fragile_settings: dict[str, str | None], new_database: Callable[[str], str]
) -> Iterator[World]:
    """The one process behind ``fragile``."""
    with hosting(fragile_settings, new_database("fragile")) as world:
        yield world


@pytest.fixture
def fragile(fragile_session: World, mongo_proxy: Proxy, s3_proxy: Proxy) -> Iterator[World]:
    """A service behind two proxies, which are whole again after each test."""
    yield fragile_session
    for proxy in (mongo_proxy, s3_proxy):
        proxy.resume()
    fragile_session.service.wait_until_ready()


@pytest.fixture
def campaign() -> str:
    """A campaign of this test's own."""
    return new_campaign()
