"""What the digests of definitions and calls cover, and what they do not."""

import hashlib
from typing import Any

import jiter

from gateway.mcp.digests import call_digest, canonical_definition, definition_digests


def parsed(text: str) -> Any:
    return jiter.from_json(text.encode(), float_mode="lossless-float")


def test_order_and_spelling_of_a_definition_do_not_count() -> None:
    one = parsed('{"name":"a","inputSchema":{"b":1.0,"a":[1e2,0.10,"\\u00e9"]},"_meta":{"x":1}}')
    two = parsed('{"inputSchema":{"a":[100,0.1,"é"],"b":1},"name":"a","icons":[]}')
    assert canonical_definition(one) == canonical_definition(two)
    assert (
        canonical_definition(one) == '{"inputSchema":{"a":[100,0.1,"é"],"b":1},"name":"a"}'.encode()
    )


def test_every_pinned_member_counts() -> None:
    whole = {
        "name": "a",
        "title": "b",
        "description": "c",
        "inputSchema": {},
        "outputSchema": {},
        "annotations": {},
        "execution": {},
    }
    digests = {definition_digests(whole)[0]}
    for key in whole:
        digests.add(definition_digests({k: v for k, v in whole.items() if k != key})[0])
        digests.add(definition_digests(whole | {key: None})[0])
    assert len(digests) == 1 + 2 * len(whole)


def test_the_description_has_a_digest_of_its_own() -> None:
    assert definition_digests({"description": "é"})[1] == hashlib.sha256("é".encode()).hexdigest()
    empty = hashlib.sha256(b"").hexdigest()
    assert [definition_digests(tool)[1] for tool in ({}, {"description": 5})] == [empty, empty]


def test_numbers_that_no_double_holds_can_be_pinned() -> None:
    texts = ["1e400", "-1e400", "9" * 30, "9007199254740993", "9007199254740992", "1e300", "0.5"]
    pinned = {canonical_definition({"inputSchema": parsed(text)}) for text in texts}
    assert len(pinned) == len(texts)
    assert canonical_definition({"inputSchema": float("nan")})


def test_a_call_is_bound_whole_but_for_tracing() -> None:
    call = '{"name":"a","arguments":{"x":1,"y":[2]},"_meta":{"acme":1%s},"task":{"ttl":1}}'
    digest = call_digest(parsed(call % ""))
    tracing = ',"progressToken":5,"traceparent":"00","tracestate":"a","baggage":"b"'
    assert call_digest(parsed(call % tracing)) == digest
    assert call_digest(parsed(call % ',"other":1')) != digest
    others = [
        '{"name":"b","arguments":{"x":1,"y":[2]},"_meta":{"acme":1},"task":{"ttl":1}}',
        '{"name":"a","arguments":{"x":2,"y":[2]},"_meta":{"acme":1},"task":{"ttl":1}}',
        '{"name":"a","arguments":{"x":1,"y":[2]},"_meta":{"acme":2},"task":{"ttl":1}}',
        '{"name":"a","arguments":{"x":1,"y":[2]},"_meta":{"acme":1},"task":{"ttl":2}}',
        '{"name":"a","arguments":{"x":1,"y":[2]},"_meta":{"acme":1}}',
    ]
    assert digest not in {call_digest(parsed(other)) for other in others}


def test_the_order_of_keys_does_not_change_a_call() -> None:
    assert call_digest(parsed('{"name":"a","arguments":{"x":1,"é":2}}')) == call_digest(
        parsed('{"arguments":{"\\u00e9":2,"x":1},"name":"a"}')
    )


def test_a_meta_of_tracing_alone_is_as_none() -> None:
    assert call_digest(parsed('{"name":"a","_meta":{"progressToken":1}}')) == call_digest(
        parsed('{"name":"a"}')
    )


def test_numbers_count_as_they_were_sent() -> None:
    texts = ["1", "1.0", "1e0", "1E0", "true", '"1"', "9007199254740993", "9007199254740992"]
    assert len({call_digest({"arguments": parsed(text)}) for text in texts}) == len(texts)
