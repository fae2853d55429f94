"""The emergency stop: one click from every page, raised by a typed word, lifted with a reason."""

from starlette.responses import Response

from gateway.api.emergency_stop import RaisedOut, StopOut
from gateway.api.errors import ApiError
from gateway.api.models import Listing
from gateway.dashboard.desk import Desk
from gateway.dashboard.lists import Noun, export, listed
from gateway.dashboard.names import choices_of, names_of
from gateway.dashboard.page import Page, PageRoute, told
from gateway.frozen import frozen

WORD = "STOP"
_PATH = "/mcp/emergency-stop"
_LIST = Noun("/stops", _PATH, Listing[StopOut])


@frozen
class InForce:
    """A stop as the banner tells it."""

    id: str
    """Empty for a stop that is raised from the command line and lifted there."""
    what: str
    reason: str


def stops_in_force(desk: Desk) -> list[InForce]:
    """Read from memory: every page asks."""
    view = desk.context.registry.directory.view(desk.person.project_id)
    found = []
    for stop in view.stops:
        name = "every agent and server of this project"
        if stop.scope == "server":
            name = next((s.name for s in view.servers.values() if s.id == stop.target_id), "?")
        elif stop.scope == "agent":
            name = next((a.name for a in view.agents.values() if a.id == stop.target_id), "?")
        what = name if stop.scope == "all" else f"{stop.scope} {name}"
        found.append(InForce(stop.id, what, stop.reason))
    return found


async def show(page: Page) -> Response:
    found = await listed(
        page, _LIST, order=lambda stop: (stop.lifted_at is not None, stop.stopped_at)
    )
    return page.draw(
        "stops.html",
        title="Emergency stops",
        stops=found.items,
        names=names_of(page),
        list=found,
    )


async def ask(page: Page) -> Response:
    return _form(page, {"scope": page.query.get("scope", "all"), **page.query}, {})


async def make(page: Page) -> Response:
    typed = page.form
    scope = typed.get("scope", "all")
    errors = {}
    if typed.get("word", "").strip().upper() != WORD:
        errors["word"] = f"type {WORD}"
    if not typed.get("reason", "").strip():
        errors["reason"] = "say why, for whoever lifts it"
    if errors:
        return _form(page, typed, errors, 400)
    target = None if scope == "all" else typed.get(f"{scope}_id") or None
    body = {"scope": scope, "target_id": target, "reason": typed["reason"].strip()}
    try:
        raised = await page.desk.change("POST", _PATH, body=body)
    except ApiError as fault:
        return _form(page, typed, {"scope": told(fault)}, fault.status)
    assert isinstance(raised, RaisedOut)
    page.say(
        f"Stopped. {raised.cancelled_calls} running calls were cut, {raised.denied_approvals} "
        f"approvals voided, {raised.refused_keys} keys are refused."
    )
    return page.to("/stops")


async def ask_lift(page: Page) -> Response:
    return await _lift_form(page, "", 200)


async def lift(page: Page) -> Response:
    typed = page.form
    path = _PATH + "/{id}/lift"
    try:
        await page.desk.change("POST", path, page.ids, {"reason": typed.get("reason", "").strip()})
    except ApiError as fault:
        return await _lift_form(page, told(fault), fault.status)
    page.say("Lifted. Calls are decided again.")
    return page.to("/stops")


async def _lift_form(page: Page, error: str, status: int) -> Response:
    stop = next((s for s in stops_in_force(page.desk) if s.id == page.ids["id"]), None)
    if stop is None:
        page.say("This stop is not in force.", "warning")
        return page.to("/stops")
    return page.draw(
        "lift.html", status, title="Lift an emergency stop", stop=stop, error=error, up=_UP
    )


def _form(page: Page, typed: dict[str, str], errors: dict[str, str], status: int = 200) -> Response:
    return page.draw(
        "stop.html",
        status,
        title="Emergency stop",
        typed=typed,
        errors=errors,
        choices=choices_of(page),
        word=WORD,
        up=_UP,
    )


_UP = ("/stops", "Emergency stops")
PAGES = (
    PageRoute("GET", "/stops", show),
    export(_LIST),
    PageRoute("GET", "/stops/new", ask),
    PageRoute("POST", "/stops/new", make),
    PageRoute("GET", "/stops/{id}/lift", ask_lift),
    PageRoute("POST", "/stops/{id}/lift", lift),
)
