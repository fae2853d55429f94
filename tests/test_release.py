"""What is released: the same bytes from the same source, and a bill of what is in it."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECONDS = 280


def built(source: Path, to: Path, umask: int) -> dict[str, str]:
    """SHA-256 by name of the sdist and of the wheel that is made from it."""
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", to, source],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        umask=umask,
        env=os.environ | {"SOURCE_DATE_EPOCH": "1700000000"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in to.iterdir()}


def copied(to: Path, mode: int) -> Path:
    """The project in another place, just written and with other modes."""
    ignored = shutil.ignore_patterns(".*", "node_modules", "dist", "__pycache__", "data")
    shutil.copytree(ROOT, to, ignore=ignored, copy_function=shutil.copyfile)
    shutil.copyfile(ROOT / ".gitignore", to / ".gitignore")
    for path in to.rglob("*"):
        if path.is_file():
            path.chmod(mode)
    return to


def test_sdist_and_wheel_are_the_same_bytes_wherever_and_whenever_they_are_built(
    tmp_path: Path,
) -> None:
    first = built(copied(tmp_path / "here", 0o644), tmp_path / "one", 0o022)
    other = built(copied(tmp_path / "another place", 0o600), tmp_path / "two", 0o077)
    assert {Path(name).suffix for name in first} == {".gz", ".whl"}
    assert first == other


def test_the_bill_of_materials_names_all_that_the_lock_does_with_its_hashes(
    tmp_path: Path,
) -> None:
    recipe = re.search(
        r"\$\(BIN\)/(cyclonedx-py .*?)\n\t@echo", (ROOT / "Makefile").read_text(), re.S
    )
    assert recipe is not None
    program, *words = recipe[1].replace("\\\n", " ").split()
    bills = []
    for number in range(2):
        bill = tmp_path / f"{number}.json"
        given = [str(bill) if word == "dist/sbom.cdx.json" else word for word in words]
        done = subprocess.run(
            [Path(sys.executable).parent / program, *given],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr
        bills.append(bill.read_bytes())
    assert bills[0] == bills[1]
    document = json.loads(bills[0])
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["name"] == "policy-gateway"
    lock = (ROOT / "requirements.lock").read_text()
    locked = {
        (name, version): set(re.findall(r"sha256:(\w+)", hashes))
        for name, version, hashes in re.findall(
            r"^([\w.-]+)==([^\s;]+)(.*(?:\n    .*)*)", lock, re.M
        )
    }
    assert len(locked) > 50
    told = {
        (part["name"], part["version"]): {
            found["content"] for place in part["externalReferences"] for found in place["hashes"]
        }
        for part in document["components"]
    }
    assert told == locked
