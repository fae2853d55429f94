"""`/mcp/templates`: what each connector template decides, takes and covers."""

from typing import Any

from gateway.api.call import ApiCall
from gateway.api.models import Output
from gateway.policy.templates import Template
from gateway.registry.faults import Missing
from gateway.values import Action


class TemplatePolicyOut(Output):
    id: str
    title: str
    action: Action
    """What it says of a call that it finds, before overrides."""
    covers: str
    tools: list[str]
    """Globs on tool names, case ignored, with or without a client's prefix."""


class TemplateOut(Output):
    name: str
    title: str
    version: str
    description: str
    parameters: dict[str, Any]
    """JSON Schema; every parameter has a default."""
    policies: list[TemplatePolicyOut]


class TemplatesOut(Output):
    items: list[TemplateOut]


async def list_templates(call: ApiCall) -> TemplatesOut:
    found = call.context.registry.templates.templates()
    return TemplatesOut(items=[_shown(template) for template in found.values()])


async def get(call: ApiCall) -> TemplateOut:
    template = call.context.registry.templates.get(call.path["name"])
    if template is None:
        raise Missing("template")
    return _shown(template)


def policies_of(template: Template) -> list[TemplatePolicyOut]:
    return [TemplatePolicyOut.model_validate(policy) for policy in template.policies]


def _shown(template: Template) -> TemplateOut:
    return TemplateOut(
        name=template.name,
        title=template.title,
        version=template.version,
        description=template.description,
        parameters=dict(template.parameters),
        policies=policies_of(template),
    )
