"""The pages' routes, as one application."""

from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from gateway.dashboard.context import DashboardContext
from gateway.dashboard.pages import HEADERS, told
from gateway.dashboard.sign_in import SignIn
from gateway.dashboard.visitor import SIGN_IN, SignedOut, signed_out
from gateway.registry.faults import Fault, Missing
from gateway.store.writer import WriterStopped

_STYLE = Path(__file__).with_name("style.css")
_log = structlog.get_logger(__name__)


def application(context: DashboardContext) -> Starlette:
    sign_in = SignIn(context)
    return Starlette(
        routes=[
            Route("/dashboard", sign_in.home),
            Route(SIGN_IN, sign_in.show),
            Route(SIGN_IN, sign_in.enter, methods=["POST"]),
            Route("/dashboard/sign-out", sign_in.leave, methods=["POST"]),
            Route("/dashboard/password", sign_in.password_form),
            Route("/dashboard/password", sign_in.change_password, methods=["POST"]),
            Route("/dashboard/style.css", _style),
        ],
        exception_handlers={
            SignedOut: signed_out,
            HTTPException: _refused,
            Fault: _fault,
            SQLAlchemyError: _no_database,
            WriterStopped: _no_database,
        },
    )


async def _style(_request: Request) -> Response:
    return FileResponse(_STYLE, headers={**HEADERS, "Cache-Control": "max-age=3600"})


async def _refused(_request: Request, fault: Exception) -> Response:
    assert isinstance(fault, HTTPException)
    return told("That did not work", fault.detail, fault.status_code)


async def _fault(_request: Request, fault: Exception) -> Response:
    return told("That did not work", str(fault), 404 if isinstance(fault, Missing) else 409)


async def _no_database(_request: Request, fault: Exception) -> Response:
    _log.error("the database does not answer", fault=type(fault).__name__, detail=str(fault))
    message = "The database cannot be written or read now; nothing was changed."
    return told("Not now", message, 503)
