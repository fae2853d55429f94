"""TLS: certificates are verified, names too, and a cut connection is not a clean end."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway.http1.client import Client, Endpoint, Interrupted, NotSent, TcpAddress
from tests.raw_server import OK, STREAM, Peer, RawServer, always_ok, ask, head, raw_server, saying

pytestmark = pytest.mark.anyio

NAME = "upstream.example"


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with a key and a certificate for `NAME` that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + signed.public_bytes(Encoding.PEM)
    )
    return path


@pytest.fixture
def serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def to(server: RawServer, trusted: ssl.SSLContext, name: str = NAME) -> Client:
    async def resolve(host: str, port: int) -> list[Endpoint]:
        return [(2, "127.0.0.1", server.port)]

    return Client(TcpAddress(name, 443, ssl=trusted), resolve=resolve, max_connections=1)


async def test_a_server_with_a_trusted_certificate_is_used_and_kept(
    certificate: Path, serving: ssl.SSLContext
) -> None:
    trusted = ssl.create_default_context(cafile=certificate)
    async with raw_server(always_ok, ssl=serving) as server:
        client = to(server, trusted)
        for body in (b"x", b"x" * 1_000_000, b"x"):
            assert (await ask(client, body)).body == b"ok"
        assert server.connections == 1
        client.close()


async def test_an_untrusted_or_misnamed_certificate_gets_no_byte(
    certificate: Path, serving: ssl.SSLContext
) -> None:
    trusted = ssl.create_default_context(cafile=certificate)
    async with raw_server(always_ok, ssl=serving) as server:
        for client in (
            to(server, ssl.create_default_context()),
            to(server, trusted, "other.example"),
        ):
            for _ in range(2):
                with pytest.raises(NotSent, match="certificate verify failed"):
                    await ask(client)
            client.close()
        assert server.requests == []


async def test_a_server_that_never_shakes_hands_is_not_sent(certificate: Path) -> None:
    async def silent(peer: Peer) -> None:
        await peer.gone()

    async with raw_server(silent) as server:
        client = to(server, ssl.create_default_context(cafile=certificate))
        for _ in range(2):
            with pytest.raises(NotSent, match="too long"):
                await ask(client, seconds=0.1)
        client.close()


async def test_a_cancelled_handshake_leaves_the_place_free(
    certificate: Path, serving: ssl.SSLContext
) -> None:
    async with raw_server(always_ok, ssl=serving) as server:
        client = to(server, ssl.create_default_context(cafile=certificate))
        for seconds in (0.0, 0.001, 0.002, 0.004, 0.008):
            task = asyncio.ensure_future(ask(client))
            await asyncio.wait([task], timeout=seconds)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert (await ask(client)).body == b"ok"
        client.close()


@pytest.mark.parametrize("answer", [OK[:-1], STREAM + b"2\r\nok\r\n", b""])
async def test_a_cut_answer_is_interrupted(
    certificate: Path, serving: ssl.SSLContext, answer: bytes
) -> None:
    async with raw_server(saying(answer), ssl=serving) as server:
        client = to(server, ssl.create_default_context(cafile=certificate))
        with pytest.raises(Interrupted):
            await ask(client)
        assert len(server.requests) == 1
        client.close()


@pytest.mark.parametrize("how", ["close_notify", "fin"])
async def test_a_body_that_ends_with_the_connection_needs_a_close_notify(
    certificate: Path, serving: ssl.SSLContext, how: str
) -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nok")
        if how == "fin":
            peer.at_once(lambda sock: sock.shutdown(1))
            await peer.gone()

    async with raw_server(handle, ssl=serving) as server:
        client = to(server, ssl.create_default_context(cafile=certificate))
        exchange = await client.open(head(), b"x", deadline=monotonic() + 5)
        if how == "fin":
            with pytest.raises(Interrupted):
                await exchange.read(9)
        else:
            assert await exchange.read(9) == b"ok"
        client.close()
