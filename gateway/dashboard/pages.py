"""Templates into answers: everything escaped, nothing executed, nothing framed, nothing cached."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse, Response

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",  # with no-referrer a form's Origin would be null
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TEMPLATES = Environment(
    loader=PackageLoader("gateway.dashboard"), autoescape=True, undefined=StrictUndefined
)


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page of `templates/`, with the headers that every page has."""
    return HTMLResponse(_TEMPLATES.get_template(template).render(values), status, HEADERS)


def told(title: str, message: str, status: int) -> HTMLResponse:
    """A page that says one thing."""
    return page("message.html", status, title=title, message=message)


def see(path: str) -> Response:
    """Go on to a page with GET."""
    return RedirectResponse(path, 303, HEADERS)
