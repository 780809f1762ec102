"""The application over small rooms of our own: an inventory in a dict, and uploads that do as they are told.

A pytest plugin: a test module that names it in ``pytest_plugins`` has its fixtures. Such a module imports it
too, before pytest could rewrite it: PYTEST_DONT_REWRITE.
"""

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp.web
import orjson
import pytest
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from codesvc.errors import NotEnoughCodesError, NotFoundError
from codesvc.idempotency import Idempotency
from codesvc.models import (
    ChangeCounts,
    Code,
    CodePage,
    CodeType,
    Counts,
    KeptReply,
    KeyClaim,
    KeyedRequest,
    KeyStanding,
    Progress,
    Reservation,
    ReservedCode,
    Status,
    Upload,
    UploadCounts,
    UploadOrder,
    UploadReport,
    UploadState,
)
from codesvc.observability.telemetry import Telemetry
from codesvc.web.auth import Authenticator, TokenRules, mint_token
from codesvc.web.routes import create_web_app
from codesvc.web.schemas import Limits
from codesvc.web.server import WebRunner

SECRET = "a secret that is long enough for HS256, and then some"
NOW = datetime(2026, 3, 4, 5, 6, 7, 89_999, tzinfo=UTC)

Client = TestClient[Any, Any]


@dataclass
class MemoryInventory:
    """An inventory of one type of code, in memory. ``failure`` is raised by every method while it is set."""

    codes: dict[str, Status] = field(default_factory=dict)
    failure: Exception | None = None
    delay: Callable[[], Awaitable[None]] | None = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    reservations: dict[str, Reservation] = field(default_factory=dict)

    async def _begin(self, *call: Any) -> None:
        self.calls.append(call)
        if self.delay is not None:
            await self.delay()
        if self.failure is not None:
            raise self.failure

    def _number(self, status: Status) -> int:
        return sum(each is status for each in self.codes.values())

    async def count(self, campaign_id: str, code_type: CodeType) -> Counts:
        await self._begin("count", campaign_id, code_type)
        return Counts(*(self._number(status) for status in Status))

    async def count_status(self, campaign_id: str, code_type: CodeType, status: Status) -> int:
        await self._begin("count_status", campaign_id, code_type, status)
        return self._number(status)

    async def find(self, campaign_id: str, code: str) -> Code:
        await self._begin("find", campaign_id, code)
        if code not in self.codes:
            raise NotFoundError("There is no such code.")
        return Code(code, CodeType.TM, self.codes[code], NOW)

    async def page(
        self,
        campaign_id: str,
        *,
        code_type: CodeType | None,
        status: Status | None,
        after: str,
        limit: int,
    ) -> CodePage:
        await self._begin("page", campaign_id, code_type, status, after, limit)
        found = [code for code in sorted(self.codes) if code > after]
        shown = tuple([Code(code, CodeType.TM, self.codes[code], NOW) for code in found[:limit]])
        return CodePage(shown, shown[-1].code if len(found) > limit else None)

    async def export(
        self, campaign_id: str, *, code_type: CodeType | None, status: Status | None, after: str
    ) -> AsyncGenerator[Sequence[Code], None]:
        await self._begin("export", campaign_id, code_type, status, after)
        for code in sorted(self.codes):
            yield [Code(code, CodeType.TM, self.codes[code], NOW)]

    async def reserve(
        self,
        campaign_id: str,
        code_type: CodeType,
        count: int,
        *,
        ttl: timedelta | None = None,
        minimum: int = 0,
        reserve_id: str | None = None,
    ) -> Reservation:
        await self._begin(
            "reserve", campaign_id, code_type, count, *([ttl, minimum] if ttl or minimum else ())
        )
        reserve_id = reserve_id or str(uuid.uuid4())
        free = [code for code, status in self.codes.items() if status is Status.AVAILABLE][:count]
        if len(free) < minimum:
            raise NotEnoughCodesError("There are fewer.")
        self.codes.update(dict.fromkeys(free, Status.RESERVED))
        codes = tuple(ReservedCode(code, code_type, reserve_id, NOW, NOW) for code in free)
        self.reservations[reserve_id] = Reservation(reserve_id, codes, NOW + (ttl or timedelta(days=1)))
        return self.reservations[reserve_id]

    async def reservation(self, campaign_id: str, reserve_id: str) -> Reservation:
        await self._begin("reservation", campaign_id, reserve_id)
        if reserve_id not in self.reservations:
            raise NotFoundError("There is no such reservation.")
        return self.reservations[reserve_id]

    async def assign(self, campaign_id: str, codes: Sequence[str]) -> ChangeCounts:
        await self._begin("assign", campaign_id, tuple(codes))
        return self._change(codes, {Status.AVAILABLE, Status.RESERVED}, Status.ASSIGNED)

    async def release(self, campaign_id: str, codes: Sequence[str]) -> ChangeCounts:
        await self._begin("release", campaign_id, tuple(codes))
        return self._change(codes, {Status.RESERVED}, Status.AVAILABLE)

    async def assign_reservation(self, campaign_id: str, reserve_id: str) -> ChangeCounts:
        await self._begin("assign_reservation", campaign_id, reserve_id)
        return await self.assign(campaign_id, self._held(reserve_id))

    async def release_reservation(self, campaign_id: str, reserve_id: str) -> ChangeCounts:
        await self._begin("release_reservation", campaign_id, reserve_id)
        return await self.release(campaign_id, self._held(reserve_id))

    def _held(self, reserve_id: str) -> list[str]:
        found = self.reservations.pop(reserve_id, None)
        return [one.code for one in found.codes] if found else []

    def _change(self, codes: Sequence[str], before: set[Status], after: Status) -> ChangeCounts:
        changed = {code for code in codes if self.codes.get(code) in before}
        self.codes.update(dict.fromkeys(changed, after))
        return ChangeCounts(len(codes), len(changed))


