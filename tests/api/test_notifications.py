"""`/notifications`: what is shown, once and later, and what is refused."""

import pytest

from tests.api.world import World

pytestmark = pytest.mark.anyio

HOOK = {"name": "ops", "kind": "webhook", "url": "https://hooks.example.com/secret/path"}


async def test_the_secret_is_shown_once_and_the_url_never(world: World) -> None:
    async with world.client() as client:
        made = (await client.post("notifications", json=HOOK)).json()
        assert made["signing_secret"].startswith("whsec_")
        [listed] = (await client.get("notifications")).json()["items"]
        assert "signing_secret" not in listed
        assert listed["target"] == "https://hooks.example.com/…"
        assert (listed["waiting"], listed["last_error"]) == (0, None)
        stop = {"scope": "all", "reason": "a drill"}
        await client.post("mcp/emergency-stop", json=stop)
        [listed] = (await client.get("notifications")).json()["items"]
        assert listed["waiting"] == 1
        assert (await client.delete(f"notifications/{made['id']}")).status_code == 204
        assert (await client.delete(f"notifications/{made['id']}")).status_code == 404


@pytest.mark.parametrize(
    "given",
    [
        {"url": None},
        {"url": "ftp://x/"},
        {"address": "a@example.com"},
        {"kind": "email"},
        {"kind": "pager"},
        {"events": []},
        {"events": ["stop.lifted"]},
        {"kind": "email", "url": None, "address": "a@example.com\r\nBcc: b@example.com"},
    ],
)
async def test_what_tells_nobody_is_refused(world: World, given: dict[str, object]) -> None:
    async with world.client() as client:
        assert (await client.post("notifications", json=HOOK | given)).status_code == 400
