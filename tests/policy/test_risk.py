"""Risk, asked of the project's own Rego through a real OPA."""

from pathlib import Path

import pytest

from gateway.policy.bundles import build_bundle
from gateway.policy.engine import LARGEST_QUESTION, EngineFault
from gateway.policy.risk import RiskAssessor
from gateway.policy.sources import the_sources
from gateway.values import Json, Risk
from tests.policy.world import KEY, MODES, bundle_of, running, the_opa

pytestmark = pytest.mark.anyio


async def test_tools_are_assessed_in_their_order_with_reasons(tmp_path: Path) -> None:
    bundle = build_bundle(the_sources(), opa=the_opa(), key=KEY)
    async with running(tmp_path, bundle) as world:
        definitions: list[dict[str, Json]] = [
            {"name": "sendMail", "description": "Sends a mail.", "inputSchema": {"type": "object"}},
            {"name": "list_records", "annotations": {"readOnlyHint": True}, "_meta": {"x": 1}},
            {"name": "delete_everything", "title": None},
        ]
        found = await RiskAssessor(world.engine).risks(definitions)
        assert await RiskAssessor(world.engine).risks([]) == []
    risks = [assessment.risk for assessment in found]
    assert risks[0] in (Risk.HIGH, Risk.CRITICAL)
    assert risks[1] is Risk.LOW
    assert risks[2] in (Risk.HIGH, Risk.CRITICAL)
    assert any("delete" in reason for reason in found[2].reasons)


async def test_many_tools_are_asked_in_pieces_and_a_huge_one_is_critical(tmp_path: Path) -> None:
    bundle = build_bundle(the_sources(), opa=the_opa(), key=KEY)
    async with running(tmp_path, bundle) as world:
        small = [{"name": f"list_{n}", "description": "x" * 40_000} for n in range(9)]
        huge = {"name": "list_huge", "description": "x" * LARGEST_QUESTION}
        found = await RiskAssessor(world.engine).risks([*small, huge, *small])
    assert len(found) == 19
    assert found[9].risk is Risk.CRITICAL
    assert "too large" in found[9].reasons[0]
    assert found[0].risk is not Risk.CRITICAL


async def test_no_answer_about_risk_is_a_fault_not_a_low_risk(tmp_path: Path) -> None:
    async with running(tmp_path, bundle_of(tmp_path / "src", MODES)) as world:
        with pytest.raises(EngineFault, match="undefined"):
            await RiskAssessor(world.engine).risks([{"name": "x"}])
    broken = MODES + '\nrisks := [{"level": "NONE", "reasons": []} | some _ in input.tools]\n'
    async with running(tmp_path, bundle_of(tmp_path / "src", broken)) as world:
        with pytest.raises(EngineFault, match="NONE"):
            await RiskAssessor(world.engine).risks([{"name": "x"}])
