"""`/healthz` and `/readyz`; why a gateway is not ready is told on the management listener only."""

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.context import ApiContext
from gateway.api.models import Output


class Health(Output):
    status: str


class Ready(Output):
    ready: bool
    checks: dict[str, str] | None = None
    """Only on the management listener."""


class HealthEndpoints:
    """Without keys and without the database, so that probes cost nothing."""

    def __init__(self, context: ApiContext, *, with_details: bool) -> None:
        self._context = context
        self._with_details = with_details

    async def health(self, _request: Request) -> Response:
        return _json(200, {"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        readiness = await self._context.readiness()
        body: dict[str, object] = {"ready": readiness.ready}
        if self._with_details:
            body["checks"] = dict(readiness.checks)
        return _json(200 if readiness.ready else 503, body)


def _json(status: int, body: dict[str, object]) -> Response:
    return Response(orjson.dumps(body), status, {"Cache-Control": "no-store"}, "application/json")
