"""A real nginx with deploy/nginx.conf, but for its ports, names and folders."""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.certificates import a_certificate
from tests.conftest import needs

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "nginx.conf"
GET_NGINX = "on Debian: apt-get install nginx"
SECONDS = 120


@dataclass(frozen=True)
class Nginx:
    url: str
    folder: Path
    context: ssl.SSLContext = field(repr=False)
    """That trusts its certificate."""

    def log(self) -> list[str]:
        """A line for each request that has ended."""
        return (self.folder / "access.log").read_text().splitlines()


def settings_behind(port: int) -> dict[str, str]:
    """Of a gateway that an nginx on this port stands before."""
    return {
        "GATEWAY_PUBLIC_URL": f"https://127.0.0.1:{port}",
        "GATEWAY_TRUSTED_PROXIES": "127.0.0.1/32",
    }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


def configured(folder: Path, gateways: Sequence[int], port: int, *changes: tuple[str, str]) -> Path:
    """The configuration in a new folder; each port of ``gateways`` takes the next one's place.

    Those beyond stand beside the last, as whoever adds a gateway would write them.
    """
    folder.mkdir()
    a_certificate(folder / "tls.pem")
    text = CONFIGURATION.read_text()
    servers = list(dict.fromkeys(re.findall(r"^ *server (\S+:8080) ", text, re.M)))
    assert len(servers) >= 2
    for old, new in (
        *(
            (f"server {name} ", f"server 127.0.0.1:{at} ")
            for name, at in zip(servers, gateways, strict=False)
        ),
        ("listen 8443", f"listen 127.0.0.1:{port}"),
        ("/etc/nginx/tls/tls.crt", f"{folder}/tls.pem"),
        ("/etc/nginx/tls/tls.key", f"{folder}/tls.pem"),
        ("/tmp/nginx", f"{folder}/nginx"),
        ("worker_processes auto", "worker_processes 2"),
        ("worker_rlimit_nofile 65536;", ""),
        ("worker_connections 16384", "worker_connections 512"),
        ("/dev/stdout", f"{folder}/access.log"),
        *changes,
    ):
        assert old in text, old
        text = text.replace(old, new)
    for at in gateways[len(servers) :]:
        last = rf"^( *server 127\.0\.0\.1:){gateways[len(servers) - 1]}( .*\n)"
        text = re.sub(last, rf"\g<0>\g<1>{at}\g<2>", text, flags=re.M)
    for name in servers[len(gateways) :]:
        text = re.sub(rf"^ *server {name} .*\n", "", text, flags=re.M)
    path = folder / "nginx.conf"
    path.write_text(text)
    return path


@asynccontextmanager
async def nginx_before(
    folder: Path, gateways: Sequence[int], port: int, *changes: tuple[str, str]
) -> AsyncIterator[Nginx]:
    """Before what listens on these ports; ``changes`` are of its text, old and new."""
    nginx = needs("nginx", GET_NGINX)
    path = configured(folder, gateways, port, *changes)
    process = await asyncio.create_subprocess_exec(nginx, "-c", path, "-g", "daemon off;")
    context = ssl.create_default_context(cafile=str(folder / "tls.pem"))
    try:
        async with asyncio.timeout(SECONDS):
            while not await listens(port):
                assert process.returncode is None
                await asyncio.sleep(0.05)
        yield Nginx(f"https://127.0.0.1:{port}", folder, context)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
