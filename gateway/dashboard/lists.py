"""Lists as people use them: found in, sorted, exported; the API's go on from a cursor alone.

A list that is only looked at is one page of the API's. One in which something is looked for, or
that is sorted, is read whole, up to `MOST` rows, and the page says so where there are more.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import orjson
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from gateway.api.evidence import CSV, csv_rows, harmless
from gateway.dashboard.names import names_of
from gateway.dashboard.page import BASE, Page, PageRoute
from gateway.frozen import frozen

MOST = 2_000
PER_PAGE = 100
EVERY = "ALL"
"""What a tab that filters nothing says in the address."""
_AT_ONCE = 200
"""The API's own limit."""


@frozen
class Noun:
    """Whose list it is: where its pages are, and which operation lists it."""

    home: str
    """Below `/dashboard`."""
    path: str
    listing: Any


@frozen
class Listed:
    """What a list's page shows; its methods make the links of its head and foot."""

    items: list[Any]
    home: str
    q: str
    sort: str
    """A column's name, with a minus before it from the last to the first; empty: as listed."""
    others: Mapping[str, str]
    """What else the address says: which tab."""
    next_page: Mapping[str, str] | None
    cut: bool
    """There are more rows than were looked through."""

    @property
    def most(self) -> int:
        return MOST

    @property
    def next_query(self) -> str:
        return "" if self.next_page is None else self._query(self.q, self.sort, self.next_page)

    @property
    def export_url(self) -> str:
        query = self._query(self.q, "", {})
        return f"{BASE}{self.home}.csv" + (f"?{query}" if query else "")

    @property
    def clear_query(self) -> str:
        return self._query("", self.sort, {})

    def sorting(self, column: str) -> str:
        """The address's query that sorts by a column, or turns it round."""
        return self._query(self.q, f"-{column}" if self.sort == column else column, {})

    def direction(self, column: str) -> str:
        """As `aria-sort` says it."""
        if self.sort.lstrip("-") != column:
            return "none"
        return "descending" if self.sort.startswith("-") else "ascending"

    def _query(self, q: str, sort: str, more: Mapping[str, str]) -> str:
        given = {**self.others, "q": q, "sort": sort, **more}
        return urlencode({name: value for name, value in given.items() if value})


async def listed(
    page: Page, noun: Noun, order: Callable[[Any], Any] | None = None, **query: str | None
) -> Listed:
    """One page of a list, of what was asked for; ``query`` are its operation's own filters.

    With an ``order``, which rows have where none is asked for, it is always read whole. Raises
    `ApiError`.
    """
    given = page.query
    q, sort = given.get("q", "").strip()[:200], given.get("sort", "")
    others = {name: found for name, value in query.items() if (found := given.get(name) or value)}
    if not q and not sort and order is None:
        found = await page.desk.read(
            noun.path, noun.listing, cursor=given.get("cursor"), limit=PER_PAGE, **query
        )
        onward = {"cursor": found.next_cursor} if found.next_cursor else None
        return Listed(found.items, noun.home, "", "", others, onward, False)
    items: list[Any] = []
    cut = False
    async for some in _pages(page, noun, query):
        items += some
        if cut := len(items) > MOST:
            break
    names = names_of(page)
    items = [one for one in items[:MOST] if _says(one, q, names)]
    items = sorted(items, key=order) if order and not sort else _sorted(items, sort, names)
    start = int(given["at"]) if given.get("at", "").isdecimal() else 0
    shown = items[start : start + PER_PAGE]
    following = start + PER_PAGE
    onward = {"at": str(following)} if following < len(items) else None
    return Listed(shown, noun.home, q, sort, others, onward, cut)


def export(noun: Noun, *choices: str) -> PageRoute:
    """All rows as CSV, of which ``choices`` are the operation's own filters."""

    async def download(page: Page) -> Response:
        query = {name: page.query.get(name) for name in choices if page.query.get(name) != EVERY}
        pages = _pages(page, noun, query)
        first: list[Any] = await anext(pages, [])  # a fault is told before anything is sent
        headers = {"Content-Disposition": f'attachment; filename="{noun.home[1:]}.csv"'}
        row: type[BaseModel] = noun.listing.__pydantic_generic_metadata__["args"][0]
        wanted = _Wanted(tuple(row.model_fields), page.query.get("q", "").strip(), names_of(page))
        lines = _csv(first, pages, wanted)
        return StreamingResponse(lines, headers=headers, media_type=f"{CSV}; charset=utf-8")

    return PageRoute("GET", f"{noun.home}.csv", download)


async def _pages(
    page: Page, noun: Noun, query: Mapping[str, str | None]
) -> AsyncIterator[list[BaseModel]]:
    cursor: str | None = None
    while True:
        found = await page.desk.read(
            noun.path, noun.listing, cursor=cursor, limit=_AT_ONCE, **query
        )
        yield found.items
        cursor = found.next_cursor
        if cursor is None:
            return


@frozen
class _Wanted:
    """Which rows and columns are exported."""

    columns: tuple[str, ...]
    q: str
    names: Mapping[str, str]


async def _csv(
    first: Sequence[BaseModel], rest: AsyncIterator[list[BaseModel]], wanted: _Wanted
) -> AsyncIterator[bytes]:
    yield csv_rows([wanted.columns])
    yield _lines(first, wanted)
    async for some in rest:
        yield _lines(some, wanted)


def _lines(items: Sequence[BaseModel], wanted: _Wanted) -> bytes:
    found = [one.model_dump(mode="json") for one in items if _says(one, wanted.q, wanted.names)]
    return csv_rows([[harmless(_text(row.get(name))) for name in wanted.columns] for row in found])


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _says(one: BaseModel, q: str, names: Mapping[str, str]) -> bool:
    """Whether a row holds the text, in what it says or in what its ids are called."""
    if not q:
        return True
    values = [_text(value) for value in one.model_dump(mode="json").values()]
    called = (names[value] for value in values if value in names)
    return q.casefold() in "\n".join((*values, *called)).casefold()


def _sorted(items: list[Any], sort: str, names: Mapping[str, str]) -> list[Any]:
    column, backwards = sort.lstrip("-"), sort.startswith("-")
    if not items or column not in type(items[0]).model_fields:
        return items
    some = [one for one in items if getattr(one, column) is not None]
    none = [one for one in items if getattr(one, column) is None]

    def key(one: Any) -> tuple[float, str]:
        value = getattr(one, column)
        if isinstance(value, int | float):
            return float(value), ""
        text = _text(value)
        return 0.0, names.get(text, text).casefold()

    return sorted(some, key=key, reverse=backwards) + none
