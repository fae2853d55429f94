"""Pages that need nobody signed in: everything escaped, and no script in them."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse, Response

_TEMPLATES = Environment(
    loader=PackageLoader("gateway.dashboard"), autoescape=True, undefined=StrictUndefined
)


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page of `templates/`; `gateway.dashboard.headers` adds what every page has."""
    return HTMLResponse(_TEMPLATES.get_template(template).render(values), status)


def told(title: str, message: str, status: int) -> HTMLResponse:
    """A page that says one thing."""
    return page("message.html", status, title=title, message=message)


def see(path: str) -> Response:
    """Go on to a page with GET."""
    return RedirectResponse(path, 303)
