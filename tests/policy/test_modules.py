import pytest

from gateway.policy import modules
from gateway.policy.modules import Module, read


@pytest.mark.parametrize(
    ("text", "package"),
    [
        ("package policies.all", ("policies", "all")),
        ("# why\n\n# METADATA\npackage a.b # here\n\nx := 1\n", ("a", "b")),
        ('package policies.tool["send mail"].x\r\n', ("policies", "tool", "send mail", "x")),
        ("  package a", ("a",)),
    ],
)
def test_a_package_is_read_from_the_first_statement(text: str, package: tuple[str, ...]) -> None:
    module = read(text)
    assert module is not None
    assert module.package == package


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x := 1\npackage a",
        "package\na",
        "package a; x := 1",
        "# package a",
        "package a b",
        "\ufeffpackage a",
        "package a[x]",
    ],
)
def test_a_package_that_can_be_read_in_two_ways_is_not_read(text: str) -> None:
    assert read(text) is None


def test_every_path_below_data_is_a_reference() -> None:
    module = read('package a\nimport data.lib.amounts as m\nx if data.policies.tool["y"][z].w\n')
    assert module is not None
    assert module.references == {("lib", "amounts"), ("policies", "tool", "y")}


def _modules(**texts: str) -> dict[str, Module]:
    found = {}
    for name, text in texts.items():
        module = read(text)
        assert module is not None
        found[name] = module
    return found


TREE = _modules(
    lib="package lib.amounts",
    policy="package policies.all.pay\nimport data.lib.amounts",
    policy_test="package policies_test.pay\nimport data.policies.all.pay",
    other="package policies.all.mail",
    other_test="package policies_test.mail\nimport data.policies.all.mail",
    whole_test="package policies_test.whole\nx := data.policies",
)


def test_importers_are_found_through_others_and_by_folder() -> None:
    reached = modules.importers([("lib", "amounts")], TREE)
    assert reached == {"lib", "policy", "policy_test", "whole_test"}
    assert modules.importers([("policies", "all", "mail")], TREE) == {
        *("other", "other_test", "whole_test"),
    }


def test_what_a_test_needs_is_what_it_names_and_what_that_names() -> None:
    assert modules.needed(["policy_test"], TREE) == {"policy_test", "policy", "lib"}
    assert modules.needed(["whole_test"], TREE) == {"whole_test", "policy", "lib", "other"}


def test_what_a_test_needs_is_found_above_and_below_what_it_names() -> None:
    tree = TREE | _modules(
        above_test="package above_test\nx := data.policies.all.pay.findings",
        bare_test="package bare_test\nx := data",
    )
    assert modules.needed(["above_test"], tree) == {"above_test", "policy", "lib"}
    assert modules.needed(["bare_test"], tree) == tree.keys()
