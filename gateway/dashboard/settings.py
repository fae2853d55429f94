"""The project's settings, and changes that wait for a second person."""

from collections.abc import Mapping

from starlette.responses import Response

from gateway.api.errors import ApiError
from gateway.api.models import Listing
from gateway.api.project import ProjectOut
from gateway.api.proposals import ProposalOut
from gateway.dashboard import forms
from gateway.dashboard.desk import body_of
from gateway.dashboard.lists import Noun, export, listed
from gateway.dashboard.names import names_of
from gateway.dashboard.page import Page, PageRoute, faults_of, schema_of, waiting

_PROJECT = "/projects/current"
_PROPOSALS = Noun("/proposals", "/proposals", Listing[ProposalOut])
_LABELS = {
    "approval_ttl_seconds": "Approvals wait, in seconds",
    "deny_style": "Refusals as",
    "enforcement": "Enforce, or only watch",
    "key_approvers": "Keys may approve",
    "on_tool_change": "When a tool changes",
    "record_inputs": "Inputs kept",
    "retention": "Days that payloads are kept",
    "unknown_tools": "Tools that no scan knows",
    "weakening": "Changes that loosen",
}


async def ask(page: Page) -> Response:
    project = await page.desk.read(_PROJECT, ProjectOut)
    return _form(page, project, None, {})


async def change(page: Page) -> Response:
    project = await page.desk.read(_PROJECT, ProjectOut)
    schema = schema_of(body_of("PATCH", _PROJECT))
    body = forms.read(schema, page.form, before=project.model_dump(mode="json"))
    try:
        made = await page.desk.change("PATCH", _PROJECT, body=body)
    except ApiError as fault:
        return _form(page, project, page.form, faults_of(fault), fault)
    page.say(waiting(made) or "Saved.", "warning" if waiting(made) else "success")
    return page.to("/settings")


async def proposals(page: Page) -> Response:
    found = await listed(page, _PROPOSALS, order=lambda one: (one.state != "OPEN", one.created_at))
    return page.draw(
        "proposals.html",
        title="Proposals",
        lead="Changes that loosen are made when a second administrator confirms them.",
        list=found,
        proposals=found.items,
        names=names_of(page),
    )


async def confirm(page: Page) -> Response:
    return await _word(page, "confirm", "Confirmed: the change is made.")


async def reject(page: Page) -> Response:
    return await _word(page, "reject", "Rejected: nothing was changed.")


async def _word(page: Page, verb: str, done: str) -> Response:
    body = {"reason": page.form.get("reason", "").strip()}
    await page.attempt("POST", "/proposals/{id}/" + verb, body, done=done)
    return page.to("/proposals")


def _form(
    page: Page,
    project: ProjectOut,
    typed: Mapping[str, str] | None,
    errors: Mapping[str, str],
    fault: ApiError | None = None,
) -> Response:
    fields = forms.draw(
        schema_of(body_of("PATCH", _PROJECT)),
        values=project.model_dump(mode="json"),
        typed=typed,
        errors=errors,
        labels=_LABELS,
    )
    return page.draw_form(
        "Settings", fields, errors, fault, template="settings.html", project=project
    )


PAGES = (
    PageRoute("GET", "/settings", ask),
    PageRoute("POST", "/settings", change),
    PageRoute("GET", "/proposals", proposals),
    export(_PROPOSALS),
    PageRoute("POST", "/proposals/{id}/confirm", confirm),
    PageRoute("POST", "/proposals/{id}/reject", reject),
)
