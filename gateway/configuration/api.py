"""The gateway's HTTP API as its own commands use it: with a key, told plainly when it says no."""

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import httpx

from gateway.settings import LOOPBACK_NAMES

_SECONDS = 60
"""Longer than the gateway takes to scan a slow server."""
_TRIES = 20
_LONGEST_WAIT = 30


class ApiRefused(Exception):
    """The API said no, and nothing was changed by this request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ApiWaits(Exception):
    """The change loosens and was stored: another administrator must confirm it."""

    def __init__(self, proposal_id: str) -> None:
        super().__init__(f"waits for another administrator to confirm {proposal_id}")
        self.proposal_id = proposal_id


class ApiUnknown(Exception):
    """No answer, or none that says what happened."""


class Api:
    """One project's API under one key. Blocks; use it as a context manager."""

    def __init__(self, url: str, key: str) -> None:
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/api/v1",
            headers={"Authorization": f"Bearer {key}"},
            timeout=_SECONDS,
            # A proxy of the environment is never meant for this machine.
            trust_env=urlsplit(url).hostname not in LOOPBACK_NAMES,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def send(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """The answer's JSON, None when it is empty. Raises `ApiRefused`, `ApiWaits`, `ApiUnknown`.

        Waits where the API says that there were too many requests.
        """
        for _ in range(_TRIES):
            response = self._ask(method, path, body)
            if response.status_code != 429:
                break
            wait = response.headers.get("retry-after", "1")
            time.sleep(min(int(wait) if wait.isdigit() else 1, _LONGEST_WAIT))
        return _read(response, f"{method} {path}")

    def all(self, path: str, **filters: str | None) -> list[dict[str, Any]]:
        """A whole list, page by page; a filter that is None is none."""
        found: list[dict[str, Any]] = []
        given = {"limit": "200"} | {k: value for k, value in filters.items() if value is not None}
        while True:
            page = self.send("GET", f"{path}?{urlencode(given)}")
            found += page["items"]
            if page["next_cursor"] is None:
                return found
            given["cursor"] = page["next_cursor"]

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None) -> httpx.Response:
        try:
            return self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise ApiUnknown(f"{method} {path}: the gateway does not answer ({why})") from None


def _read(response: httpx.Response, request: str) -> Any:
    try:
        document = response.json() if response.content else None
    except ValueError:
        document = None
    if response.is_success:
        if document is None and response.content:
            raise ApiUnknown(f"{request}: the answer is no JSON; is this a gateway's URL?")
        if response.status_code == 202 and isinstance(document, dict):
            raise ApiWaits(document["proposal_id"])
        return document
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        raise ApiUnknown(f"{request}: answered {response.status_code}; is this a gateway's URL?")
    message = "; ".join([str(error.get("message", "")), *_details(error.get("details", []))])
    if response.status_code >= 500:
        raise ApiUnknown(message)
    raise ApiRefused(response.status_code, message)


def _details(details: Sequence[Mapping[str, object]]) -> list[str]:
    return [f"{detail.get('field')} {detail.get('message')}" for detail in details]
