"""Who outside vouches for a record, and where to look at it: the explorer of the chain."""

from gateway.api.anchors import AnchorsOut
from gateway.dashboard.page import Page
from gateway.registry import traces
from gateway.trace import receipts
from gateway.trace.receipts import ChainReceipt

EXPLORERS = {
    14: "https://flare-explorer.flare.network",
    114: "https://coston2-explorer.flare.network",
}
"""By chain id (EIP-155): Flare and Coston2."""


def transaction_url(chain_id: object, tx_hash: str | None) -> str:
    """Where people look at a transaction; empty for a chain without an explorer that we know."""
    explorer = EXPLORERS.get(chain_id) if isinstance(chain_id, int) else None
    return f"{explorer}/tx/{tx_hash}" if explorer and tx_hash else ""


async def anchor_of(page: Page, trace_id: str) -> tuple[str, ChainReceipt | None]:
    """How a call's last record stands (`gateway.trace.receipts.Standing`), and what shows it."""
    registry, project_id = page.context.registry, page.person.project_id
    found = await registry.read(
        lambda c: receipts.covering(c, traces.get(c, project_id, trace_id)[-1])
    )
    if found is not None:
        return "ANCHORED", found
    log = await page.desk.read("/anchors", AnchorsOut, limit=1)
    return ("PENDING" if log.state == "ANCHORED" else log.state), None
