"""Hands the current bundle to OPA: ``GET /bundles/gateway.tar.gz`` with ETag and long polling."""

import asyncio
import re
import time

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from gateway.listeners import shows_token
from gateway.policy.bundles import Bundle
from gateway.policy.features import UNKNOWN, Features

PATH = "/bundles/gateway.tar.gz"
CONTENT_TYPE = "application/vnd.openpolicyagent.bundles"
"""With any other type OPA leaves long polling."""

_LONGEST_WAIT = 60
_WAIT = re.compile(r"(?:^|[;,\s])wait=(\d{1,6})(?:$|[;,\s])")
_TAG = re.compile(r'(?:W/)?"([^"]*)"|\*')


class BundleServer:
    """An ASGI application for one path, and the memory of what was offered.

    All of it belongs to one event loop. A reader needs the bearer token and nothing else.
    """

    def __init__(self, token: str) -> None:
        self.token = token.encode()
        self._current: Bundle | None = None
        self._digests: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._closed = False
        self.offered_at = 0.0
        """`time.monotonic()` of the last offer."""

    @property
    def current(self) -> Bundle | None:
        return self._current

    @property
    def revision(self) -> str | None:
        """The revision that OPA should be on."""
        return None if self._current is None else self._current.revision

    @property
    def features(self) -> Features:
        """What the bundle that was last offered can be asked."""
        return UNKNOWN if self._current is None else self._current.features

    def offer(self, bundle: Bundle) -> None:
        """Serve this bundle from now on; whoever polls has it at once."""
        self._current = bundle
        self._digests[bundle.revision] = bundle.digest
        self.offered_at = time.monotonic()
        self._wake()

    def digest_of(self, revision: str) -> str | None:
        """The digest of the bundle with this revision; None if it was never offered here.

        An OPA that starts from its own disk may first answer from a bundle of another day.
        """
        return self._digests.get(revision)

    @property
    def closed(self) -> bool:
        """Once the gateway is told to end."""
        return self._closed

    def close(self) -> None:
        """End the polls that wait, so that the server need not wait for them."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if request.method != "GET":
            return PlainTextResponse("GET only", 405, {"Allow": "GET"})
        if not shows_token(request.headers.get("Authorization", ""), self.token):
            return PlainTextResponse(
                "a bearer token is needed", 401, {"WWW-Authenticate": 'Bearer realm="bundles"'}
            )
        known = _tags(request)
        await self.news(known, _wait_seconds(request))
        bundle = self._current
        if bundle is None:
            return PlainTextResponse("no bundle has been built yet", 503, {"Retry-After": "1"})
        headers = {"ETag": f'"{bundle.digest}"', "Content-Type": CONTENT_TYPE}
        if _knows(known, bundle):
            return Response(status_code=304, headers=headers)
        return Response(bundle.archive, headers=headers)

    async def news(self, known: set[str], seconds: float) -> None:
        """Return when there is a bundle whose digest is not in `known`, or the time is over."""
        try:
            async with asyncio.timeout(seconds):
                while not self._closed and (self._current is None or _knows(known, self._current)):
                    await self._changed.wait()
        except TimeoutError:
            pass


def _wait_seconds(request: Request) -> int:
    """How long the reader would wait (``Prefer``, RFC 7240, section 4.3)."""
    found = _WAIT.search(request.headers.get("Prefer", ""))
    return min(int(found[1]), _LONGEST_WAIT) if found else 0


def _tags(request: Request) -> set[str]:
    """Every tag of ``If-None-Match`` (RFC 9110, section 13.1.2), unquoted; ``*`` as itself."""
    header = ",".join(request.headers.getlist("If-None-Match"))
    return {found[1] if found[1] is not None else "*" for found in _TAG.finditer(header)}


def _knows(known: set[str], bundle: Bundle) -> bool:
    return "*" in known or bundle.digest in known
