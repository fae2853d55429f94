"""The pages' routes, as one application in starlette-admin's shell."""

import os
from collections.abc import Mapping
from pathlib import Path

import structlog
from jinja2 import PackageLoader
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates
from starlette.types import ASGIApp
from starlette_admin import BaseAdmin, get_flashed_messages
from starlette_admin.flash import FlashMiddleware

from gateway.api.errors import ApiError
from gateway.dashboard import (
    approvals,
    overview,
    policies,
    servers,
    settings,
    stops,
    tools,
    traces,
    who,
)
from gateway.dashboard.anchored import transaction_url
from gateway.dashboard.context import DashboardContext
from gateway.dashboard.desk import Desk, Person
from gateway.dashboard.external_sign_in import external_routes
from gateway.dashboard.headers import Headers
from gateway.dashboard.live import Live
from gateway.dashboard.menu import menu
from gateway.dashboard.page import BASE, Page, PageRoute
from gateway.dashboard.pages import told
from gateway.dashboard.sign_in import SignIn
from gateway.dashboard.text import FILTERS
from gateway.dashboard.visitor import (
    SIGN_IN,
    SignedOut,
    Upload,
    form_of,
    session_of,
    signed_out,
    upload_of,
)
from gateway.registry.faults import Fault, Missing
from gateway.store.writer import WriterStopped
from gateway.telemetry.logs import fault_text

PAGES: tuple[PageRoute, ...] = (
    *overview.PAGES,
    *stops.PAGES,
    *approvals.PAGES,
    *traces.PAGES,
    *servers.PAGES,
    *tools.PAGES,
    *policies.PAGES,
    *who.PAGES,
    *settings.PAGES,
)
_SECRET_BYTES = 32
_log = structlog.get_logger(__name__)


def application(context: DashboardContext) -> ASGIApp:
    """Everything under `/dashboard`."""
    sign_in = SignIn(context)
    # Signs what a next page is to say; nothing that is worth more than one page.
    secret = os.urandom(_SECRET_BYTES).hex()
    templates = _templates(secret)
    pages = Starlette(
        routes=[_route(page, context, templates) for page in PAGES],
        middleware=[Middleware(FlashMiddleware, secret_key=secret)],
        exception_handlers=_HANDLERS,
    )
    own = Path(__file__).with_name("static")
    return Headers(
        Starlette(
            routes=[
                Mount(f"{BASE}/assets", StaticFiles(directory=own)),
                Mount(f"{BASE}/static", StaticFiles(packages=[("starlette_admin", "static")])),
                Route(SIGN_IN, sign_in.show),
                Route(SIGN_IN, sign_in.enter, methods=["POST"]),
                *external_routes(context),
                Route(f"{BASE}/sign-out", sign_in.leave, methods=["POST"]),
                Route(f"{BASE}/password", sign_in.password_form),
                Route(f"{BASE}/password", sign_in.change_password, methods=["POST"]),
                Route(f"{BASE}/live", Live(context).stream),
                Mount("", pages),
            ],
            exception_handlers=_HANDLERS,
        )
    )


def _templates(secret: str) -> Jinja2Templates:
    """The library's environment: its macros and icons, and our pages over its own."""
    admin = BaseAdmin(
        title="policy-gateway",
        base_url=BASE,
        route_name="dashboard",
        additional_loaders=[PackageLoader("gateway.dashboard", "templates")],
        secret_key=secret,
        timezone_config=None,
    )
    templates: Jinja2Templates = admin.templates
    templates.env.filters.update({**FILTERS, "transaction_url": transaction_url})
    names = {"menu": menu, "flashed": get_flashed_messages, "in_force": stops.stops_in_force}
    templates.env.globals.update(names)
    return templates


def _route(page: PageRoute, context: DashboardContext, templates: Jinja2Templates) -> Route:
    async def endpoint(request: Request) -> Response:
        session = await session_of(context, request)
        # Before the handler, so that none can forget it.
        form: dict[str, str] = {}
        files: Mapping[str, Upload] = {}
        if page.takes_files:
            form, files = await upload_of(request, session)
        elif page.method == "POST":
            form = await form_of(request, session)
        desk = Desk(context.api, Person(session))
        asked = Page(request, session, desk, context, templates, form, files)
        try:
            return await page.handler(asked)
        except ApiError as fault:
            return asked.draw("fault.html", fault.status, title="That did not work", fault=fault)

    return Route(BASE + page.path, endpoint, methods=[page.method])


async def _refused(_request: Request, fault: Exception) -> Response:
    assert isinstance(fault, HTTPException)
    return told("That did not work", fault.detail, fault.status_code)


async def _fault(_request: Request, fault: Exception) -> Response:
    return told("That did not work", str(fault), 404 if isinstance(fault, Missing) else 409)


async def _no_database(_request: Request, fault: Exception) -> Response:
    _log.error("the database does not answer", fault=fault_text(fault))
    message = "The database cannot be written or read now; nothing was changed."
    return told("Not now", message, 503)


async def _defect(_request: Request, _fault: Exception) -> Response:
    return told("That did not work", "The gateway failed; its log says why.", 500)


_HANDLERS = {
    SignedOut: signed_out,
    HTTPException: _refused,
    Fault: _fault,
    SQLAlchemyError: _no_database,
    WriterStopped: _no_database,
    Exception: _defect,
}
