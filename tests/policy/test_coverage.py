"""What tests of the active policy reach, measured aside and kept for its bundle."""

import asyncio
from pathlib import Path

import pytest

from gateway.policy.coverage import Coverage, Measuring
from gateway.policy.sources import Source, Tree, compose
from tests.policy.world import the_opa

pytestmark = pytest.mark.anyio

POLICY = """package policies.all.mail

import rego.v2

findings contains {"policy_id": "mail", "action": "DENY"} if input.mail
"""
TEST = """package policies_test.mail

import rego.v2

import data.policies.all.mail

test_denies if count(mail.findings) == 1 with input as {"mail": true}
"""


def a_tree(folder: Path) -> Tree:
    place = folder / "policies" / "mail"
    place.mkdir(parents=True, exist_ok=True)
    (place / "mail.rego").write_text(POLICY)
    (place / "mail_test.rego").write_text(TEST)
    return compose([Source("policies", folder / "policies", ("policies",))], the_opa())


async def known(measuring: Measuring, digest: str, tree: Tree) -> Coverage:
    async with asyncio.timeout(60):
        # As the page does, which is loaded again.
        while (found := measuring.of(digest, tree)).state == "measuring":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found


async def test_the_first_to_ask_waits_for_nothing_and_later_ones_are_told(tmp_path: Path) -> None:
    measuring, tree = Measuring(the_opa()), a_tree(tmp_path)
    assert measuring.of("sha256:1", tree).state == "measuring"
    found = await known(measuring, "sha256:1", tree)
    assert (found.state, found.tests) == ("measured", {"policies/mail": ("test_denies",)})
    assert found.files["policies/mail/mail.rego"].percent == 100
    for file in ("policies/mail/mail.rego", "policies/mail/deeper/more.rego"):
        assert found.tests_of(file) == ("test_denies",)
    assert found.tests_of("policies/other.rego") == ()
    assert measuring.of("sha256:1", tree) is found


async def test_another_bundle_is_measured_anew_and_the_first_one_is_left(tmp_path: Path) -> None:
    measuring, tree = Measuring(the_opa()), a_tree(tmp_path)
    assert measuring.of("sha256:1", tree).state == "measuring"
    assert (await known(measuring, "sha256:2", tree)).state == "measured"


async def test_without_an_opa_that_runs_it_is_said_why(tmp_path: Path) -> None:
    measuring = Measuring(tmp_path / "no-opa")
    found = await known(measuring, "sha256:1", a_tree(tmp_path))
    assert found.state == "unknown"
    assert "no-opa" in found.why
