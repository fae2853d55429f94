"""Notes and checkpoints: the format that others read and write, and signatures that hold."""

import base64
import re

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.trace import note
from gateway.trace.note import Checkpoint, NoteFault, VerifierKey

# golang.org/x/mod/sumdb/note, example_test.go: an implementation of signed-note that is not ours.
NEUMANN_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NEUMANN_PRIVATE = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
NEUMANN = """If you think cryptography is the answer to your problem,
then you don't know what your problem is.

— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=
"""  # noqa: E501 - the note as it is

# c2sp.org/tlog-checkpoint, without its signatures.
CHECKPOINT = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
"""

ORIGIN = "gw.example/trace/main"
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
HEAD = Checkpoint(ORIGIN, 41, b"r" * 32)


def test_a_note_that_another_implementation_signed_opens() -> None:
    text = note.opened(NEUMANN, VerifierKey.parse(NEUMANN_KEY))
    assert text == NEUMANN.partition("\n\n")[0] + "\n"


def test_a_key_is_spelt_as_another_implementation_spells_it() -> None:
    raw = base64.b64decode(NEUMANN_PRIVATE)[1:]
    key = VerifierKey.of("PeterNeumann", Ed25519PrivateKey.from_private_bytes(raw))
    assert str(key) == NEUMANN_KEY


def test_the_specifications_checkpoint_is_read_and_written_as_it_is() -> None:
    found = note.parse(CHECKPOINT)
    assert (found.origin, found.size) == ("example.com/behind-the-sofa", 20852163)
    assert found.text() == CHECKPOINT


def test_what_was_signed_opens_with_the_key_and_says_the_same() -> None:
    signed = note.sign(HEAD, KEY)
    assert note.checkpoint(signed, VerifierKey.parse(str(VerifierKey.of(ORIGIN, KEY)))) == HEAD


@pytest.mark.parametrize("seed", range(60))
def test_any_key_is_read_back_also_with_a_plus_sign_in_its_base64(seed: int) -> None:
    key = VerifierKey.of(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))
    assert VerifierKey.parse(str(key)) == key


def test_other_signatures_are_passed_over_in_any_order() -> None:
    ours = note.sign(HEAD, KEY)
    theirs = "— witness.example/w AAAAAAAAAAAA\n"
    head, _, line = ours.rpartition("\n\n")
    for signatures in (theirs + line, line + theirs):
        assert note.checkpoint(f"{head}\n\n{signatures}", VerifierKey.of(ORIGIN, KEY)) == HEAD


@pytest.mark.parametrize(
    ("changed", "by", "why"),
    [
        ("\n41\n", "\n42\n", "does not fit"),
        ("\n41\n", "\n041\n", "does not fit"),
        (ORIGIN + "\n", "gw.example/trace/other\n", "does not fit"),
        ("\n\n", "\n", "no signatures"),
        ("— ", "- ", "malformed"),
        ("— " + ORIGIN, "— gw.example/trace/other", "not signed by"),
    ],
)
def test_any_change_is_noticed(changed: str, by: str, why: str) -> None:
    signed = note.sign(HEAD, KEY)
    with pytest.raises(NoteFault, match=why):
        note.checkpoint(signed.replace(changed, by, 1), VerifierKey.of(ORIGIN, KEY))


def test_another_key_under_the_same_name_is_not_trusted() -> None:
    other = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
    with pytest.raises(NoteFault, match="not signed by"):
        note.checkpoint(note.sign(HEAD, other), VerifierKey.of(ORIGIN, KEY))


def test_a_key_whose_id_does_not_fit_is_refused() -> None:
    with pytest.raises(NoteFault, match="altered"):
        VerifierKey.parse(NEUMANN_KEY.replace("c74f20a3", "c74f20a4"))


@pytest.mark.parametrize("text", ["", "name", "name+c74f20a3", "name+1+AAAA", "a b+1+AAAA", "+1+A"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(NoteFault):
        VerifierKey.parse(text)


@pytest.mark.parametrize(
    "text", ["", "o\n1\n", "o\n01\nAAAA\n", "o\n-1\nAAAA\n", "o\n1\nAAAA\n", "a b\n1\nAAAA\n"]
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteFault):
        note.parse(text)


@pytest.mark.parametrize("origin", ["", "a b", "a+b", "a\u00a0b"])
def test_a_log_cannot_have_a_name_that_no_reader_could_split(origin: str) -> None:
    with pytest.raises(NoteFault, match=re.escape("cannot name a log")):
        note.sign(Checkpoint(origin, 1, b"r" * 32), KEY)
