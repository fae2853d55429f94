"""FastMCP's proxy, as its documentation has it; runs in FastMCP's own virtual environment.

python fastmcp_proxy.py URL PORT
"""

import sys

from fastmcp.server import create_proxy  # type: ignore[import-not-found]

if __name__ == "__main__":
    url, port = sys.argv[1:]
    create_proxy(url, name="bench").run(
        transport="http",
        host="127.0.0.1",
        port=int(port),
        stateless_http=True,
        json_response=True,
        show_banner=False,
        log_level="ERROR",
    )
