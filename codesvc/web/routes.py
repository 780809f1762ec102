"""The routes, and the application that serves them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from codesvc.observability.telemetry import Telemetry
from codesvc.web import handlers, listing_handlers, upload_handlers
from codesvc.web.admission import BODIES, Bodies
from codesvc.web.deadlines import Deadlines
from codesvc.web.handlers import DEADLINES, DRAINING, INVENTORY, LIMITS, Inventory, json_response
from codesvc.web.health import Health, Metrics
from codesvc.web.idempotent import IDEMPOTENCY, Idempotency
from codesvc.web.middleware import UNMATCHED, Authenticator, Edge, RouteInfo, expect_nothing
from codesvc.web.pages import Served, served_pages
from codesvc.web.schemas import Limits
from codesvc.web.upload_handlers import REMOVALS, UPLOADS, Removals, Uploads

# NOTE: the pattern takes what no campaign id is, so that it is 400 and not 404.
_CAMPAIGN: Final = "/v1/{campaignId:[^/]*}"
_UPLOADS: Final = f"{_CAMPAIGN}/uploads"

EDGE: Final = web.AppKey("edge", Edge)
TELEMETRY: Final = web.AppKey("telemetry", Telemetry)


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path.

    ``head`` says whether HEAD is answered like GET; ``template`` is what metrics and logs call it, if not
    by its path; ``keyed`` says whether an Idempotency-Key is honoured, ``lengthy`` whether it may take for as long as a
    file of any size does.
    """

    method: str
    path: str
    handler: Handler
    protected: bool
    traced: bool = True
    head: bool = True
    template: str | None = None
    keyed: bool = False
    lengthy: bool = False


def create_web_app(
    *,
    inventory: Inventory,
    uploads: Uploads,
    idempotency: Idempotency,
    removals: Removals,
    authenticator: Authenticator,
    telemetry: Telemetry,
    ready: Callable[[], Awaitable[bool]],
    draining: Callable[[], bool],
    limits: Limits | None = None,
    dev_token: Callable[[], str] | None = None,
    console: bool = True,
    other_figures: Callable[[bytes], Awaitable[Sequence[bytes]]] | None = None,
) -> web.Application:
    """Make the application.

    ``ready`` tells whether MongoDB answers, ``draining`` whether the process is going away. ``dev_token``
    makes a token for ``GET /dev/token``; without it, that route does not exist. ``console`` says whether
    there is a page at ``/console``. Where several processes serve, ``other_figures`` takes the
    figures of this one and gives those of all others.
    """
    limits = limits or Limits()
    edge = Edge(authenticator=authenticator, telemetry=telemetry, draining=draining, limits=limits)
    app = web.Application(client_max_size=limits.max_body)
    app[INVENTORY] = inventory
    app[UPLOADS] = uploads
    app[IDEMPOTENCY] = idempotency
    app[REMOVALS] = removals
    app[LIMITS] = limits
    app[DRAINING] = draining
    app[BODIES] = Bodies(limits.max_bodies)
    app[DEADLINES] = Deadlines(limits.operation_timeout)
    app[EDGE] = edge
    app[TELEMETRY] = telemetry
    health = Health(ready=ready, draining=draining)
    _add(app, edge, _v1_routes())
    _add(app, edge, _operator_routes(health, Metrics(telemetry, other_figures)))
    if dev_token is not None:
        _add(app, edge, [_dev_token_route(dev_token)])
    _add(app, edge, _page_routes(served_pages(limits, dev=dev_token is not None, console=console)))
    _add_nothing(app, edge)

    async def lag(_: web.Application) -> AsyncIterator[None]:
        telemetry.event_loop_lag.start()
        yield
        telemetry.event_loop_lag.stop()

    app.cleanup_ctx.append(lag)
    return app


