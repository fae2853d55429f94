"""Agents, keys, people, budgets, extensions, notifications: made, changed and ended by forms."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response

from gateway.api.agents import AgentOut
from gateway.api.budgets import BudgetOut, WindowOut
from gateway.api.errors import ApiError
from gateway.api.extensions import ExtensionOut, NewExtensionOut
from gateway.api.keys import KeyOut, NewKeyOut
from gateway.api.models import Listing
from gateway.api.notifications import NewNotificationOut, NotificationOut
from gateway.api.users import NewUserOut, UserOut
from gateway.dashboard import forms, lists
from gateway.dashboard.desk import body_of
from gateway.dashboard.lists import export, listed
from gateway.dashboard.names import choices_of, names_of
from gateway.dashboard.page import Page, PageRoute, faults_of, schema_of, waiting
from gateway.frozen import frozen

_CHOICES = ("agent_id", "server_id")


@frozen
class Noun:
    """What its pages have in common with the others'."""

    path: str
    """Of its pages and of its operations."""
    one: str
    many: str
    lead: str
    empty: str
    listing: Any
    template: str
    made: str


AGENTS = Noun(
    "/agents",
    "agent",
    "Agents",
    "What makes calls. Pausing or suspending one refuses its calls at once.",
    "No agent yet. An agent is a name for rules, budgets and stops; its keys are bound to it.",
    Listing[AgentOut],
    "agents.html",
    "The agent is made. Make a key that is bound to it.",
)
KEYS = Noun(
    "/keys",
    "key",
    "Keys",
    "Project keys make calls, the others use the API.",
    "No key yet.",
    Listing[KeyOut],
    "keys.html",
    "The key is made.",
)
PEOPLE = Noun(
    "/users",
    "person",
    "People",
    "Who signs in here, and with which role.",
    "Nobody yet.",
    Listing[UserOut],
    "people.html",
    "The person can sign in.",
)
BUDGETS = Noun(
    "/budgets",
    "budget",
    "Budgets",
    "How much may be done in a window of UTC time.",
    "No budget yet: agents may call as often as policies let them.",
    Listing[BudgetOut],
    "budgets.html",
    "The budget is live.",
)

EXTENSIONS = Noun(
    "/extensions",
    "extension",
    "Extensions",
    "Platforms whose agents cannot be proxied ask for verdicts, or report what they did.",
    "No extension yet.",
    Listing[ExtensionOut],
    "extensions.html",
    "The extension is made.",
)
NOTIFICATIONS = Noun(
    "/notifications",
    "notification",
    "Notifications",
    "Who is told of approvals, budgets, changed tools, stops and failures.",
    "Nobody is told of anything yet.",
    Listing[NotificationOut],
    "notifications.html",
    "They are told from now on.",
)


def _pages(noun: Noun) -> tuple[PageRoute, ...]:
    """A list, a form for a new one, and a form for a change where there is one."""

    async def index(page: Page) -> Response:
        found = await listed(page, _list_of(noun))
        return page.draw(
            noun.template,
            title=noun.many,
            lead=noun.lead,
            noun=noun,
            list=found,
            items=found.items,
            names=names_of(page),
        )

    async def ask(page: Page) -> Response:
        return _form(page, noun, "POST", page.query or None, None, {})

    async def make(page: Page) -> Response:
        body = forms.read(schema_of(body_of("POST", noun.path)), page.form)
        _one_target(body, page.form)
        try:
            made = await page.desk.change("POST", noun.path, body=body)
        except ApiError as fault:
            return _form(page, noun, "POST", None, page.form, faults_of(fault), fault)
        if secrets := _secrets(made):
            return _shown_once(page, noun, secrets)
        page.say(waiting(made) or noun.made, "warning" if waiting(made) else "success")
        return page.to(_home(noun))

    base = _home(noun)
    return (
        PageRoute("GET", base, index),
        export(_list_of(noun)),
        PageRoute("GET", f"{base}/new", ask),
        PageRoute("POST", f"{base}/new", make),
    )


