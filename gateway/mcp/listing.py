"""Answers to `tools/list` on their way to the caller: read strictly, definitions withheld.

Bytes pass as they came unless a definition is withheld. What two readers could understand
differently is not passed on at all: a definition that only some clients see escapes comparison.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping

from gateway.flows import EventStream
from gateway.frozen import frozen
from gateway.mcp.folding import fold
from gateway.mcp.lossless import Unreadable, read_json, write_json
from gateway.mcp.sifted import SiftedEvents
from gateway.mcp.sse import with_data
from gateway.refusals import Refused
from gateway.values import Json

Definitions = tuple[Mapping[str, Json], ...]
Judge = Callable[[Mapping[str, Json]], bool]
"""Whether one definition may be shown to this caller."""
Judging = Callable[[Definitions], Awaitable[Judge]]
"""Finds out what is to be known of a page's definitions. Raises `gateway.refusals.Refused`."""

_ENVELOPE = frozenset({"jsonrpc", "id", "result", "error"})
_RESULT = frozenset({"tools", "nextCursor", "_meta", "resultType", "ttlMs", "cacheScope"})
_DEFINITION = frozenset(
    {
        "annotations",
        "description",
        "execution",
        "icons",
        "inputSchema",
        "name",
        "outputSchema",
        "title",
        "_meta",
    }
)


@frozen
class Listing:
    """One page of a server's tools."""

    body: bytes
    """The message to pass on."""
    definitions: Definitions
    """All that the server sent, withheld or not."""
    withheld: int
    next_cursor: Json
    """None on the last page; if that was the first page's request too, this was the whole walk."""


@frozen
class Page:
    """An answer that lists tools, as it came."""

    body: bytes
    message: Mapping[str, Json]
    definitions: Definitions

    @property
    def next_cursor(self) -> Json:
        return self.message["result"].get("nextCursor")

    def shown(self, judge: Judge) -> Listing:
        """The page with what may be shown, for this caller alone."""
        result = self.message["result"]
        released = [
            tool for tool in self.definitions if not _lookalike(tool, _DEFINITION) and judge(tool)
        ]
        withheld = len(self.definitions) - len(released)
        body = self.body
        # Another caller may be shown more or less, so no cache may give it to several.
        if withheld or result.get("cacheScope") == "public":
            shown = {**result, "tools": released}
            if "cacheScope" in result:
                shown["cacheScope"] = "private"
            body = write_json({**self.message, "result": shown})
        return Listing(body, self.definitions, withheld, self.next_cursor)


def read_page(body: bytes) -> Page | None:
    """Read a message; None if it is no answer that lists tools. Raises `Unreadable`."""
    # The bytes of any other message show that it lists none, so they need no parse.
    if body.isascii() and b"tools" not in body.lower() and b"\\u" not in body:
        return None
    message = read_json(body)
    if not isinstance(message, dict) or "method" in message:
        return None
    _refuse_lookalikes(message, _ENVELOPE, "message")
    result = message.get("result")
    if not isinstance(result, dict):
        return None
    _refuse_lookalikes(result, _RESULT, "result")
    tools = result.get("tools")
    if tools is None:
        return None
    return Page(body, message, tuple(_definitions(tools)))


class ListingEvents(SiftedEvents):
    """An `EventStream` in which listings are read and filtered as they pass.

    They are known by what they hold, not by an id: a client that resumes a stream gets the answer
    to another request than the one it just sent. ``report`` is told of each.
    """

    def __init__(
        self,
        events: EventStream,
        rpc_id: str | int | None,
        judging: Judging,
        report: Callable[[Listing], None],
    ) -> None:
        super().__init__(events, rpc_id)
        self._judging = judging
        self._report = report

    async def _sift(self, raw: bytes) -> bytes:
        try:
            page = read_page(self._data)
            if page is None:
                return raw
            listing = page.shown(await self._judging(page.definitions))
        except Unreadable:
            # What cannot be read cannot be compared either.
            return await self._stop("answer_unreadable")
        except Refused as refused:
            return await self._stop(refused.reason)
        self._report(listing)
        self._data = listing.body
        return raw if listing.body is page.body else with_data(raw, listing.body)


def _definitions(tools: Json) -> list[dict[str, Json]]:
    if not isinstance(tools, list) or not all(
        isinstance(tool, dict) and isinstance(tool.get("name"), str) for tool in tools
    ):
        raise Unreadable("result.tools is not a list of objects with names")
    return tools


def _refuse_lookalikes(keys: Iterable[str], known: frozenset[str], where: str) -> None:
    key = _lookalike(keys, known)
    if key is not None:
        raise Unreadable(f"a key of the {where} differs from a known one only in its spelling")


def _lookalike(keys: Iterable[str], known: frozenset[str]) -> str | None:
    folded = {fold(key) for key in known}
    return next((key for key in keys if key not in known and fold(key) in folded), None)
