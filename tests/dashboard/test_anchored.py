"""What a call's page says of who outside vouches for it."""

from pathlib import Path

import pytest
from sqlalchemy import Connection, insert

from gateway.dashboard.anchored import transaction_url
from gateway.store import tables
from gateway.trace.record import Draft
from tests.dashboard.site import Site, a_site

pytestmark = pytest.mark.anyio

ADDRESS = "0x" + "ab" * 32


def test_only_chains_that_we_know_have_an_explorer() -> None:
    assert transaction_url(14, "0x1") == "https://flare-explorer.flare.network/tx/0x1"
    assert transaction_url(31337, "0x1") == ""
    assert transaction_url(None, None) == ""


async def test_a_call_says_whether_it_is_anchored_and_leads_to_the_chain(tmp_path: Path) -> None:
    with a_site(tmp_path) as site:
        draft = Draft("decision", "trc_1", site.world.project_id, {"tool": "t"}, call_id="trc_1")
        state = site.world.state
        state.writer.change_now(lambda c: state.log.append(c, [draft])[0].idx)
        async with site.person("auditor") as client:
            before = await client.get("/dashboard/traces/trc_1")
            assert "nobody outside vouches for it" in before.text
            _anchor(site)
            after = await client.get("/dashboard/traces/trc_1")
        assert f'href="https://coston2-explorer.flare.network/tx/{ADDRESS}"' in after.text
        assert "nobody outside" not in after.text


def _anchor(site: Site) -> None:
    state = site.world.state
    backend = {
        "name": "flare",
        "identity": {"chain_id": 114},
        "enabled": True,
        "condition": "ok",
        "detail": "",
        "since": state.clock.now(),
    }
    row = {
        "id": "anc_1",
        "backend": "flare",
        "log": state.log.number,
        "origin": state.log.origin,
        "size": state.log.size,
        "root": state.log.root(),
        "note": "",
        "state": "final",
        "created_at": state.clock.now(),
        "anchored_at": state.clock.now(),
        "tx_hash": ADDRESS,
        "block": 7,
    }

    def write(connection: Connection) -> int:
        connection.execute(insert(tables.anchor_backends).values(**backend))
        return connection.execute(insert(tables.anchors).values(**row)).rowcount

    state.writer.change_now(write)
