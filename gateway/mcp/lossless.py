"""JSON that others wrote, read strictly and written again with every number as it was."""

import jiter
import orjson

from gateway.values import Json


class Unreadable(Exception):
    """What was read cannot be understood in one way only; the text says why."""


def read_json(body: bytes) -> Json:
    """Parse what an upstream sent, numbers as they are written. Raises `Unreadable`."""
    try:
        return jiter.from_json(
            body, allow_inf_nan=False, catch_duplicate_keys=True, float_mode="lossless-float"
        )
    except ValueError as fault:
        raise Unreadable(f"the answer is not strict JSON: {fault}") from None


def write_json(value: Json) -> bytes:
    """One line of JSON: what `read_json` or the parser of requests read, changed or not."""
    return orjson.dumps(_writable(value))


def _writable(value: Json) -> Json:
    """Numbers that orjson would change or refuse, as they were written."""
    if isinstance(value, dict):
        return {key: _writable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_writable(item) for item in value]
    if isinstance(value, jiter.LosslessFloat):
        return orjson.Fragment(bytes(value))
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return orjson.Fragment(str(value))
    return value
