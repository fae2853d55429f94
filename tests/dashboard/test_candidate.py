"""A candidate that is uploaded: what is taken from archives, and what is refused."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from gateway.dashboard import candidate
from gateway.dashboard.candidate import MODULE, CandidateFault, files_of
from gateway.dashboard.visitor import Upload
from tests.dashboard.site import Site, a_site, csrf_of

REGO = "package policies.all.mail\n"


def tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("all/link.rego")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return buffer.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


FOLDER = {
    "all/mail/mail.rego": REGO.encode(),
    "all/mail/data.json": b"{}",
    "README.md": b"# About",
    ".git/x.json": b"{}",
}


@pytest.mark.parametrize(
    "upload",
    [
        Upload("p.tar.gz", tar(FOLDER)),
        Upload("P.TGZ", tar(FOLDER)),
        Upload("p.zip", zipped(FOLDER)),
    ],
)
def test_an_archive_gives_its_policies_and_data_and_nothing_else(upload: Upload) -> None:
    assert files_of(upload) == {"all/mail/mail.rego": REGO, "all/mail/data.json": "{}"}


def test_a_module_is_taken_as_it_is() -> None:
    assert files_of(Upload("mail.rego", REGO.encode())) == {MODULE: REGO}


def test_of_a_bundle_only_what_the_organisation_brought_is_taken() -> None:
    bundle = {"/gateway/decision.rego": b"package gateway\n", "/data.json": b"{}"}
    bundle["/organisation/1/all/mail.rego"] = REGO.encode()
    assert files_of(Upload("bundle.tar.gz", tar(bundle))) == {"all/mail.rego": REGO}


@pytest.mark.parametrize(
    ("upload", "said"),
    [
        (Upload("policy.exe", b"x"), "Choose a .rego file"),
        (Upload("p.rego", b"\xff\xfe"), "UTF-8"),
        (Upload("p.rego", b"#" * (candidate.MAX_FILE + 1)), "256 KiB"),
        (Upload("p.tar.gz", b"nothing of the kind"), "cannot be read as a .tar.gz"),
        (Upload("p.tar.gz", tar(FOLDER)[:-40]), "cannot be read as a .tar.gz"),
        (Upload("p.zip", b"nothing of the kind"), "cannot be read as a .zip"),
        (Upload("p.zip", zipped({"README.md": b"x"})), "no Rego"),
        (Upload("p.zip", zipped({"a.rego": b"#" * (1 << 20)})), "256 KiB"),
        (Upload("p.tar.gz", gzip.compress(bytes(20 << 20))), "unpacks to more"),
        (Upload("p.zip", zipped({f"{n}.rego": b"#" for n in range(201)})), "more than 200 files"),
        (Upload("p.zip", zipped({f"{n}.rego": b"#" * 250_000 for n in range(20)})), "4 MiB"),
    ],
)
def test_what_cannot_be_tried_is_refused_in_words(upload: Upload, said: str) -> None:
    with pytest.raises(CandidateFault, match=said):
        files_of(upload)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with a_site(tmp_path) as found:
        yield found


@pytest.mark.anyio
async def test_a_file_comes_only_with_this_sessions_own_form(site: Site) -> None:
    path = "/dashboard/policies/what-if"
    async with site.person("admin") as client:
        csrf = csrf_of(await client.get(path))
        sent = {"file": ("p.zip", zipped(FOLDER))}
        for form in ({"days": "7"}, {"days": "7", "csrf": "guess"}):
            assert (await client.post(path, data=form, files=sent)).status_code == 403
        form = {"days": "7", "csrf": csrf}
        origin = {"Origin": "https://evil.example"}
        away = await client.post(path, data=form, files=sent, headers=origin)
        assert away.status_code == 403
        large = {"file": ("p.zip", bytes(5 << 20))}
        assert (await client.post(path, data=form, files=large)).status_code == 413
        wrong = await client.post(path, data=form, files={"file": ("p.txt", b"x")})
        assert (wrong.status_code, "Choose a .rego file" in wrong.text) == (400, True)
        module = {"file": ("p.rego", b"package nonsense\n")}
        again = await client.post(path, data=form, files=module)
        assert "package nonsense" in again.text
        assert (
            await client.post(path, content=b"x", headers={"Content-Type": "text/plain"})
        ).status_code == 415
