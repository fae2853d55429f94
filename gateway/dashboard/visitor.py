"""Who looks at a page: the session in its cookie, and whether a form is that session's own."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, quote, urlsplit

import anyio
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.dashboard.context import DashboardContext
from gateway.dashboard.pages import see
from gateway.frozen import frozen
from gateway.registry import sessions
from gateway.registry.core import Actor
from gateway.registry.sessions import LIFE_SECONDS, Session

SIGN_IN = "/dashboard/sign-in"
MAX_FORM = 64 * 1024
MAX_UPLOAD = 4 << 20
FORM_SECONDS = 10
_MAX_FIELDS = 50
_URLENCODED = "application/x-www-form-urlencoded"


@frozen
class Upload:
    """A file as a browser sent it; the name is the sender's word."""

    name: str
    content: bytes


class SignedOut(Exception):
    """Nobody is signed in; `to` leads to the sign-in page and from there back."""

    def __init__(self, request: Request) -> None:
        path = request.url.path
        asked = f"?next={quote(path)}" if request.method == "GET" and path != "/dashboard" else ""
        self.to = SIGN_IN + asked
        super().__init__(self.to)


def cookie_name(context: DashboardContext, name: str = "session") -> str:
    # The prefix keeps a neighbouring host from planting a cookie (RFC 6265bis, section 4.1.3).
    return f"__Host-{name}" if context.secure else name


async def session_of(context: DashboardContext, request: Request) -> Session:
    """The session of the request's cookie, kept from idling away. Raises `SignedOut`."""
    registry = context.registry
    token = cookie_of(request, cookie_name(context))
    session = None
    if token is not None:
        session = await registry.read(lambda c: sessions.of(c, token, registry.clock.now()))
    if session is None:
        raise SignedOut(request)
    if session.stale:
        found = session
        by = Actor.of_user(session.user)
        await registry.change(by, lambda change: sessions.seen(change, found))
    return session


async def form_of(request: Request, session: Session | None) -> dict[str, str]:
    """The fields of a form that this site's own page sent, with the session's token in it.

    Raises `starlette.exceptions.HTTPException`.
    """
    _own_page(request)
    if _content_type(request) != _URLENCODED:
        raise HTTPException(415, "Send the page's own form.")
    raw = await _body(request, MAX_FORM)
    try:
        pairs = parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise HTTPException(400, "The form cannot be read.") from None
    return _checked(pairs, session)


async def upload_of(
    request: Request, session: Session
) -> tuple[dict[str, str], Mapping[str, Upload]]:
    """As `form_of`, with the files that came along (RFC 7578), by field; none that is empty."""
    if _content_type(request) == _URLENCODED:
        return await form_of(request, session), {}
    _own_page(request)
    if _content_type(request) != "multipart/form-data":
        raise HTTPException(415, "Send the page's own form.")
    raw = await _body(request, MAX_UPLOAD)

    async def whole() -> AsyncGenerator[bytes, None]:
        yield raw

    parser = MultiPartParser(
        request.headers,
        whole(),
        max_files=1,
        max_fields=_MAX_FIELDS,
        max_part_size=MAX_UPLOAD,
    )
    try:
        parsed = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError):
        raise HTTPException(400, "The form cannot be read.") from None
    pairs: list[tuple[str, str]] = []
    files: dict[str, Upload] = {}
    try:
        for name, value in parsed.multi_items():
            if isinstance(value, str):
                pairs.append((name, value))
            elif content := await value.read():
                files[name] = Upload(value.filename or "", content)
    finally:
        await parsed.close()
    return _checked(pairs, session), files


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _checked(pairs: Sequence[tuple[str, str]], session: Session | None) -> dict[str, str]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise HTTPException(400, "The form has a field twice.")
    if session is not None and not sessions.is_csrf(session, fields.get("csrf", "")):
        raise HTTPException(403, "The form is not this session's; load the page again.")
    return fields


def put_cookie(context: DashboardContext, response: Response, token: str) -> None:
    """Lax, because a link in a chat message must open the page of somebody who is signed in."""
    response.set_cookie(
        cookie_name(context),
        token,
        max_age=LIFE_SECONDS,
        path="/",
        secure=context.secure,
        httponly=True,
        samesite="lax",
    )


def drop_cookie(context: DashboardContext, response: Response) -> None:
    response.delete_cookie(
        cookie_name(context), path="/", secure=context.secure, httponly=True, samesite="lax"
    )


async def signed_out(_request: Request, fault: Exception) -> Response:
    """For the application's exception handlers."""
    assert isinstance(fault, SignedOut)
    return see(fault.to)


def _own_page(request: Request) -> None:
    # The edge admits origins on a list, for web clients of the API; these pages admit none.
    origin = request.headers.get("origin")
    if origin is None:
        own = request.headers.get("sec-fetch-site") in ("same-origin", "none")
    else:
        own = urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
    if not own:
        raise HTTPException(403, "The form was sent from another site.")


def cookie_of(request: Request, name: str) -> str | None:
    jar: SimpleCookie = SimpleCookie()
    headers = request.headers.getlist("cookie")
    try:
        jar.load("; ".join(headers))
    except CookieError:
        return None
    return jar[name].value if name in jar else None


async def _body(request: Request, most: int) -> bytes:
    chunks = bytearray()
    try:
        with anyio.fail_after(FORM_SECONDS):
            async for chunk in request.stream():
                chunks += chunk
                if len(chunks) > most:
                    raise HTTPException(413, "The form is too large.")
    except TimeoutError:
        raise HTTPException(408, "The form took too long.") from None
    except ClientDisconnect:
        raise HTTPException(400, "The form is not whole.") from None
    return bytes(chunks)
