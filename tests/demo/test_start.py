"""How the demonstration starts quickly: its sample server first, the gateway's imports after."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("slow", ["sqlalchemy", "pydantic", "httpx", "aiohttp", "mcp", "starlette"])
def test_nothing_slow_is_imported_before_the_sample_server_starts(slow: str) -> None:
    program = (
        "import sys\n"
        "from gateway import cli\n"
        "cli.command_line('demo')\n"
        f"sys.exit({slow!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
