"""Puts a change of policy on every project's trail, since it decides for each."""

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.data_dir.state import State
from gateway.policy.activation import Active, Failure
from gateway.registry import policy_changes
from gateway.registry.core import Actor, Change
from gateway.store.writer import WriterStopped
from gateway.telemetry.logs import fault_text

_log = structlog.get_logger(__name__)


async def record(state: State, news: Active | Failure) -> None:
    """Never raises for want of a database: every decision names the bundle that made it."""

    def note(change: Change) -> None:
        if isinstance(news, Failure):
            policy_changes.refused(change, str(news), news.deciding)
        else:
            policy_changes.activated(change, news.revision, news.digest, news.sources)

    for view in state.directory.projects():
        try:
            await state.registry.change(Actor.gateway(view.project.id), note)
        except (SQLAlchemyError, WriterStopped) as fault:
            # It has happened already; every decision names the bundle that made it.
            _log.error("a change of policy is not on the trail", why=fault_text(fault))
