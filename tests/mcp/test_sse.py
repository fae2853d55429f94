"""The event scanner: every cut of a stream gives the same events, and no byte is altered."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mcp.sse import (
    Event,
    EventScanner,
    data_of,
    error_event,
    response_in,
    with_data,
)

LINES = st.sampled_from(
    ["data: a", "data:b", "data: ü€", "data", ": ping", "id: 7", "retry: 9", "event: message", "x"]
)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


def scan(stream: bytes, *cuts: int, limit: int = 1 << 20) -> tuple[list[Event], bytes]:
    """The events, and what is still held of an unfinished one."""
    scanner = EventScanner(limit)
    events: list[Event] = []
    edges = [0, *sorted(cuts), len(stream)]
    for start, end in zip(edges, edges[1:], strict=False):
        if start < end:
            events += scanner.feed(stream[start:end])
    return events, bytes(scanner._held)


BOM = b"\xef\xbb\xbf"


def as_a_browser_reads(stream: bytes) -> list[str]:
    """What the specification's own algorithm, over the whole text, dispatches."""
    dispatched: list[str] = []
    data: list[str] = []
    for line in re.split(r"\r\n|\n|\r", stream.decode().removeprefix("\ufeff"))[:-1]:
        name, _, value = line.partition(":")
        if line == "":
            if data:
                dispatched.append("\n".join(data))
            data = []
        elif name == "data":
            data.append(value.removeprefix(" "))
    return dispatched


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    parts = draw(st.lists(st.tuples(st.one_of(LINES, st.just("")), ENDS), max_size=25))
    stream = draw(st.sampled_from(["", "\ufeff"])) + "".join(line + end for line, end in parts)
    raw = stream.encode()
    return raw, draw(st.lists(st.integers(0, len(raw)), max_size=12))


@given(streams())
def test_any_cut_of_a_stream_gives_what_a_browser_reads(drawn: tuple[bytes, list[int]]) -> None:
    stream, cuts = drawn
    events, rest = scan(stream, *cuts)
    passed = b"".join(event.raw for event in events) + rest
    assert passed in (stream, stream.removeprefix(BOM))
    assert [e.data.decode() for e in events if e.data] == [
        data for data in as_a_browser_reads(stream) if data
    ]


def test_an_event_is_complete_with_its_blank_line_even_if_a_line_feed_may_follow() -> None:
    scanner = EventScanner()
    assert [event.data for event in scanner.feed(b"data: 1\r\n\r")] == [b"1"]
    assert [event.data for event in scanner.feed(b"\ndata: 2\r\n\r\n")] == [b"2"]


def test_comments_and_priming_events_have_no_data() -> None:
    events, _ = scan(b": ping\n\nid: 4\ndata: \n\nretry: 10\n\n")
    assert [event.data for event in events] == [b"", b"", b""]


def test_no_byte_order_mark_hides_data_whatever_event_a_callers_stream_begins_with() -> None:
    second = BOM + BOM + b"data: b\n\n"
    events, _ = scan(BOM + b"data: a\n\n" + second + b"\n" + BOM + b"data: c\n\n")
    assert [event.data for event in events] == [b"a", b"b", b"c"]
    assert not any(BOM in event.raw for event in events)
    assert with_data(BOM + b"data: b\n\n", b"{}") == b"data: {}\n\n"


def test_an_event_over_the_limit_passes_in_pieces_and_is_never_held_whole() -> None:
    stream = b"data: " + b"x" * 1000 + b"\n\ndata: after\n\n"
    scanner = EventScanner(limit=100)
    events: list[Event] = []
    for at in range(0, len(stream), 50):
        events += scanner.feed(stream[at : at + 50])
        assert len(scanner._held) <= 150
    assert b"".join(event.raw for event in events) == stream
    assert all(event.oversize and not event.data for event in events[:-1])
    assert events[-1] == Event(b"data: after\n\n", b"after")


def test_an_event_over_the_limit_is_oversize_even_when_it_comes_in_one_chunk() -> None:
    events, _ = scan(b"data: " + b"x" * 1000 + b"\n\n", limit=100)
    assert events[0].oversize
    assert events[0].data == b""


@pytest.mark.parametrize(
    ("data", "is_it"),
    [
        (b'{"jsonrpc":"2.0","id":7,"result":{}}', True),
        (b'{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"m"}}', True),
        (b'{"jsonrpc":"2.0","id":7,"\\u0072esult":{}}', True),
        (b'{"jsonrpc":"2.0","id":"7","result":{}}', False),
        (b'{"jsonrpc":"2.0","id":7.0,"result":{}}', False),
        (b'{"jsonrpc":"2.0","id":true,"result":{}}', False),
        (b'{"jsonrpc":"2.0","id":8,"result":{"id":7}}', False),
        (b'{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","result":{}}', False),
        (b'{"jsonrpc":"2.0","id":7}', False),
        (b'{"jsonrpc":"2.0","id":7,"result"', False),
        (b'[{"jsonrpc":"2.0","id":7,"result":{}}]', False),
    ],
)
def test_a_response_is_known_by_its_id_of_exactly_that_type(data: bytes, is_it: bool) -> None:
    assert response_in(data, 7) is is_it


def test_an_id_of_one_is_not_true() -> None:
    assert not response_in(b'{"id":true,"result":{}}', 1)


def test_an_error_event_is_read_back_as_the_response() -> None:
    raw = error_event("a", -31001, "Stopped.", {"reason_code": "emergency_stop"})
    events, rest = scan(raw)
    assert rest == b""
    assert response_in(events[0].data, "a")


def test_an_events_other_lines_survive_new_data() -> None:
    raw = b"id: 3\r\nevent: message\r\ndata: old\r\ndata: older\r\n: note\r\n\r\n"
    changed = with_data(raw, b"{}")
    assert changed == b"id: 3\nevent: message\n: note\ndata: {}\n\n"
    assert data_of(changed) == b"{}"
