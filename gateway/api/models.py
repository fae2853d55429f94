"""What answers and lists have in common."""

from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row

from gateway.registry.pages import MAX_LIMIT, Page

Item = TypeVar("Item", bound=BaseModel)


class Output(BaseModel):
    """An answer; read from a row, it takes the columns that it names."""

    model_config = ConfigDict(from_attributes=True, frozen=True, defer_build=True)


class Listing(Output, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next_cursor: str | None = Field(description="Ask for the next page with it; null at the end")


class Query(BaseModel):
    """What stands in the query string: text, so numbers are read from it."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class ListQuery(Query):
    cursor: Annotated[str, Field(max_length=512)] | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 50


def listing(page: Page[Row[Any]], show: Callable[[Row[Any]], Item]) -> Listing[Item]:
    """A page of rows, each as it is shown."""
    return Listing(items=[show(row) for row in page.items], next_cursor=page.next_cursor)
