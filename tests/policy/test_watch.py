"""Changes in policy folders are noticed, also while the system cannot tell of them."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest
import watchfiles

from gateway.policy import watch
from tests.policy.world import deafen

pytestmark = pytest.mark.anyio


async def test_folders_that_had_to_be_polled_are_watched_once_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    broken = True

    async def awatch(*folders: Path, **options: Any) -> AsyncGenerator[Any]:
        asked.append(options["force_polling"])
        if broken and not asked[-1]:
            raise OSError("too few watches")
        async with aclosing(watchfiles.awatch(*folders, **options)) as found:
            async for changed in found:
                yield changed

    monkeypatch.setattr(watch, "awatch", awatch)
    monkeypatch.setattr(watch, "AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(watch, "_LOOK_MS", 50)
    with anyio.fail_after(60):
        async with aclosing(watch.changes(lambda: [tmp_path])) as changes:
            for _ in range(3):
                await anext(changes)
            assert asked[:4] == [False, True, False, True]
            broken = False
            while asked[-1]:
                await anext(changes)
            (tmp_path / "new.rego").write_text("package new\n")
            await anext(changes)
            assert asked[-1] is False


async def test_a_change_that_nobody_told_of_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deafen(monkeypatch, 0.05)
    with anyio.fail_after(60):
        async with aclosing(watch.changes(lambda: [tmp_path])) as changes:
            assert [await anext(changes) for _ in range(3)] == [True, False, False]
