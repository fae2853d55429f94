"""The canonical bytes: what is hashed is RFC 8785, whatever a record's fields hold."""

import hashlib
import hmac

import orjson
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.trace.record import (
    MAX_BODY,
    MAX_LISTED,
    MAX_NAME,
    Draft,
    Field,
    Mac,
    Place,
    RecordTooLarge,
    body,
    bounded,
    commitment,
    listed_policies,
)
from gateway.values import ProjectId

# The profile of a record: ASCII keys, no floats, |int| < 2^53, valid Unicode.
ascii_keys = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=12)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
integers = st.integers(-(2**53) + 1, 2**53 - 1)
values = st.one_of(texts, integers, st.booleans(), st.none(), st.lists(texts, max_size=4))

PLACE = Place(41, "2026-11-22T14:35:00.123456Z", 8, "ab" * 32)


def a_draft(**fields: Field) -> Draft:
    return Draft("decision", "trc_1", ProjectId("prj_1"), fields)


@settings(max_examples=400)
@given(
    st.dictionaries(ascii_keys, values, max_size=12),
    st.dictionaries(ascii_keys, texts, max_size=4),
    st.one_of(st.none(), texts),
)
def test_a_record_has_the_bytes_of_rfc_8785(
    fields: dict[str, Field], commitments: dict[str, str], call_id: str | None
) -> None:
    draft = Draft("decision", "trc_1", ProjectId("prj_1"), fields, call_id=call_id)
    raw = body(draft, PLACE, commitments)
    assert raw == rfc8785.dumps(orjson.loads(raw))


def test_what_the_writer_gives_cannot_be_set_by_a_draft() -> None:
    forged = a_draft(v=9, idx=0, kind="genesis", id="trc_0", ts="", project="prj_2", pseq=0)
    told = orjson.loads(body(forged, PLACE, {}))
    assert told == {
        "v": 1,
        "idx": 41,
        "kind": "decision",
        "id": "trc_1",
        "ts": PLACE.ts,
        "project": "prj_1",
        "pseq": 8,
        "pprev": PLACE.pprev,
    }


def test_a_record_over_16_kib_is_refused_and_one_of_16_kib_is_not() -> None:
    empty = len(body(a_draft(x=""), PLACE, {}))
    assert len(body(a_draft(x="y" * (MAX_BODY - empty)), PLACE, {})) == MAX_BODY
    with pytest.raises(RecordTooLarge, match="trc_1 has 16385 bytes"):
        body(a_draft(x="y" * (MAX_BODY - empty + 1)), PLACE, {})


@given(texts.map(lambda text: text * 9))
def test_a_bounded_name_is_a_beginning_of_the_name_and_short_enough(name: str) -> None:
    cut, name = bounded(name), name.replace("\0", "\ufffd")
    assert name.startswith(cut)
    assert len(cut.encode()) <= MAX_NAME
    if len(name.encode()) <= MAX_NAME:
        assert cut == name
    else:
        assert len(cut.encode()) > MAX_NAME - 4


@given(st.binary(max_size=64), st.binary(max_size=200))
def test_a_commitment_is_the_hmac_under_its_nonce(nonce: bytes, value: bytes) -> None:
    expected = hmac.new(nonce, value, hashlib.sha256).hexdigest()
    assert commitment(nonce, value) == f"hmac-sha256:{expected}"


@given(st.binary(max_size=64), st.lists(st.binary(max_size=200), max_size=3))
def test_a_mac_under_one_key_is_its_hmac_of_each_value(key: bytes, values: list[bytes]) -> None:
    mac = Mac(key)
    assert [mac(value) for value in values] == [hmac.digest(key, v, "sha256") for v in values]


def test_a_key_that_would_have_to_be_hashed_first_is_none() -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        Mac(b"k" * 65)


def test_policies_are_listed_whole_as_far_as_an_index_entry_has_room() -> None:
    assert listed_policies(["a", "b"]) == "\na\nb\n"
    assert (listed_policies([]), listed_policies(None)) == (None, None)
    many = [f"{n:02d}" + "ü" * 60 for n in range(32)]
    text = listed_policies(many)
    assert text is not None
    kept = text.strip("\n").split("\n")
    assert kept == many[: len(kept)]
    assert MAX_LISTED - 130 < len(text.encode()) <= MAX_LISTED
