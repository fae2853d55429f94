"""Each threat has a defence that a test shows, or is accepted in so many words."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "threat-model.md").read_text()
BOUNDARIES = re.split(r"^## ", PAGE, flags=re.M)[1:]
ROW = re.compile(r"^\| ([A-Z]) \| (.+) \| (.+) \| (.+) \|$", re.M)


def test_every_boundary_has_every_kind_of_threat() -> None:
    assert len(BOUNDARIES) == 7
    for boundary in BOUNDARIES:
        kinds = [row[0] for row in ROW.findall(boundary)]
        assert set(kinds) == set("STRIDE"), boundary.splitlines()[0]
        assert kinds == sorted(kinds, key="STRIDE".index)


def test_every_defence_is_shown_by_tests_that_exist() -> None:
    there = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        there |= set(re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(), re.M))
    rows = ROW.findall(PAGE)
    assert len(rows) == len(re.findall(r"^\| [A-Z] \|", PAGE, re.M))
    for _, threat, defence, shown in rows:
        if shown == "accepted":
            assert defence.startswith("accepted: "), threat
            continue
        named = re.findall(r"`(test_\w+)`", shown)
        assert ", ".join(f"`{name}`" for name in named) == shown, threat
        assert set(named) <= there, threat
