"""A service, a proxy in front of it, and clients on both ways."""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from api.conftest import (
    api_bucket,
    api_settings,
    campaign,
    fragile,
    fragile_session,
    fragile_settings,
    hosting,
    logs,
    main_database,
    mongo_proxy,
    new_database,
    s3_proxy,
    service,
    world,
)
from api.harness import Service
from api.proxy import Proxy

from codesvc.client import Client, RetryPolicy

__all__ = [
    "api_bucket",
    "api_settings",
    "campaign",
    "fragile",
    "fragile_session",
    "fragile_settings",
    "hosting",
    "logs",
    "main_database",
    "mongo_proxy",
    "new_database",
    "s3_proxy",
    "service",
    "world",
]

QUICK = RetryPolicy(tries=5, seconds=30, first_pause=0.01, longest_pause=0.1)

Connect = Callable[..., Client]


@pytest.fixture
def connect(service: Service) -> Connect:
    """Makes clients of the service, or of another port, that do not wait long before they try again."""

    def make(port: int | None = None, **options: object) -> Client:
        address = f"http://127.0.0.1:{port or service.port}"
        return Client(address, **({"token": service.token, "retries": QUICK} | options))  # type: ignore[arg-type]

    return make


@pytest.fixture
async def client(connect: Connect) -> AsyncIterator[Client]:
    """A client of the service."""
    async with connect() as opened:
        yield opened


@pytest.fixture
def proxy(service: Service) -> Iterator[Proxy]:
    """What stands between a client and the service."""
    with Proxy(service.port) as running:
        yield running
