"""What is written down of a call once it is over."""

from typing import Literal

from gateway.frozen import frozen
from gateway.values import Fate


@frozen
class Outcome:
    """What became of a permitted call, for the trace and the budgets."""

    fate: Fate
    status: Literal[
        "ok", "tool_error", "rpc_error", "http_error", "cut", "unknown", "not_sent", "handed_over"
    ]
    result: bytes = b""
    """Raw bytes of the response with the call's id, the first MiB."""
    result_size: int = 0
    result_sha256: str = ""
    """Hex, of all of it, when `result` is not all of it."""
    error_code: str = ""
    duration_us: int = 0
    response_policies: tuple[str, ...] = ()
    """Those that had something to say of the answer."""
    labels: tuple[str, ...] = ()
    redacted: bool = False
    """The caller got less than `result`."""