def _changeable(noun: Noun, kind: type[BaseModel] | None) -> tuple[PageRoute, ...]:
    path = noun.path + "/{id}"

    async def _before(page: Page) -> Mapping[str, Any]:
        if kind is not None:
            return (await page.desk.read(path, kind, page.ids)).model_dump(mode="json")
        found = await page.desk.read(noun.path, noun.listing, limit=200)
        one = next((item for item in found.items if item.id == page.ids["id"]), None)
        if one is None:
            raise ApiError(404, f"No such {noun.one}.")
        before: dict[str, Any] = one.model_dump(mode="json")
        return before

    async def ask(page: Page) -> Response:
        return _form(page, noun, "PATCH", await _before(page), None, {})

    async def make(page: Page) -> Response:
        before = await _before(page)
        body = forms.read(schema_of(body_of("PATCH", path)), page.form, before=before)
        try:
            made = await page.desk.change("PATCH", path, page.ids, body)
        except ApiError as fault:
            return _form(page, noun, "PATCH", before, page.form, faults_of(fault), fault)
        page.say(waiting(made) or "Saved.", "warning" if waiting(made) else "success")
        return page.to(_home(noun))

    base = _home(noun)
    return (
        PageRoute("GET", base + "/{id}", ask),
        PageRoute("POST", base + "/{id}", make),
    )


def _removable(noun: Noun, done: str) -> tuple[PageRoute, ...]:
    async def remove(page: Page) -> Response:
        await page.attempt("DELETE", noun.path + "/{id}", done=done)
        return page.to(_home(noun))

    return (PageRoute("POST", _home(noun) + "/{id}/remove", remove),)


def _ended(
    noun: Noun, verb: str, place: str, operation: tuple[str, str], note: str, done: str
) -> tuple[PageRoute, ...]:
    """What cannot be undone is asked with the name typed, on a page of its own."""

    async def form(page: Page, wrong: str, status: int) -> Response:
        name = await _name_of(page, noun)
        return page.draw(
            "form.html",
            status,
            title=f"{verb} {name}",
            fields=[],
            others=[wrong] if wrong else [],
            note=note,
            submit=verb,
            tone="danger",
            typed_name=name,
            up=(_home(noun), noun.many),
        )

    async def ask(page: Page) -> Response:
        return await form(page, "", 200)

    async def end(page: Page) -> Response:
        if page.form.get("typed_name", "").strip() != await _name_of(page, noun):
            return await form(page, "That is not the name; nothing was changed.", 400)
        await page.attempt(*operation, done=done)
        return page.to(_home(noun))

    return (PageRoute("GET", place, ask), PageRoute("POST", place, end))


async def _name_of(page: Page, noun: Noun) -> str:
    cursor: str | None = None
    while True:
        found = await page.desk.read(noun.path, noun.listing, cursor=cursor, limit=200)
        for item in found.items:
            if item.id == page.ids["id"]:
                return str(item.name)
        cursor = found.next_cursor
        if cursor is None:
            raise ApiError(404, f"No such {noun.one}.")


async def budget_history(page: Page) -> Response:
    budget = await page.desk.read("/budgets/{id}", BudgetOut, page.ids)
    found = await page.desk.read(
        "/budgets/{id}/history",
        Listing[WindowOut],
        page.ids,
        cursor=page.query.get("cursor"),
        limit=100,
    )
    return page.draw(
        "budget_history.html",
        title="What was used",
        budget=budget,
        names=names_of(page),
        windows=found.items,
        next_cursor=found.next_cursor,
        up=(_home(BUDGETS), BUDGETS.many),
    )


async def move_agent(page: Page) -> Response:
    verb = page.ids["verb"]
    if verb not in ("pause", "resume", "suspend"):
        raise ApiError(404, "There is no such page.")
    done = {"resume": "The agent goes on."}.get(verb, f"Done: {verb}.")
    await page.attempt("POST", f"/agents/{{id}}/{verb}", done=done)
    return page.to("/agents")


def _rotatable(noun: Noun) -> tuple[PageRoute, ...]:
    async def rotate(page: Page) -> Response:
        made = await page.desk.change("POST", noun.path + "/{id}/rotate", page.ids)
        return _shown_once(page, noun, _secrets(made))

    return (PageRoute("POST", noun.path + "/{id}/rotate", rotate),)