@dataclass
class MemoryUploads:
    """Uploads that end with ``outcome``, whether a report or an error."""

    outcome: UploadReport | Exception = field(default_factory=lambda: UploadReport(UploadCounts(98, 2)))
    calls: list[Mapping[str, Any]] = field(default_factory=list)
    known: list[Upload] = field(default_factory=list)

    async def run(self, order: UploadOrder, *, upload_id: str | None = None) -> UploadReport:
        self.calls.append(asdict(order))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return replace(self.outcome, upload_id=upload_id or str(uuid.uuid4()))

    async def start(self, order: UploadOrder, *, upload_id: str | None = None) -> Upload:
        report = await self.run(order, upload_id=upload_id)
        progress = Progress(1, 1, report.counts, report.invalid_count, report.invalid_samples)
        self.known.append(Upload(str(report.upload_id), order, UploadState.RUNNING, NOW, progress))
        return self.known[-1]

    async def get(self, campaign_id: str, upload_id: str) -> Upload:
        for one in self.known:
            if (one.order.campaign_id, one.id) == (campaign_id, upload_id):
                return one
        raise NotFoundError("There is no such upload.")

    async def page(self, campaign_id: str, *, limit: int, after: str | None) -> list[Upload]:
        assert after is None
        return [one for one in self.known if one.order.campaign_id == campaign_id][:limit]

    async def watch(self, campaign_id: str, upload_id: str) -> AsyncGenerator[Upload | None, None]:
        one = await self.get(campaign_id, upload_id)
        yield one
        yield None
        yield replace(one, state=UploadState.SUCCEEDED)

    async def invalid(self, upload_id: str) -> AsyncGenerator[bytes, None]:
        assert upload_id in {one.id for one in self.known}
        yield b"2,the code is too long\r\n"

    async def delete(
        self, campaign_id: str, upload_id: str, *, take_back: bool | None
    ) -> tuple[Upload, bool]:
        assert take_back is None
        return replace(await self.get(campaign_id, upload_id), state=UploadState.CANCELLED), True


