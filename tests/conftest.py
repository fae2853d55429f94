"""Fixtures that every test may use."""

import os
import shutil
from typing import NoReturn

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def needs(program: str, how_to_get_it: str) -> str:
    """Return the program's path; without it skip, saying how to get it, or fail when CI is set."""
    found = shutil.which(program)
    if found is not None:
        return found
    missing(f"{program} is missing: {how_to_get_it}")


def missing(message: str) -> NoReturn:
    """Skip for want of a program, or fail when CI is set."""
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
