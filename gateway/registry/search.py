"""What people type into the search of the trace, as the ids and codes that records hold.

Reasons and arguments are encrypted beside the log, so no index knows them. What a person reads of
them comes from policies, rules and refusals, and those are found by their words.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Integer, func, or_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from gateway.frozen import frozen
from gateway.policy.templates import Template
from gateway.refusals import REASONS
from gateway.registry.directory import ProjectView
from gateway.store import tables

_MOST = 50
"""Ids of each kind; a word that means more of them is no search."""
_t = tables.trace.c


@frozen
class Sought:
    """A text, and what it means in one project."""

    text: str
    agents: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()

    def condition(self) -> ColumnElement[bool]:
        """Over columns of the index of lists only."""
        text = self.text.lower()
        return or_(
            *(
                column.in_(ids)
                for column, ids in (
                    (_t.agent_id, self.agents),
                    (_t.server_id, self.servers),
                    (_t.reason_code, self.reasons),
                )
                if ids
            ),
            _Place(func.lower(_t.tool), text) > 0,
            _Place(func.lower(_t.policies), text) > 0,
            *(by_policy(policy_id) for policy_id in self.policies),
        )


class _Place(FunctionElement[int]):
    """Where the second text begins in the first, 0 if nowhere: several times as fast as LIKE."""

    name = "place"
    type = Integer()
    inherit_cache = True


@compiles(_Place)
def _instr(element: _Place, compiler: SQLCompiler, **options: Any) -> str:
    function = "strpos" if compiler.dialect.name == "postgresql" else "instr"
    return f"{function}({compiler.process(element.clauses, **options)})"


def by_policy(policy_id: str) -> ColumnElement[bool]:
    """Records of decisions that name this policy."""
    return _Place(_t.policies, f"\n{policy_id}\n") > 0


def sought(view: ProjectView, templates: Mapping[str, Template], text: str) -> Sought:
    """What a text means: parts of names, titles and reasons, whatever their case."""
    agents = [(agent.id, agent.name) for agent in view.agents.values()]
    servers = [(server.id, f"{server.name}\n{server.slug}") for server in view.servers.values()]
    reasons = [(code, f"{code.replace('_', ' ')}\n{one.message}") for code, one in REASONS.items()]
    policies = [(f"rule:{rule.id}", rule.reason) for rule in view.rules]
    policies += [
        (policy.id, f"{policy.title}\n{policy.covers}")
        for template in templates.values()
        for policy in template.policies
    ]
    return Sought(
        text,
        agents=_meant(text, agents),
        servers=_meant(text, servers),
        reasons=_meant(text, reasons),
        policies=_meant(text, policies),
    )


def _meant(text: str, named: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    wanted = text.casefold()
    found = [one for one, words in named if wanted == one or wanted in words.casefold()]
    return tuple(found[:_MOST])