@dataclass
class MemoryKeys:
    """Idempotency keys in a dict; no lease ever ends."""

    lease_seconds: float = 60.0
    claims: dict[tuple[str, str], KeyClaim] = field(default_factory=dict)
    replies: dict[str, KeptReply] = field(default_factory=dict)

    async def claim(self, asked: KeyedRequest, claim_id: str, name: str) -> KeyClaim | KeyStanding:
        mine = KeyClaim(asked, claim_id, name)
        claim = self.claims.setdefault((asked.campaign_id, asked.key), mine)
        return mine if claim is mine else KeyStanding(claim.asked.fingerprint, self.replies.get(claim.id))

    async def renew(self, claim: KeyClaim) -> bool:
        return claim.id not in self.replies

    async def keep(self, claim: KeyClaim, reply: KeptReply) -> bool:
        self.replies[claim.id] = reply
        return True

    async def let_go(self, claim: KeyClaim, names: Sequence[str]) -> None:
        assert names
        await self.free(claim.asked, claim.id)

    async def free(self, asked: KeyedRequest, claim_id: str) -> None:
        if self.claims[asked.campaign_id, asked.key].id == claim_id:
            del self.claims[asked.campaign_id, asked.key]


@dataclass
class Service:
    """Everything a test may turn or look at."""

    inventory: MemoryInventory = field(default_factory=MemoryInventory)
    uploads: MemoryUploads = field(default_factory=MemoryUploads)
    keys: MemoryKeys = field(default_factory=MemoryKeys)
    telemetry: Telemetry = field(default_factory=Telemetry)
    rules: TokenRules = field(default_factory=lambda: TokenRules(secret=SECRET))
    limits: Limits = field(default_factory=lambda: Limits(max_reserve=100, max_codes_per_request=1000))
    ready: Callable[[], Awaitable[bool]] | None = None
    is_ready: bool = True
    is_draining: bool = False
    dev: bool = False
    console: bool = True

    async def _ready(self) -> bool:
        return self.is_ready

    def application(self) -> aiohttp.web.Application:
        authenticator = Authenticator(self.rules)
        app = create_web_app(
            inventory=self.inventory,
            uploads=self.uploads,
            idempotency=Idempotency(self.keys, self.telemetry),
            removals=self.uploads,
            authenticator=authenticator,
            telemetry=self.telemetry,
            ready=self.ready or self._ready,
            draining=lambda: self.is_draining,
            limits=self.limits,
            dev_token=token if self.dev else None,
            console=self.console,
        )

        async def close(_: aiohttp.web.Application) -> None:
            await authenticator.close()

        app.on_cleanup.append(close)
        return app


def token(*, secret: str = SECRET, ttl: float = 60, **kwargs: Any) -> str:
    return mint_token(secret=secret, ttl=ttl, **kwargs)


def bearer(**kwargs: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(**kwargs)}"}


class Host(TestServer):
    """Serves the application as `codesvc serve` does."""

    __test__ = False

    async def _make_runner(self, **kwargs: Any) -> WebRunner:
        return WebRunner(self.app, **kwargs)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def client(service: Service) -> AsyncIterator[Client]:
    """A client that sends a valid token, unless a test says otherwise."""
    async with TestClient(Host(service.application()), headers=bearer()) as client:
        yield client


@pytest.fixture
async def anonymous(service: Service) -> AsyncIterator[Client]:
    """A client without a token."""
    async with TestClient(Host(service.application())) as client:
        yield client


def metric_samples(text: str) -> dict[str, float]:
    """Read the text format without a parser: ``name{labels}`` to value."""
    samples = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            samples[name] = float(value)
    return samples


@dataclass(frozen=True)
class Reply:
    """A response, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a problem, after everything that all problems have in common was checked."""
        assert self.headers["Content-Type"] == "application/problem+json"
        problem = self.json
        assert problem["status"] == self.status
        assert problem["type"] == f"urn:codesvc:problem:{problem['code']}"
        assert problem["title"]
        assert problem["detail"]
        assert problem["correlationId"] == self.headers["X-Correlation-ID"]
        assert ("WWW-Authenticate" in self.headers) == (self.status == 401)
        assert ("Retry-After" in self.headers) == (self.status == 503)
        assert ("Allow" in self.headers) == (self.status == 405)
        return str(problem["code"])


async def send(client: Client, method: str, path: str, **kwargs: Any) -> Reply:
    """Send a request, the path as it is spelt."""
    url = client.make_url("/").join(URL(path, encoded=True))
    async with client.session.request(method, url, **kwargs) as response:
        return Reply(response.status, response.headers, await response.read())
