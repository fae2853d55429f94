"""What is released: the same bytes from the same source, and a bill of what is in it."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import needs

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


def _run(
    folder: Path, *words: str | Path, stdin: bytes = b""
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        words, cwd=folder, input=stdin, capture_output=True, check=False, timeout=SECONDS
    )
    return subprocess.CompletedProcess(
        words, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def _keys(folder: Path, *names: str) -> None:
    ssh_keygen = needs("ssh-keygen", "on Debian: apt-get install openssh-client")
    for name in names:
        made = _run(folder, ssh_keygen, "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", name)
        assert made.returncode == 0, made.stderr


def _checked(release: Path, keys: Path, by: str) -> list[int]:
    """As SECURITY.md says, with this person's public key."""
    text = (ROOT / "SECURITY.md").read_text()
    [commands] = re.findall(r"```bash\n(echo .*?)```", text, re.S)
    (release / "release.pub").write_text((keys / f"{by}.pub").read_text())
    return [_run(release, "sh", "-c", line).returncode for line in commands.strip().splitlines()]


def test_a_release_is_signed_and_whatever_is_changed_is_noticed(tmp_path: Path) -> None:
    _keys(tmp_path, "ada", "eve", "lost")
    source = copied(tmp_path / "a source", 0o644)
    (source / "deploy/release.sh").chmod(0o755)
    (tmp_path / "sbom.json").write_text("{}")
    out = tmp_path / "release"

    def release(key: str) -> tuple[int, str]:
        more = (tmp_path / key, tmp_path / "sbom.json", out)
        done = _run(source, source / "deploy/release.sh", sys.executable, *more)
        return done.returncode, done.stderr

    mine = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    for words in (["init", "-q"], ["add", "."], [*mine, "commit", "-q", "-m", "all"]):
        assert _run(source, "git", *words).returncode == 0
    (source / "more").touch()
    code, said = release("ada")
    assert (code, "commit, or take away" in said) == (1, True)
    (source / "more").unlink()
    code, said = release("nobody")
    assert (code, "there is no key" in said) == (1, True)
    (tmp_path / "lost").unlink()
    code, said = release("lost.pub")
    assert (code, "does not sign" in said) == (1, True)
    assert not out.exists()
    assert not list(tmp_path.glob("release.*"))
    assert release("ada")[0] == 0
    assert release("ada")[0] == 1
    names = {path.name.partition("-")[0] for path in out.iterdir()}
    assert names == {
        "policy_gateway",
        "sbom.cdx.json",
        "requirements.lock",
        "COMMIT",
        "SHA256SUMS",
        "SHA256SUMS.sig",
    }
    assert _checked(out, tmp_path, "ada") == [0, 0, 0]
    assert _checked(out, tmp_path, "eve")[1] != 0
    [wheel] = out.glob("*.whl")
    wheel.write_bytes(wheel.read_bytes() + b"x")
    assert _checked(out, tmp_path, "ada") == [0, 0, 1]
    sums = out / "SHA256SUMS"
    sums.write_text(sums.read_text().replace("0", "1"))
    assert _checked(out, tmp_path, "ada")[1] != 0


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
