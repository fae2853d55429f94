"""The queue of what waits for a person, and their word on it."""

from typing import Any

import orjson
from sqlalchemy import Connection, select
from starlette.responses import Response

from gateway.api.approvals import ApprovalOut, OpenedApproval
from gateway.api.errors import ApiError
from gateway.api.models import Listing
from gateway.dashboard.lists import EVERY, Noun, export, listed
from gateway.dashboard.names import names_of, policies_of
from gateway.dashboard.page import Page, PageRoute, told
from gateway.frozen import frozen
from gateway.registry import budgets
from gateway.store import tables
from gateway.values import Risk

_PATH = "/approvals"
_LIST = Noun("/approvals", _PATH, Listing[ApprovalOut])
_EARLIER = 5
_RISKS = list(Risk)


@frozen
class After:
    """A budget as it stands once the call has passed."""

    scope: str
    window: str
    used: int
    limit: int


@frozen
class Background:
    """What helps to decide and is not of the call."""

    earlier: tuple[Any, ...]
    """Decisions on the same tool of the same server, newest first."""
    budgets: tuple[After, ...]


def _urgency(one: ApprovalOut) -> tuple[int, str]:
    """The riskiest first, then what expires first."""
    return -_RISKS.index(Risk(one.risk)), one.expires_at


async def queue(page: Page) -> Response:
    status = page.query.get("status", "PENDING")
    found = await listed(
        page,
        _LIST,
        order=_urgency if status == "PENDING" else None,
        status=None if status == EVERY else status,
    )
    return page.draw(
        "approvals.html",
        title="Approvals",
        lead="Each lets one exact call pass, once.",
        list=found,
        approvals=found.items,
        status=status,
        names=names_of(page),
        now=page.context.api.registry.clock.now(),
    )


async def show(page: Page) -> Response:
    found = await page.desk.read(_PATH + "/{id}", OpenedApproval, page.ids)
    registry = page.context.api.registry
    now = registry.clock.now()
    background = await registry.read(lambda c: _background(c, page, found, now))
    params = found.call or {}  # nothing once it was erased
    arguments = params.get("arguments", {})
    others = {n: v for n, v in params.items() if n not in ("name", "arguments")}
    return page.draw(
        "approval.html",
        title=f"{found.tool_name}",
        approval=found,
        arguments=arguments,
        others=others,
        raw=orjson.dumps(found.call, option=orjson.OPT_INDENT_2).decode(),
        background=background,
        names=names_of(page),
        policies=policies_of(page),
        up=("/approvals", "Approvals"),
        now=now,
    )


async def approve(page: Page) -> Response:
    return await _decide(page, "approve")


async def deny(page: Page) -> Response:
    return await _decide(page, "deny")


async def _decide(page: Page, verb: str) -> Response:
    body = {"reason": page.form.get("reason", "").strip()}
    try:
        made = await page.desk.change("POST", f"{_PATH}/{{id}}/{verb}", page.ids, body)
    except ApiError as fault:
        page.say(told(fault), "error")
        return page.to(f"{_PATH}/{page.ids['id']}")
    assert isinstance(made, ApprovalOut)
    if made.status == "PENDING":
        page.say(f"Approved by {len(made.approved_by)} of {made.quorum}; others must too.")
    else:
        done = "Denied." if verb == "deny" else "Approved: this exact call may pass once."
        page.say(done)
    return page.to(_PATH)


def _background(
    connection: Connection, page: Page, approval: OpenedApproval, now: str
) -> Background:
    a = tables.approvals.c
    earlier = select(a.id, a.state, a.decided_by, a.decided_at, a.decision_reason).where(
        a.project_id == page.person.project_id,
        a.server_id == approval.server_id,
        a.tool_name == approval.tool_name,
        a.id != approval.id,
        a.decided_at.is_not(None),
    )
    rows = connection.execute(earlier.order_by(a.decided_at.desc()).limit(_EARLIER)).all()
    b = tables.budgets.c
    after = []
    for row in connection.execute(
        select(tables.budgets).where(b.project_id == page.person.project_id)
    ):
        targets = (None, approval.agent_id, approval.server_id)
        if row.target_id not in targets or row.dimension != "requests":
            continue
        used, held = budgets.spent(connection, row, now)
        after.append(After(row.scope, row.window, used + held + 1, row.limit))
    return Background(tuple(rows), tuple(after))


PAGES = (
    PageRoute("GET", "/approvals", queue),
    export(_LIST, "status"),
    PageRoute("GET", "/approvals/{id}", show),
    PageRoute("POST", "/approvals/{id}/approve", approve),
    PageRoute("POST", "/approvals/{id}/deny", deny),
)
