"""`/anchors`: who outside vouches for the log, up to where, and why not further."""

from typing import Any, Literal

from pydantic import Field
from sqlalchemy import Connection, Row

from gateway.api.call import ApiCall
from gateway.api.models import Listing, ListQuery, Output, listing
from gateway.registry import pages
from gateway.registry.faults import Missing
from gateway.store import tables
from gateway.trace import receipts

State = Literal["LOCAL_ONLY", "PENDING", "ANCHORED", "SKIPPED", "FAILED"]


class AnchorOut(Output):
    id: str
    backend: str
    state: State = Field(description="SKIPPED: its backend is not set up any more")
    log: int
    size: int = Field(description="The first so many records of the log are covered")
    root: str = Field(description="Their root, hex (RFC 6962)")
    created_at: str
    anchored_at: str | None = Field(description="By the anchor's own clock, as of the block")
    tx_hash: str | None
    block: int | None
    chain_id: int | None
    contract: str | None
    writer: str | None


class FullAnchor(AnchorOut):
    note: str = Field(description="The checkpoint as it was signed (C2SP tlog-checkpoint)")
    detail: str = Field(description="What it waits for")


class BackendOut(Output):
    name: str
    condition: str
    detail: str
    since: str
    size: int


class AnchorsOut(Listing[AnchorOut]):
    """Anchors, newest first, and how the log stands as a whole."""

    state: State = Field(description="LOCAL_ONLY: nobody outside vouches for the log")
    size: int = Field(description="Records in the log")
    anchored: int = Field(description="How many of them are anchored; the rest only the log signs")
    backends: list[BackendOut]


async def list_anchors(call: ApiCall, query: ListQuery) -> AnchorsOut:
    a = tables.anchors.c

    def read(connection: Connection) -> AnchorsOut:
        page = pages.page_back(
            connection, receipts.one_by_one(), (a.created_at, a.size), query.cursor, query.limit
        )
        shown = listing(page, _shown)
        whole = receipts.standing(connection)
        return AnchorsOut(
            items=shown.items,
            next_cursor=shown.next_cursor,
            state=whole.state,
            size=whole.size,
            anchored=whole.anchored,
            backends=[BackendOut.model_validate(backend) for backend in whole.backends],
        )

    return await call.read(read)


async def get(call: ApiCall) -> FullAnchor:
    def read(connection: Connection) -> FullAnchor:
        query = receipts.one_by_one().where(tables.anchors.c.id == call.path["id"])
        row = connection.execute(query).first()
        if row is None:
            raise Missing("anchor")
        detail = "" if row.state == "final" else row.detail
        return FullAnchor(**_shown(row).model_dump(), note=row.note, detail=detail)

    return await call.read(read)


def _shown(row: Row[Any]) -> AnchorOut:
    return AnchorOut(
        id=row.id,
        backend=row.backend,
        state=receipts.state_of(row),
        log=row.log,
        size=row.size,
        root=row.root.hex(),
        created_at=row.created_at,
        anchored_at=row.anchored_at,
        tx_hash=row.tx_hash,
        block=row.block,
        chain_id=row.identity.get("chain_id"),
        contract=row.identity.get("contract"),
        writer=row.identity.get("writer"),
    )
