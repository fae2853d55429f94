"""An installation tries the shipped policy once; a start with these very files need not."""

from pathlib import Path

import pytest

from gateway.assets import asset
from gateway.policy import shipped
from gateway.policy.proof import is_proved, names
from gateway.policy.sources import BundleFault, compose, the_sources
from tests.policy.world import the_opa


def test_what_passed_is_marked_and_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opa, rego = the_opa(), asset("rego")
    _, tried = names(compose(the_sources(), opa), rego)
    assert not is_proved(tmp_path, tried)
    shipped.try_shipped(opa, rego, tmp_path)
    assert is_proved(tmp_path, tried)

    def again(*_: object) -> None:
        raise AssertionError("tried twice")

    monkeypatch.setattr(shipped, "try_all", again)
    shipped.try_shipped(opa, rego, tmp_path)


def test_what_fails_is_not_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise BundleFault("a test fails")

    monkeypatch.setattr(shipped, "try_all", fails)
    with pytest.raises(BundleFault):
        shipped.try_shipped(the_opa(), asset("rego"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_policy_is_another_name(tmp_path: Path) -> None:
    opa, rego = the_opa(), asset("rego")
    (tmp_path / "p.rego").write_text("package policies.all.p\n\nimport rego.v2\n")
    assert names(compose(the_sources(), opa), rego) != names(
        compose(the_sources([tmp_path]), opa), rego
    )
