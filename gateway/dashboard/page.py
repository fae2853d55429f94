"""One request for a page: who asks, what they sent, and how to answer them."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import field
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.templating import Jinja2Templates
from starlette_admin import flash

from gateway.api.call import Waiting
from gateway.api.errors import ApiError
from gateway.dashboard.context import DashboardContext
from gateway.dashboard.desk import Desk, Person
from gateway.dashboard.forms import FormField, other_faults
from gateway.dashboard.pages import see
from gateway.dashboard.visitor import Upload
from gateway.frozen import frozen
from gateway.registry.sessions import Session

BASE = "/dashboard"


@frozen
class Page:
    request: Request
    session: Session
    desk: Desk
    context: DashboardContext
    templates: Jinja2Templates
    form: dict[str, str]
    """The fields of a form that is known to be this session's own; empty for a GET."""
    files: Mapping[str, Upload] = field(default_factory=dict)
    """What such a form sent along."""

    @property
    def person(self) -> Person:
        return self.desk.person

    @property
    def ids(self) -> Mapping[str, str]:
        """What the path names."""
        found: Mapping[str, str] = self.request.path_params
        return found

    @property
    def query(self) -> Mapping[str, str]:
        return dict(self.request.query_params)

    def draw(self, template: str, status: int = 200, /, **values: object) -> Response:
        given = {"desk": self.desk, "csrf": csrf_field(self.session), "up": None, **values}
        return self.templates.TemplateResponse(self.request, template, given, status)

    def draw_form(
        self,
        title: str,
        fields: Sequence[FormField],
        errors: Mapping[str, str],
        fault: ApiError | None,
        /,
        template: str = "form.html",
        known: Collection[str] = (),
        **values: object,
    ) -> Response:
        """A form, with the fault of its last try: at its field, or above all where it has none.

        ``known``: names that the template itself shows the faults of.
        """
        elsewhere = {name: text for name, text in errors.items() if name not in known}
        others = other_faults(elsewhere, fields)
        if fault is not None and not fault.details:
            others = [fault.message]
        status = 200 if fault is None else fault.status
        return self.draw(template, status, title=title, fields=fields, others=others, **values)

    def say(self, message: str, category: str = "success") -> None:
        """A line that stands on top of the next page."""
        flash(self.request, message, category)

    def to(self, path: str, **query: str) -> Response:
        """Elsewhere in the dashboard, by GET."""
        return see(BASE + path + (f"?{urlencode(query)}" if query else ""))

    async def attempt(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        done: str,
    ) -> BaseModel | None:
        """Change what the path names and say what became of it; None when it was refused."""
        try:
            answer = await self.desk.change(method, path, self.ids, body)
        except ApiError as fault:
            self.say(told(fault), "error")
            return None
        self.say(waiting(answer) or done, "warning" if waiting(answer) else "success")
        return answer or Done()


class Done(BaseModel):
    """The answer of an operation that has none."""


Handler = Callable[[Page], Awaitable[Response]]


@frozen
class PageRoute:
    """``path`` is below `/dashboard`."""

    method: str
    path: str
    handler: Handler
    takes_files: bool = False


def csrf_field(session: Session) -> Markup:
    return Markup('<input type="hidden" name="csrf" value="{}">').format(session.csrf)


def faults_of(fault: ApiError) -> dict[str, str]:
    """What is wrong, by field; the first fault of each counts."""
    found: dict[str, str] = {}
    for detail in fault.details:
        found.setdefault(detail.field, detail.message)
    return found


def told(fault: ApiError) -> str:
    """The whole fault as one line."""
    details = "; ".join(f"{detail.field}: {detail.message}" for detail in fault.details)
    return details or fault.message


def waiting(answer: BaseModel | None) -> str:
    """What to say when the change waits for a second person; empty when it was made."""
    return answer.message if isinstance(answer, Waiting) else ""


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()
