"""Asks OPA whether it answers, and from which bundle."""

from pathlib import Path

import aiohttp
from opa_client.opa_async import AsyncOpaClient  # type: ignore[import-untyped]

_AS_CALLS_ASK = {"strict-builtin-errors": True, "provenance": True}
_ANSWER_SECONDS = 1.0


class Probe(AsyncOpaClient):  # type: ignore[misc]
    """opa-python-client over a Unix socket. It never retries: a retry hides what is wrong."""

    def __init__(self, path: Path) -> None:
        super().__init__(host="opa", port=80, retries=0, timeout=_ANSWER_SECONDS)
        self._path = str(path)

    async def _init_session(self) -> None:
        self._connector = aiohttp.UnixConnector(path=self._path)
        self._session = aiohttp.ClientSession(
            connector=self._connector, timeout=aiohttp.ClientTimeout(total=self.timeout)
        )

    async def active_revision(self) -> str | None:
        """The revision that answers now. None: no answer.

        It asks as `gateway.policy.engine` does: OPA keeps a prepared query for each way of asking,
        so a new bundle has answered once, and is warm, before it is called active.
        """
        try:
            answer = await self.query_rule({}, "gateway", "decision", _AS_CALLS_ASK)
            return str(answer["provenance"]["bundles"]["gateway"]["revision"])
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
            return None
