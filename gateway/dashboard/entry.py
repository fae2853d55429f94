"""The door to the pages. They and the template library are imported when first asked for."""

import asyncio
import importlib

import anyio.to_thread
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.dashboard.context import DashboardContext

PATH = "/dashboard"


class Dashboard:
    """ASGI for `/dashboard` and all below it; importing keeps no tool call waiting."""

    def __init__(self, context: DashboardContext) -> None:
        self._context = context
        self._pages: ASGIApp | None = None
        self._opening = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._pages is None:
            async with self._opening:
                if self._pages is None:
                    self._pages = await anyio.to_thread.run_sync(self._open)
        await self._pages(scope, receive, send)

    def _open(self) -> ASGIApp:
        application: ASGIApp = importlib.import_module("gateway.dashboard.routes").application(
            self._context
        )
        return application


def is_ours(path: str) -> bool:
    return path == PATH or path.startswith(PATH + "/")
