"""Request heads and answers as bytes, without sockets."""

import pytest

from gateway.http1.protocol import (
    MAX_HEAD,
    AnswerReader,
    Http1Error,
    Inbox,
    Interrupted,
    InvalidHead,
    TooLarge,
    build_head,
)

HOST = (b"host", b"upstream.example")


def read(
    *parts: bytes, max_body: float = 1e9, head_only: bool = False
) -> tuple[Inbox, AnswerReader, Http1Error | None]:
    inbox, reader = Inbox(max_body), AnswerReader()
    reader.expect(inbox, head_only=head_only)
    for part in parts:
        fault = reader.feed(part)
        if fault is not None or inbox.complete:
            return inbox, reader, fault
    return inbox, reader, None


def each_byte(answer: bytes) -> list[bytes]:
    return [answer[at : at + 1] for at in range(len(answer))]


def answer(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join(("HTTP/1.1 200 OK", *lines, "", "")).encode("latin-1") + body


CHUNKED = answer("Transfer-Encoding: chunked", body=b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n")
PLAIN = answer("Content-Type: a/b", "X-Empty:", "Content-Length: 7", body=b"abcdefg")
EARLY = b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + PLAIN


@pytest.mark.parametrize("whole", [CHUNKED, PLAIN, EARLY])
def test_an_answer_reads_the_same_however_it_is_split(whole: bytes) -> None:
    expected, _, fault = read(whole)
    assert fault is None
    assert expected.complete
    body, headers = expected.take(), expected.headers
    assert body == b"abcdefg"
    for at in range(1, len(whole)):
        inbox, reader, fault = read(whole[:at], whole[at:])
        assert (inbox.complete, fault, reader.keep_alive) == (True, None, True)
        assert (inbox.take(), inbox.headers) == (body, headers)
    inbox, _, fault = read(*each_byte(whole))
    assert (inbox.complete, fault, inbox.take(), inbox.headers) == (True, None, body, headers)


MALFORMED = {
    "not HTTP": b"SSH-2.0-OpenSSH\r\n",
    "HTTP/0.9": b"hello world",
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "RTSP": b"RTSP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "lines before": b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status of two digits": b"HTTP/1.1 99 OK\r\nContent-Length: 0\r\n\r\n",
    "status zero": b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
    "status 999": b"HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n",
    "switching protocols": b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "101 without upgrade": b"HTTP/1.1 101 S\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "bare LF in headers": b"HTTP/1.1 200 OK\r\nX: y\nContent-Length: 0\r\n\r\n",
    "bare CR": answer("X: a\rY: b", "Content-Length: 0"),
    "NUL": answer("X: a\0b", "Content-Length: 0"),
    "folded line": answer("X: a", " b", "Content-Length: 0"),
    "folded line after nothing": answer("X:", " b", "Content-Length: 0"),
    "space before colon": answer("X : a", "Content-Length: 0"),
    "space before the first name": answer(" X: a", "Content-Length: 0"),
    "no colon": answer("nonsense", "Content-Length: 0"),
    "two lengths": answer("Content-Length: 1", "Content-Length: 2", body=b"ab"),
    "the same length twice": answer("Content-Length: 1", "Content-Length: 1", body=b"a"),
    "list of lengths": answer("Content-Length: 1, 1", body=b"a"),
    "signed length": answer("Content-Length: +1", body=b"a"),
    "negative length": answer("Content-Length: -1", body=b"a"),
    "empty length": answer("Content-Length:", body=b"a"),
    "huge length": answer("Content-Length: 99999999999999999999", body=b"a"),
    "length and chunked": answer(
        "Content-Length: 6", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "chunked and length": answer(
        "Transfer-Encoding: chunked", "Content-Length: 6", body=b"0\r\n\r\n"
    ),
    "chunked twice": answer(*["Transfer-Encoding: chunked"] * 2, body=b"0\r\n\r\n"),
    "gzip, chunked": answer("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "identity": answer("Transfer-Encoding: identity", body=b"abc"),
    "xchunked": answer("Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "chunked in 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "too many 1xx": b"HTTP/1.1 100 C\r\n\r\n" * 9 + PLAIN,
    "too many headers": answer(*["X: y"] * 129, "Content-Length: 0"),
    "head too large": answer("X: " + "y" * MAX_HEAD, "Content-Length: 0"),
    "endless reason": b"HTTP/1.1 200 " + b"y" * MAX_HEAD,
}
BAD_CHUNKS = {
    "no size": b"\r\na\r\n0\r\n\r\n",
    "no number": b"zz\r\na\r\n0\r\n\r\n",
    "negative": b"-1\r\na\r\n0\r\n\r\n",
    "0x": b"0x1\r\na\r\n0\r\n\r\n",
    "space": b"1 \r\na\r\n0\r\n\r\n",
    "overflow": b"fffffffffffffffff\r\na\r\n0\r\n\r\n",
    "longer than said": b"1\r\nab\r\n0\r\n\r\n",
    "bare LF": b"1\na\r\n0\r\n\r\n",
    "endless extension": b"1;" + b"x" * 2 * MAX_HEAD,
    "endless trailers": b"1\r\na\r\n0\r\n" + b"X: y\r\n" * MAX_HEAD,
}
MALFORMED |= {
    f"chunk: {name}": answer("Transfer-Encoding: chunked", body=body)
    for name, body in BAD_CHUNKS.items()
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_answer_is_refused_at_once_and_byte_by_byte(name: str) -> None:
    _, _, fault = read(MALFORMED[name])
    assert type(fault) is Interrupted
    inbox, _, fault = read(*each_byte(MALFORMED[name]))
    assert type(fault) is Interrupted
    assert not inbox.complete


@pytest.mark.parametrize(
    "rest",
    [b"x", b"\r\n", PLAIN, b"HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 1\r\n\r\ny"],
)
@pytest.mark.parametrize("first", [CHUNKED, PLAIN, answer("Content-Length: 0")])
def test_bytes_after_an_answer_spoil_the_connection_but_not_the_answer(
    first: bytes, rest: bytes
) -> None:
    clean, _, _ = read(first)
    inbox, reader, fault = read(first + rest)
    assert (inbox.complete, fault, reader.keep_alive) == (True, None, False)
    assert (inbox.headers, inbox.take()) == (clean.headers, clean.take())


@pytest.mark.parametrize(
    "whole",
    [
        b"HTTP/1.1 204 N\r\n\r\n",
        b"HTTP/1.1 304 N\r\nContent-Length: 7\r\n\r\n",
        answer("Content-Length: 0"),
    ],
)
def test_answers_without_a_body_end_with_their_head_and_keep_the_connection(whole: bytes) -> None:
    inbox, reader, fault = read(*each_byte(whole))
    assert (inbox.complete, fault, inbox.take(), reader.keep_alive) == (True, None, b"", True)


@pytest.mark.parametrize(
    "whole",
    [
        b"HTTP/1.1 204 N\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 204 N\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
        answer("Connection: close", "Content-Length: 0"),
        answer("Connection: foo, Close", "Content-Length: 0"),
    ],
)
def test_a_doubtful_or_closing_answer_does_not_keep_the_connection(whole: bytes) -> None:
    inbox, reader, fault = read(whole)
    assert (inbox.complete, fault, reader.keep_alive) == (True, None, False)


def test_the_answer_to_a_head_request_has_no_body() -> None:
    inbox, reader, fault = read(PLAIN, head_only=True)
    assert (inbox.complete, fault, inbox.take(), reader.keep_alive) == (True, None, b"", False)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_body_without_length_runs_until_the_connection_closes(version: str) -> None:
    inbox, reader, fault = read(f"HTTP/{version} 200 OK\r\n\r\n".encode(), b"abc", b"def")
    assert (inbox.complete, fault, reader.until_close, reader.keep_alive) == (
        False,
        None,
        True,
        False,
    )
    assert inbox.take() == b"abcdef"


def test_trailers_never_become_headers() -> None:
    inbox, _, fault = read(
        answer("Transfer-Encoding: chunked", body=b"1\r\na\r\n0\r\nContent-Type: evil\r\n\r\n")
    )
    assert (inbox.complete, fault) == (True, None)
    assert inbox.headers == [(b"transfer-encoding", b"chunked")]


def test_header_names_are_lowered_and_values_stripped() -> None:
    inbox, _, _ = read(answer("CONTENT-Type: \t a/b \t ", "X-Latin: \xff", "Content-Length: 0 "))
    assert inbox.headers == [
        (b"content-type", b"a/b"),
        (b"x-latin", b"\xff"),
        (b"content-length", b"0"),
    ]


@pytest.mark.parametrize("whole", [CHUNKED, PLAIN, b"HTTP/1.1 200 OK\r\n\r\nabcdefg"])
def test_a_body_over_the_bound_is_refused_and_one_at_the_bound_is_not(whole: bytes) -> None:
    assert type(read(whole, max_body=6)[2]) is TooLarge
    assert read(whole, max_body=7)[2] is None


def test_a_declared_length_over_the_bound_is_refused_before_the_body_comes() -> None:
    assert type(read(answer("Content-Length: 8"), max_body=7)[2]) is TooLarge


def test_a_large_body_in_one_read_is_no_large_head() -> None:
    body = b"x" * (4 * MAX_HEAD)
    inbox, _, fault = read(answer(f"Content-Length: {len(body)}", body=body))
    assert (inbox.complete, fault) == (True, None)


def test_a_head_is_written_as_given() -> None:
    assert build_head("POST", "/mcp?a=%20", [HOST, (b"X-A", b"b\tc \xff")], 3) == (
        b"POST /mcp?a=%20 HTTP/1.1\r\nhost: upstream.example\r\nX-A: b\tc \xff\r\n"
        b"content-length: 3\r\n\r\n"
    )
    assert build_head("GET", "/", [HOST], None).endswith(b"example\r\n\r\n")


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET /x HTTP/1.1\r\nX:", "/", [HOST]),
        ("", "/", [HOST]),
        ("CONNECT", "/", [HOST]),
        ("GÉT", "/", [HOST]),
        ("GET", "/a b", [HOST]),
        ("GET", "/a\r\nX: y", [HOST]),
        ("GET", "/\0", [HOST]),
        ("GET", "/é", [HOST]),
        ("GET", "/a#b", [HOST]),
        ("GET", "http://x/", [HOST]),
        ("GET", "", [HOST]),
        ("GET", "/", []),
        ("GET", "/", [HOST, HOST]),
        ("GET", "/", [HOST, (b"x", b"a\r\nb: c")]),
        ("GET", "/", [HOST, (b"x", b"a\nb")]),
        ("GET", "/", [HOST, (b"x", b"a\0b")]),
        ("GET", "/", [HOST, (b"x", b"a\x7fb")]),
        ("GET", "/", [HOST, (b"x", b" padded")]),
        ("GET", "/", [HOST, (b"x", b"newline at the end\n")]),
        ("GET", "/", [HOST, (b"x:", b"a")]),
        ("GET", "/", [HOST, (b"", b"a")]),
        ("GET", "/", [HOST, (b"x\n", b"a")]),
        ("GET", "/", [HOST, (b"Content-Length", b"5")]),
        ("GET", "/", [HOST, (b"Transfer-Encoding", b"chunked")]),
        ("GET", "/", [HOST, (b"Connection", b"close")]),
        ("GET", "/", [HOST, (b"Upgrade", b"h2c")]),
    ],
)
def test_a_head_that_could_say_something_else_is_not_written(
    method: str, target: str, headers: list[tuple[bytes, bytes]]
) -> None:
    with pytest.raises(InvalidHead):
        build_head(method, target, headers, 0)
