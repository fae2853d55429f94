"""`/projects/current`: the project of the key, and its settings."""

from typing import Any

from sqlalchemy import Row

from gateway.api.call import ApiCall
from gateway.api.models import Output
from gateway.registry import projects
from gateway.registry.projects import ProjectPatch
from gateway.values import Action


class ProjectOut(Output):
    id: str
    slug: str
    name: str
    default_action: Action
    enforcement: str
    deny_style: str
    on_tool_change: str
    unknown_tools: str
    hide_denied_tools: bool
    weakening: str | None
    key_approvers: bool
    approval_ttl_seconds: int
    record_inputs: str
    retention: int
    """Days that payloads are kept."""
    breaker_repeats: int | None
    breaker_refusals: int | None
    breaker_action: str
    created_at: str


async def get(call: ApiCall) -> ProjectOut:
    return _shown(await call.read(lambda c: projects.get(c, call.project_id)))


async def patch(call: ApiCall, body: ProjectPatch) -> ProjectOut:
    return await call.change(lambda change: _shown(projects.patch(change, body)))


def _shown(row: Row[Any]) -> ProjectOut:
    columns = {name: getattr(row, name) for name in ProjectOut.model_fields if name != "retention"}
    return ProjectOut(retention=row.retention_days, **columns)