def _v1_routes() -> Iterable[Route]:
    # The router tries them in turn: those that are asked most come first.
    return (
        # A GET that writes: HEAD would lend codes and show them to nobody.
        Route(
            hdrs.METH_GET, f"{_CAMPAIGN}/reserve", handlers.reserve, protected=True, head=False, keyed=True
        ),
        Route(hdrs.METH_POST, f"{_CAMPAIGN}/reserve", handlers.reserve, protected=True, keyed=True),
        Route(hdrs.METH_GET, f"{_CAMPAIGN}/codes/count", handlers.count, protected=True),
        Route(hdrs.METH_POST, f"{_CAMPAIGN}/assign", handlers.assign, protected=True, keyed=True),
        Route(hdrs.METH_POST, f"{_CAMPAIGN}/release", handlers.release, protected=True, keyed=True),
        Route(
            *(hdrs.METH_POST, f"{_CAMPAIGN}/codes", upload_handlers.upload),
            protected=True,
            keyed=True,
            lengthy=True,
        ),
        Route(hdrs.METH_GET, f"{_CAMPAIGN}/codes", listing_handlers.codes, protected=True),
        # NOTE: a slash within a code comes as %2F. Behind codes/count, which is no code's address.
        Route(hdrs.METH_GET, f"{_CAMPAIGN}/codes/{{code:[^/]+}}", handlers.code, protected=True),
        Route(
            hdrs.METH_GET,
            f"{_CAMPAIGN}/reservations/{{reserveId:[^/]+}}",
            handlers.reservation,
            protected=True,
        ),
        Route(hdrs.METH_GET, f"{_UPLOADS}/{{uploadId:[^/]+}}/events", upload_handlers.events, protected=True),
        Route(
            hdrs.METH_GET, f"{_UPLOADS}/{{uploadId:[^/]+}}/invalid", upload_handlers.invalid, protected=True
        ),
        Route(hdrs.METH_GET, f"{_UPLOADS}/{{uploadId:[^/]+}}", upload_handlers.one_upload, protected=True),
        Route(hdrs.METH_DELETE, f"{_UPLOADS}/{{uploadId:[^/]+}}", upload_handlers.delete, protected=True),
        Route(hdrs.METH_GET, _UPLOADS, upload_handlers.uploads, protected=True),
    )


def _operator_routes(health: Health, metrics: Metrics) -> Iterable[Route]:
    return (
        Route(hdrs.METH_GET, "/heartbeat", health.alive, protected=False, traced=False),
        Route(hdrs.METH_GET, "/livez", health.alive, protected=False, traced=False),
        Route(hdrs.METH_GET, "/readyz", health.ready, protected=False, traced=False),
        Route(hdrs.METH_GET, "/metrics", metrics.show, protected=False, traced=False),
    )


def _page_routes(pages: Iterable[Served]) -> Iterable[Route]:
    return (
        Route(hdrs.METH_GET, each.path, each.handler, protected=False, traced=False, template=each.template)
        for each in pages
    )


def _dev_token_route(dev_token: Callable[[], str]) -> Route:
    async def token(_: web.Request) -> web.Response:
        response = json_response({"token": dev_token()})
        response.headers[hdrs.CACHE_CONTROL] = "no-store"
        return response

    return Route(hdrs.METH_GET, "/dev/token", token, protected=False)


def _add(app: web.Application, edge: Edge, routes: Iterable[Route]) -> None:
    """Register routes, and for each of their paths what answers the methods that it does not have."""
    by_path: dict[str, list[Route]] = {}
    for route in routes:
        by_path.setdefault(route.path, []).append(route)
    for path, group in by_path.items():
        resource = app.router.add_resource(path)
        template = group[0].template or resource.canonical
        info = RouteInfo(
            template,
            protected=group[0].protected,
            traced=group[0].traced,
            campaign="{campaignId}" in template,
        )
        allowed = set()
        for route in group:
            methods = [route.method]
            if route.method == hdrs.METH_GET and route.head:
                methods.append(hdrs.METH_HEAD)
            for method in methods:
                known = replace(info, keyed=route.keyed, lengthy=route.lengthy)
                _register(resource, method, edge.guard(known, route.handler))
            allowed.update(methods)
        _register(resource, hdrs.METH_ANY, edge.guard(info, _not_allowed(allowed)))


def _add_nothing(app: web.Application, edge: Edge) -> None:
    """Register what answers all other paths: below /v1 it asks for a token before it says that it is nothing."""
    for path, protected in (("/v1", True), ("/v1/{path:.*}", True), ("/{path:.*}", False)):
        info = RouteInfo(UNMATCHED, protected=protected)
        _register(app.router.add_resource(path), hdrs.METH_ANY, edge.guard(info, _not_found))


def _register(resource: web.Resource, method: str, handler: Handler) -> None:
    resource.add_route(method, handler, expect_handler=expect_nothing)


def _not_allowed(allowed: set[str]) -> Handler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise web.HTTPMethodNotAllowed(request.method, allowed)

    return refuse


async def _not_found(_: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound
