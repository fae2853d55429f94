"""The gateway for tests that run it as a process of its own: patient, and with faults at hand.

``python -m tests.served_gateway DATA_DIR [--head-seconds N] [--clock FILE] [--slow-commits N]``
prints its two addresses as one line of JSON once it answers; settings come from the environment.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

from sqlalchemy import Engine, event

from gateway.app import Ready, serve
from gateway.mcp import upstream
from gateway.policy import engine
from gateway.settings import LOOPBACK_NETWORKS, Settings
from gateway.telemetry import log_to_stderr


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--head-seconds", type=float)
    parser.add_argument("--clock", type=Path)
    parser.add_argument("--slow-commits", type=float)
    given = parser.parse_args()
    if given.head_seconds is not None:
        limits = partial(upstream.Limits, head_seconds=given.head_seconds, idle_seconds=30)
        setattr(upstream, "Limits", limits)  # noqa: B010 - a class is no variable to mypy
    if given.clock is not None:
        _set_clock_by(given.clock)
    if given.slow_commits is not None:
        event.listen(Engine, "commit", lambda _: time.sleep(given.slow_commits))
    # A machine that stands still for a moment must not look like a policy that does not answer.
    engine._DEADLINE = engine._RELOADING_DEADLINE = 20.0
    settings = Settings.read(
        data_dir=given.data_dir, port=0, management_port=0, private_upstreams=LOOPBACK_NETWORKS
    )
    log_to_stderr(settings.log_level)
    serve(settings, ready=_tell)


def _set_clock_by(file: Path) -> None:
    """The file says by how many seconds the system's clock is wrong, and may change."""
    right = time.time

    def wrong() -> float:
        return right() + float(file.read_text())

    time.time = wrong
    from gateway.clock import Clock  # noqa: PLC0415 - its default is the clock to replace

    Clock.__init__.__defaults__ = (wrong,)


def _tell(ready: Ready) -> None:
    print(json.dumps([ready.base_url, ready.management_url]), flush=True)


if __name__ == "__main__":
    main()
