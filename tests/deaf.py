"""Import it, and gateways of this process hear no notification of others that share their database,
as behind a pool of connections that keeps no sessions: they poll.

``python -m tests.deaf serve`` is ``gateway serve`` so.
"""

from gateway.background.following import Following
from gateway.cli import main


async def _hear_nothing(_: Following) -> None:
    return None


setattr(Following, "_listen", _hear_nothing)  # noqa: B010 - a method is no variable to mypy

if __name__ == "__main__":
    main()
