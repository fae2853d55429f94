"""Names, slugs, origins and times: whatever is sent, what is kept has one form."""

import re
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from gateway.clock import parse
from gateway.registry.fields import MAX_NAME, Name, Time
from gateway.registry.servers import origin_of, slug_of

_name = TypeAdapter(Name)
_time = TypeAdapter(Time)


@given(st.text())
def test_any_name_makes_a_slug_that_rego_can_route_by(name: str) -> None:
    slug = slug_of(name)
    assert re.fullmatch(r"[a-z][a-z0-9_]{0,49}", slug)
    assert slug_of(slug) == slug


@given(st.text())
def test_a_name_is_bounded_and_visible_or_refused(text: str) -> None:
    try:
        name = _name.validate_python(text)
    except ValidationError:
        return
    assert 0 < len(name.encode()) <= MAX_NAME
    assert name.isprintable() or " " in name or not name.isascii()
    assert name == name.strip()


@pytest.mark.parametrize("text", ["a\u202eb", "a\u200bb", "a\nb", "", " a", "é" * 65])
def test_a_name_that_hides_something_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        _name.validate_python(text)


@given(st.datetimes(datetime(1970, 1, 2)), st.integers(-1439, 1439))
def test_a_time_keeps_its_instant_in_one_form(moment: datetime, offset: int) -> None:
    moment = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    try:
        kept = _time.validate_python(moment.isoformat())
    except ValidationError:
        assert moment.year == 9999  # and over in UTC
        return
    assert parse(kept) == moment
    assert len(kept) == 27


@pytest.mark.parametrize(
    "text", ["2026-01-31", "2026-01-31T12:00:00", "2026-02-30T12:00:00Z", "1969-12-31T23:59:59Z"]
)
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        _time.validate_python(text)


@pytest.mark.parametrize(
    "url",
    [
        "https://Example.com",
        "https://example.com:443/a",
        "https://example.COM./?q",
        "HTTPS://example.com",
    ],
)
def test_an_origin_has_one_form(url: str) -> None:
    assert origin_of(url) == ("https", "example.com", 443)