def _secrets(made: BaseModel | None) -> list[tuple[str, str]]:
    """What stands only in this answer, with what it is called."""
    match made:
        case NewExtensionOut():
            return [
                (f"The key of {made.name}", made.key),
                (f"The signing secret of {made.name}", made.signing_secret),
            ]
        case NewKeyOut():
            return [(f"The key “{made.name}”", made.key)]
        case NewUserOut() if made.password is not None:
            return [(f"The password of {made.name}", made.password)]
        case NewNotificationOut() if made.signing_secret is not None:
            return [(f"The signing secret of {made.name}", made.signing_secret)]
        case _:
            return []


def _shown_once(page: Page, noun: Noun, secrets: list[tuple[str, str]]) -> Response:
    return page.draw("secret.html", title=noun.made, secrets=secrets, up=(_home(noun), noun.many))


def _form(
    page: Page,
    noun: Noun,
    method: str,
    values: Mapping[str, Any] | None,
    typed: Mapping[str, str] | None,
    errors: Mapping[str, str],
    fault: ApiError | None = None,
) -> Response:
    path = noun.path if method == "POST" else noun.path + "/{id}"
    choices = {name: options for name, options in choices_of(page).items() if name in _CHOICES}
    fields = forms.draw(
        schema_of(body_of(method, path)),
        values=values,
        typed=typed,
        errors=errors,
        choices=choices | ({"target_id": _targets(page)} if noun is BUDGETS else {}),
    )
    name = (values or {}).get("name", noun.one)
    return page.draw_form(
        f"New {noun.one}" if method == "POST" else f"Change {name}",
        fields,
        errors,
        fault,
        submit="Make" if method == "POST" else "Save",
        up=(_home(noun), noun.many),
    )


def _targets(page: Page) -> list[tuple[str, str]]:
    found = choices_of(page)
    return [
        *((id_, f"agent {name}") for id_, name in found["agent_id"]),
        *((id_, f"server {name}") for id_, name in found["server_id"]),
        *((id_, f"tool {name}") for id_, name in found["mcp_tool_id"]),
    ]


def _one_target(body: dict[str, Any], typed: Mapping[str, str]) -> None:
    """A budget of the whole project has no target, whatever the list still says."""
    if typed.get("scope") == "project":
        body.pop("target_id", None)


def _list_of(noun: Noun) -> lists.Noun:
    return lists.Noun(_home(noun), noun.path, noun.listing)


def _home(noun: Noun) -> str:
    return "/people" if noun is PEOPLE else noun.path


PAGES = (
    *_pages(AGENTS),
    PageRoute("POST", "/agents/{id}/move/{verb}", move_agent),
    *_ended(
        AGENTS,
        "Revoke",
        "/agents/{id}/revoke",
        ("POST", "/agents/{id}/revoke"),
        "For good: its calls are refused from now on, and nothing brings it back.",
        "The agent is revoked.",
    ),
    *_changeable(AGENTS, AgentOut),
    *_pages(KEYS),
    *_rotatable(KEYS),
    *_removable(KEYS, "The key is revoked."),
    *_pages(PEOPLE),
    *_changeable(PEOPLE, None),
    *_ended(
        PEOPLE,
        "Remove",
        "/people/{id}/remove",
        ("DELETE", "/users/{id}"),
        "Their sessions end at once; what they did stays in the trace.",
        "The person is removed, and their sessions ended.",
    ),
    *_pages(BUDGETS),
    *_changeable(BUDGETS, BudgetOut),
    *_removable(BUDGETS, "The budget is removed."),
    PageRoute("GET", "/budgets/{id}/history", budget_history),
    *_pages(EXTENSIONS),
    *_rotatable(EXTENSIONS),
    *_ended(
        EXTENSIONS,
        "Remove",
        "/extensions/{id}/remove",
        ("DELETE", "/extensions/{id}"),
        "Its key and signing secret end at once; what it reported stays in the trace.",
        "The extension is removed; its key ended.",
    ),
    *_pages(NOTIFICATIONS),
    *_removable(NOTIFICATIONS, "Nobody is told there any more."),
)
