"""Every form of a call that two readers of JSON may take differently, and a few that none does."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Form:
    """One form: the bytes of a message, or of the `arguments` of a call to `record`."""

    name: str
    text: bytes
    outcome: Literal["runs", "refused"]
    not_run_by: frozenset[str] = frozenset()
    """SDKs that answer this form with an error of their own, which is as good."""


def _deep(levels: int) -> bytes:
    """Arguments that are the outermost of so many nested objects."""
    return b'{"options":' * (levels > 0) + b'{"a":' * (levels - 2) + b"{}" + b"}" * (levels - 1)


def _runs(name: str, text: bytes, *not_run_by: str) -> Form:
    return Form(name, text, "runs", frozenset(not_run_by))


def _refused(name: str, text: bytes) -> Form:
    return Form(name, text, "refused")


ARGUMENTS = (
    _runs("nothing", b"{}"),
    _runs(
        "every type",
        b'{"text":"a","count":3,"ratio":0.5,"flag":true,"tags":["b","c"],'
        b'"options":{"d":[1,null,{"e":false}]},"note":"f","any":[7]}',
    ),
    _runs("white space", b' {\r\n\t"text" :\t"a" , "count": 1 } '),
    _runs("an escaped key", b'{"t\\u0065xt":"a"}'),
    _runs("escaped and plain characters", '{"text":"caf\\u00e9 é \\ud83d\\ude00 😀"}'.encode()),
    _runs("control characters", b'{"text":"\\u0000\\u001f\\u007f\\u2028\\/\\b"}'),
    _runs("JSON in a string that is a string", b'{"text":"{\\"a\\":1}"}'),
    _runs("null in a string that is a string", b'{"text":"null"}'),
    _runs("JSON in a string below", b'{"options":{"a":"[1]","b":"null"}}'),
    _runs("null", b'{"note":null}'),
    _runs("an integer with a fraction", b'{"count":3.0}'),
    _runs("an integer with an exponent", b'{"count":1e2}'),
    _runs("minus zero", b'{"count":-0,"ratio":-0.0}'),
    _runs("an integer for a number", b'{"ratio":3}'),
    _runs("capital exponents", b'{"ratio":1.5E+2,"options":{"a":1E2}}'),
    _runs(
        "the smallest and the largest double", b'{"options":{"a":[5e-324,1.7976931348623157e308]}}'
    ),
    _runs("trailing zeros", b'{"ratio":0.1000}'),
    _runs("an integer past 2^53", b'{"count":9007199254740993}', "typescript"),
    _runs("an integer past 2^53 below", b'{"options":{"a":9007199254740993}}'),
    _runs("the largest integer", b'{"count":9223372036854775807}', "typescript", "go"),
    _runs("the smallest integer", b'{"count":-9223372036854775808}', "typescript", "go"),
    _runs("62 levels", _deep(62)),
    _runs("keys that objects have", b'{"options":{"toString":2,"length":3}}'),
    _runs("a constructor", b'{"options":{"constructor":1}}', "typescript"),
    _runs("an odd key alone", '{"options":{"\u212a":1,"b\\u0000":2,"":3}}'.encode()),
    _runs("alike keys at different levels", b'{"options":{"a":{"A":1}}}'),
    _refused("63 levels", _deep(63)),
    _refused("5000 levels", _deep(5000)),
    _refused("a key twice", b'{"text":"a","text":"b"}'),
    _refused("a key twice, once escaped", b'{"text":"a","t\\u0065xt":"b"}'),
    _refused("a key twice below", b'{"options":{"a":[{"b":1,"b":2}]}}'),
    _refused("a key in two cases", b'{"text":"a","Text":"b"}'),
    _refused("a key in two cases below", b'{"options":{"a":[{"id":1,"ID":2}]}}'),
    _refused("a key with the long s", '{"options":{"s":1,"\u017f":2}}'.encode()),
    _refused("a key with the Kelvin sign", '{"options":{"k":1,"\u212a":2}}'.encode()),
    _refused("a full-width key", '{"options":{"a":1,"\uff41":2}}'.encode()),
    _refused("a key with NUL", b'{"options":{"a":1,"a\\u0000":2}}'),
    _refused("a property in another case", b'{"Text":"a"}'),
    _refused("a property with NUL", b'{"text\\u0000":"a"}'),
    _refused("a property with the long s", '{"tag\u017f":["a"]}'.encode()),
    _refused("a prototype", b'{"options":{"__proto__":{"a":1}}}'),
    _refused("a prototype below", b'{"options":{"a":[{"__proto__":null,"b":1}]}}'),
    _refused("a high surrogate", b'{"text":"\\ud800"}'),
    _refused("a low surrogate", b'{"text":"\\udc00a"}'),
    _refused("bytes that are no UTF-8", b'{"text":"\xff"}'),
    _refused("a surrogate in UTF-8", b'{"text":"\xed\xa0\x80"}'),
    _refused("an overlong form", b'{"text":"\xc0\xaf"}'),
    _refused("a raw control character", b'{"text":"a\nb"}'),
    _refused("NaN", b'{"ratio":NaN}'),
    _refused("Infinity", b'{"ratio":Infinity}'),
    _refused("minus Infinity", b'{"options":{"a":[-Infinity]}}'),
    _refused("too large for a double", b'{"ratio":1e400}'),
    _refused("too large for a double, below", b'{"options":{"a":[-1e400]}}'),
    _refused("too small for a double", b'{"ratio":1e-400}'),
    _refused("too precise for a double", b'{"ratio":0.1000000000000000055}'),
    _refused("a huge zero", b'{"ratio":0e999999999}'),
    _refused("101 digits", b'{"ratio":0.' + b"0" * 50 + b"1" * 60 + b"}"),
    _refused("an integer of 30 digits", b'{"options":{"a":' + b"9" * 30 + b"}}"),
    _refused("an integer of 65 bits", b'{"options":{"a":18446744073709551616}}'),
    _refused("an integer of 5000 digits", b'{"options":{"a":' + b"9" * 5000 + b"}}"),
    _refused("an integer past 2^53 with an exponent", b'{"count":1e300}'),
    _refused("a fraction for an integer", b'{"count":1.5}'),
    _refused("a leading zero", b'{"count":01}'),
    _refused("hexadecimal", b'{"count":0x10}'),
    _refused("a string for an integer", b'{"count":"1"}'),
    _refused("a boolean for an integer", b'{"count":true}'),
    _refused("a string for a number", b'{"ratio":"1.5"}'),
    _refused("a string for a boolean", b'{"flag":"true"}'),
    _refused("an integer for a boolean", b'{"flag":1}'),
    _refused("an integer for a string", b'{"text":5}'),
    _refused("JSON in a string for an array", b'{"tags":"[\\"a\\",\\"b\\"]"}'),
    _refused("JSON in a string for an object", b'{"options":"{\\"a\\":1}"}'),
    _refused("null in a string for null", b'{"note":"null"}'),
    _refused("JSON in a string for anything", b'{"any":" {\\"a\\":1}"}'),
    _refused("an integer in an array of strings", b'{"tags":["a",1]}'),
    _refused("a comment", b'{"text":"a"/**/}'),
    _refused("a trailing comma", b'{"text":"a",}'),
    _refused("single quotes", b"{'text':'a'}"),
    _refused("an array", b"[]"),
    _refused("null for all", b"null"),
    _refused("a string for all", b'"{}"'),
)


def _call(params: bytes, rest: bytes = b'"jsonrpc":"2.0","id":7,"method":"tools/call"') -> bytes:
    return b"{" + rest + b',"params":' + params + b"}"


_PARAMS = b'{"name":"record","arguments":{"text":"a"}}'


def _head(head: bytes) -> bytes:
    return _call(_PARAMS, head)


MESSAGES = (
    _runs("a plain call", _call(_PARAMS)),
    _runs("no arguments", _call(b'{"name":"record"}')),
    _runs(
        "members in another order",
        b'{"params":' + _PARAMS + b',"id":7,"method":"tools/call","jsonrpc":"2.0"}',
    ),
    _runs("an escaped name", _call(b'{"name":"\\u0072ecord","arguments":{"text":"a"}}')),
    _runs("an escaped method", _head(b'"jsonrpc":"2.0","id":7,"method":"tools\\/c\\u0061ll"')),
    _runs("a text id", _head(b'"jsonrpc":"2.0","id":"7","method":"tools/call"')),
    _runs("the largest id", _head(b'"jsonrpc":"2.0","id":9007199254740991,"method":"tools/call"')),
    _runs("meta", _call(b'{"name":"record","arguments":{},"_meta":{"progressToken":"p","a":1}}')),
    _refused("two names", _call(b'{"name":"other","name":"record","arguments":{}}')),
    _refused("two names, one escaped", _call(b'{"n\\u0061me":"other","name":"record"}')),
    _refused("two arguments", _call(b'{"name":"record","arguments":{},"arguments":{"text":"a"}}')),
    _refused("two params", _call(_PARAMS + b',"params":{"name":"other"}')),
    _refused("two methods", _head(b'"jsonrpc":"2.0","id":7,"method":"ping","method":"tools/call"')),
    _refused("a name in another case", _call(b'{"name":"record","Name":"other"}')),
    _refused("arguments in another case", _call(b'{"name":"record","Arguments":{"text":"a"}}')),
    _refused("a name with NUL", _call(b'{"name":"record","name\\u0000":"other"}')),
    _refused("a method in another case", _head(b'"jsonrpc":"2.0","id":7,"Method":"tools/call"')),
    _refused(
        "params with the long s",
        '{"jsonrpc":"2.0","id":7,"method":"tools/call","param\u017f":{"name":"record"}}'.encode(),
    ),
    _refused("an unknown member", _call(_PARAMS + b',"x":1')),
    _refused("a prototype as a member", _call(_PARAMS + b',"__proto__":{}')),
    _refused("an unknown parameter", _call(b'{"name":"record","args":{}}')),
    _refused("no name", _call(b'{"arguments":{}}')),
    _refused("a name that is no text", _call(b'{"name":["record"]}')),
    _refused("a batch", b"[" + _call(_PARAMS) + b"]"),
    _refused("a batch of two", b"[" + _call(_PARAMS) + b"," + _call(_PARAMS) + b"]"),
    _refused("an empty batch", b"[]"),
    _refused("two objects", _call(_PARAMS) + _call(_PARAMS)),
    _refused("two lines", _call(_PARAMS) + b"\n" + _call(_PARAMS)),
    _refused("a tail", _call(_PARAMS) + b"x"),
    _refused("a NUL tail", _call(_PARAMS) + b"\0"),
    _refused("nothing at all", b""),
    _refused("a byte order mark", b"\xef\xbb\xbf" + _call(_PARAMS)),
    _refused("UTF-16", _call(_PARAMS).decode().encode("utf-16")),
    _refused("UTF-16 without a mark", _call(_PARAMS).decode().encode("utf-16-le")),
    _refused("UTF-32", _call(_PARAMS).decode().encode("utf-32-be")),
    _refused("no id", _head(b'"jsonrpc":"2.0","method":"tools/call"')),
    _refused("a null id", _head(b'"jsonrpc":"2.0","id":null,"method":"tools/call"')),
    _refused("a fraction as id", _head(b'"jsonrpc":"2.0","id":7.0,"method":"tools/call"')),
    _refused("a boolean as id", _head(b'"jsonrpc":"2.0","id":true,"method":"tools/call"')),
    _refused("an array as id", _head(b'"jsonrpc":"2.0","id":[7],"method":"tools/call"')),
    _refused("2^53 as id", _head(b'"jsonrpc":"2.0","id":9007199254740992,"method":"tools/call"')),
    _refused("another JSON-RPC", _head(b'"jsonrpc":"1.0","id":7,"method":"tools/call"')),
    _refused("no JSON-RPC", _head(b'"id":7,"method":"tools/call"')),
    _refused("a result beside the method", _call(_PARAMS + b',"result":{}')),
)
