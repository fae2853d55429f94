"""What decides: rules made here, templates' policies, Rego; which bundle, and what it was."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from gateway import clock
from gateway.api.errors import ApiError
from gateway.api.models import Listing
from gateway.api.policies import PolicyOut
from gateway.api.policy_bundles import PolicyStatusOut, ReplayOut
from gateway.api.servers import ServerOut
from gateway.dashboard import forms
from gateway.dashboard.candidate import MODULE, CandidateFault, files_of
from gateway.dashboard.desk import body_of
from gateway.dashboard.lists import Noun, export, listed
from gateway.dashboard.names import choices_of, names_of
from gateway.dashboard.page import Page, PageRoute, faults_of, schema_of, told, waiting
from gateway.dashboard.rego import highlighted, packages
from gateway.policy.coverage import Coverage
from gateway.registry.fired import Fired

_RULES, _RULE = "/mcp/policies", "/mcp/policies/{id}"
_LIST = Noun("/policies", _RULES, Listing[PolicyOut])
_OVERRIDES = "/mcp/servers/{id}/overrides"
_UP = ("/policies", "Policies")
_LABELS = {
    "mcp_tool_id": "Tool",
    "tool_pattern": "Tools by pattern",
    "min_risk": "From this risk on",
    "expires_at": "Ends (UTC)",
}
REPLAYED = 2000
"""Calls that a what-if looks at, at most."""


async def index(page: Page) -> Response:
    found = await listed(page, _LIST, order=_rank)
    status = await page.desk.read("/policy/status", PolicyStatusOut)
    rules = [one for one in found.items if not one.is_auto_generated]
    brought = [one for one in found.items if one.is_auto_generated]
    names = names_of(page)
    return page.draw(
        "policies.html",
        fired=await _fired(page),
        title="Policies",
        list=found,
        rules=rules,
        brought=brought,
        status=status,
        names=names,
        tier=_tier,
    )


async def rego(page: Page) -> Response:
    status = await page.desk.read("/policy/status", PolicyStatusOut)
    digest = page.query.get("digest") or (status.active.digest if status.active else "")
    archive = await page.context.api.policy_bundle(digest)
    found = [] if archive is None else packages(archive)
    chosen = next((one for one in found if one.file == page.query.get("file")), None)
    coverage = Coverage("unknown", why="only the active bundle is measured")
    if status.active is not None and digest == status.active.digest:
        coverage = page.context.coverage()
    reached = coverage.files.get(chosen.file) if chosen else None
    return page.draw(
        "rego.html",
        title="Rego",
        packages=found,
        chosen=chosen,
        source=highlighted(chosen.source, reached.missed if reached else frozenset())
        if chosen
        else "",
        reached=reached,
        coverage=coverage,
        fired=await _fired(page),
        digest=digest,
        status=status,
        up=_UP,
    )


async def bundle(page: Page) -> Response:
    return await page.desk.download("GET", "/policy/bundles/{digest}", ids=page.ids)


async def _fired(page: Page) -> Fired:
    registry, project_id = page.context.registry, page.person.project_id
    now = registry.clock.now()
    return await registry.read(lambda c: page.context.firings.look(c, project_id, now))


async def ask_rule(page: Page) -> Response:
    return _rule_form(page, None, None, {}, "Make a rule")


async def make_rule(page: Page) -> Response:
    typed = page.form
    body = forms.read(schema_of(body_of("POST", _RULES)), typed)
    try:
        made = await page.desk.change("POST", _RULES, body=body)
    except ApiError as fault:
        return _rule_form(page, None, typed, faults_of(fault), "Make a rule", fault)
    page.say(waiting(made) or "The rule is live.", "warning" if waiting(made) else "success")
    return page.to("/policies")


async def ask_rule_change(page: Page) -> Response:
    rule = await page.desk.read(_RULE, PolicyOut, page.ids)
    return _rule_form(page, rule, None, {}, "Change the rule")


async def change_rule(page: Page) -> Response:
    rule, typed = await page.desk.read(_RULE, PolicyOut, page.ids), page.form
    schema = schema_of(body_of("PATCH", _RULE))
    body = forms.read(schema, typed, before=rule.model_dump(mode="json"))
    try:
        made = await page.desk.change("PATCH", _RULE, page.ids, body)
    except ApiError as fault:
        return _rule_form(page, rule, typed, faults_of(fault), "Change the rule", fault)
    page.say(waiting(made) or "Saved.", "warning" if waiting(made) else "success")
    return page.to("/policies")


async def remove_rule(page: Page) -> Response:
    await page.attempt("DELETE", _RULE, done="The rule is removed.")
    return page.to("/policies")


async def ask_override(page: Page) -> Response:
    server = await page.desk.read("/mcp/servers/{id}", ServerOut, page.ids)
    return _override_form(page, server, None, {})


async def make_override(page: Page) -> Response:
    server = await page.desk.read("/mcp/servers/{id}", ServerOut, page.ids)
    typed = page.form
    body = forms.read(schema_of(body_of("POST", _OVERRIDES)), typed)
    try:
        made = await page.desk.change("POST", _OVERRIDES, page.ids, body)
    except ApiError as fault:
        return _override_form(page, server, typed, faults_of(fault), fault)
    page.say(waiting(made) or "The override is live.", "warning" if waiting(made) else "success")
    return page.to(f"/servers/{server.id}")


async def remove_override(page: Page) -> Response:
    path = _OVERRIDES + "/{override_id}"
    await page.attempt("DELETE", path, done="The override is removed.")
    return page.to(f"/servers/{page.ids['id']}")


async def ask_what_if(page: Page) -> Response:
    return _what_if(page, {"days": "7", "name": "candidate.rego"}, "", None)


async def what_if(page: Page) -> Response:
    """Replay what was recorded against the active policy with one more module."""
    typed, upload = dict(page.form), page.files.get("file")
    days = int(typed["days"]) if typed.get("days", "").isdecimal() else 7
    try:
        files = {MODULE: typed.get("source", "")} if upload is None else files_of(upload)
    except CandidateFault as fault:
        return _what_if(page, typed, str(fault), None)
    if upload is not None and MODULE in files:
        typed["source"] = files[MODULE]  # a form that comes back has no file in it
    if not any(text.strip() for text in files.values()):
        return _what_if(page, typed, "Paste a module, or choose a file.", None)
    body = {
        "files": files,
        "hours": 24 * min(max(days, 1), 90),
        "limit": REPLAYED,
    }
    try:
        found = await page.desk.change("POST", "/policy/replay", body=body)
    except ApiError as fault:
        return _what_if(page, typed, told(fault).removeprefix("files.candidate/"), None)
    assert isinstance(found, ReplayOut)
    if not found.inputs:
        return _what_if(page, typed, "No call of that time has its input kept.", None)
    return _what_if(page, typed, "", found)


def _what_if(page: Page, typed: Mapping[str, str], wrong: str, tried: ReplayOut | None) -> Response:
    return page.draw(
        "what_if.html",
        400 if wrong else 200,
        title="What if",
        lead="A candidate policy, tried on the calls of the last days. Nothing becomes active.",
        typed=typed,
        wrong=wrong,
        tried=tried,
        up=_UP,
    )


def _rule_form(
    page: Page,
    rule: PolicyOut | None,
    typed: Mapping[str, str] | None,
    errors: Mapping[str, str],
    title: str,
    fault: ApiError | None = None,
) -> Response:
    schema = schema_of(body_of("POST", _RULES))
    values: dict[str, Any] = dict(page.query) if rule is None else rule.model_dump(mode="json")
    fields = forms.draw(
        schema, values=values, typed=typed, errors=errors, choices=choices_of(page), labels=_LABELS
    )
    return page.draw_form(
        title,
        fields,
        errors,
        fault,
        note="Without agent, server and tool a rule is for every call. Saved, it is live.",
        submit="Save",
        up=_UP,
    )


def _override_form(
    page: Page,
    server: ServerOut,
    typed: Mapping[str, str] | None,
    errors: Mapping[str, str],
    fault: ApiError | None = None,
) -> Response:
    template = page.context.api.registry.templates.get(server.connector_type)
    policies = [] if template is None else [(p.id, p.title) for p in template.policies]
    choices = {"agent_id": choices_of(page)["agent_id"], "policy_id": policies}
    schema = schema_of(body_of("POST", _OVERRIDES))
    in_a_week = clock.after(page.context.api.registry.clock.now(), 7 * 86_400.0)[:19] + "Z"
    fields = forms.draw(
        schema,
        values={"expires_at": in_a_week, **page.query},
        typed=typed,
        errors=errors,
        choices=choices,
        labels={"policy_id": "Policy", "agent_id": "Only for this agent"} | _LABELS,
    )
    return page.draw_form(
        f"Override a policy on {server.name}",
        fields,
        errors,
        fault,
        submit="Save",
        up=(f"/servers/{server.id}", server.name),
    )


_TIERS = (
    "exact tool, with agent",
    "exact tool",
    "pattern, with agent",
    "pattern",
    "agent",
    "server",
    "project",
)


def _rank(rule: PolicyOut) -> int:
    """The rule's tier: the first one that has a match decides (see the policy reference).

    Templates' policies come after all tiers.
    """
    if rule.is_auto_generated:
        return len(_TIERS)
    if rule.mcp_tool_id:
        return 0 if rule.agent_id else 1
    if rule.tool_pattern:
        return 2 if rule.agent_id else 3
    if rule.agent_id:
        return 4
    return 5 if rule.server_id else 6


def _tier(rule: PolicyOut) -> str:
    return f"{_rank(rule) + 1}. {_TIERS[_rank(rule)]}"


PAGES = (
    PageRoute("GET", "/policies", index),
    export(_LIST),
    PageRoute("GET", "/policies/rego", rego),
    PageRoute("GET", "/policies/bundles/{digest}", bundle),
    PageRoute("GET", "/policies/what-if", ask_what_if),
    PageRoute("POST", "/policies/what-if", what_if, takes_files=True),
    PageRoute("GET", "/policies/new", ask_rule),
    PageRoute("POST", "/policies/new", make_rule),
    PageRoute("GET", "/policies/{id}", ask_rule_change),
    PageRoute("POST", "/policies/{id}", change_rule),
    PageRoute("POST", "/policies/{id}/remove", remove_rule),
    PageRoute("GET", "/servers/{id}/overrides/new", ask_override),
    PageRoute("POST", "/servers/{id}/overrides/new", make_override),
    PageRoute("POST", "/servers/{id}/overrides/{override_id}/remove", remove_override),
)
