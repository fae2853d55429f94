"""Asks OPA whether it answers, and from which bundle."""

import aiohttp
from opa_client.opa_async import AsyncOpaClient  # type: ignore[import-untyped]

from gateway.frozen import frozen
from gateway.http1.client import TcpAddress, UnixAddress

_AS_CALLS_ASK = {"strict-builtin-errors": True, "provenance": True}
_ANSWER_SECONDS = 1.0


@frozen
class Answering:
    """Which program answered, from which bundle."""

    version: str
    revision: str


class Probe(AsyncOpaClient):  # type: ignore[misc]
    """opa-python-client, over a Unix socket too. It never retries: a retry hides what is wrong."""

    def __init__(self, address: UnixAddress | TcpAddress) -> None:
        host, port = ("opa", 80) if isinstance(address, UnixAddress) else _authority(address)
        super().__init__(host=host, port=port, retries=0, timeout=_ANSWER_SECONDS)
        self._address = address

    async def _init_session(self) -> None:
        self._connector = _connector(self._address)
        self._session = aiohttp.ClientSession(
            connector=self._connector, timeout=aiohttp.ClientTimeout(total=self.timeout)
        )

    async def ask(self) -> Answering | None:
        """Who answers now, from what. None: no answer, or none from a bundle.

        It asks as `gateway.policy.engine` does: OPA keeps a prepared query for each way of asking,
        so a new bundle has answered once, and is warm, before it is called active.
        """
        try:
            answer = await self.query_rule({}, "gateway", "decision", _AS_CALLS_ASK)
            said = answer["provenance"]
            return Answering(str(said["version"]), str(said["bundles"]["gateway"]["revision"]))
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
            return None


def _connector(address: UnixAddress | TcpAddress) -> aiohttp.BaseConnector:
    if isinstance(address, UnixAddress):
        return aiohttp.UnixConnector(path=address.path)
    return aiohttp.TCPConnector()


def _authority(address: TcpAddress) -> tuple[str, int]:
    return f"[{address.host}]" if ":" in address.host else address.host, address.port
