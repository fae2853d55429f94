"""The guard of everything that leaves: which URLs, and which addresses behind a name, may be used.

A name is resolved when a connection is made, every address of the answer is judged, and the
connection goes to an address that was judged: a name that points elsewhere a moment later gains
nothing. Proxies named in the environment are never used.
"""

import asyncio
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from ssl import SSLContext
from typing import Literal, cast
from urllib.parse import urlsplit

from gateway.frozen import frozen
from gateway.http1.client import Client, Endpoint, NotSent, TcpAddress

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

SETTING = "GATEWAY_PRIVATE_UPSTREAMS"

_NETLOC = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PRINTABLE = re.compile(r"[\x21-\x7e]+")

# Where clouds hand out credentials: AWS (and most others), ECS, Azure, Alibaba, Oracle, Google.
_METADATA = frozenset(
    ip_address(address)
    for address in (
        "169.254.169.254",
        "169.254.170.2",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
    )
)
_METADATA_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data"}
    | {"instance-data.ec2.internal", "metadata.azure.internal", "metadata.tencentyun.com"}
)
_ZERO = ip_network("0.0.0.0/8")
_NAT64 = IPv6Network("64:ff9b::/96")
_TUNNELS = tuple(
    IPv6Network(network) for network in ("::/96", "2001::/32", "2002::/16", "64:ff9b:1::/48")
)
"""IPv6 that carries an IPv4 address (compatible, Teredo, 6to4, local NAT64): no honest upstream."""


class EgressRefused(NotSent):
    """The guard refuses a URL or an address. `rule` names the rule; the text says what to do."""

    def __init__(self, rule: str, why: str) -> None:
        super().__init__(why)
        self.rule = rule


@frozen
class Origin:
    """A checked URL in its parts. `host` is in lower case, without brackets or trailing dot."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    target: str
    """Path and query, as they go into the request line."""

    @property
    def host_header(self) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return (host if self.port == default else f"{host}:{self.port}").encode("ascii")


@frozen
class EgressPolicy:
    """What one server's connections may reach; by default the public internet and nothing else."""

    allow_private: bool = False
    """The server's own `allow_private_network`; it does nothing without `private_allowed`."""
    private_allowed: tuple[Network, ...] = ()
    """The deployment's `GATEWAY_PRIVATE_UPSTREAMS`."""
    listeners: frozenset[tuple[str, int]] = frozenset()
    """Where this gateway itself listens; `0.0.0.0` and `::` stand for every local address."""
    private_only: bool = False
    """Only addresses that are allowed as private: what plain HTTP is held to."""


def check_url(
    url: str,
    *,
    allow_private: bool,
    private_allowed: tuple[Network, ...],
    listeners: frozenset[tuple[str, int]] = frozenset(),
) -> Origin:
    """Return the parts of an upstream's URL, or raise `EgressRefused`.

    Plain HTTP is taken only for a server that may be on a private network, because its addresses
    are then held to the allowed ones. A name is not looked up here: `resolve` judges what it
    points to whenever a connection is made.
    """
    if not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise EgressRefused("url", "the URL holds spaces, control or non-ASCII characters")
    if "#" in url:
        raise EgressRefused("url", "the URL has a fragment; remove it")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise EgressRefused("scheme", "the URL must begin with https:// (or http://)")
    if "@" in parts.netloc:
        raise EgressRefused("userinfo", "the URL holds a user name; give credentials as `auth`")
    match = _NETLOC.fullmatch(parts.netloc)
    if match is None:
        raise EgressRefused("host", "the URL's host is missing or is no valid name or address")
    scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
    port = int(match[2] or (443 if scheme == "https" else 80))
    if not 1 <= port <= 65535:
        raise EgressRefused("port", "the URL's port must lie within 1 to 65535")
    host = _host(match[1])
    policy = EgressPolicy(allow_private, private_allowed, listeners, scheme == "http")
    if policy.private_only and not (allow_private and private_allowed):
        raise EgressRefused(
            "plain_http",
            "plain http is only for private networks: use https, or set allow_private_network and"
            f" name the network in {SETTING}",
        )
    literal = _literal(host)
    if literal is not None:
        judge(literal, port, policy)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Origin(scheme, host, port, target)


def client_for(
    origin: Origin,
    policy: EgressPolicy,
    *,
    ssl: SSLContext | None = None,
    max_connections: int = 64,
    idle_seconds: float = 3.0,
    connect_seconds: float = 5.0,
) -> Client:
    """Return a client whose every connection goes through the guard.

    ``ssl`` verifies the server and must be given for https; it is ignored for http.
    """
    if origin.scheme == "https" and ssl is None:
        raise ValueError("an https origin needs an SSLContext")
    held = replace(policy, private_only=origin.scheme == "http")

    async def guarded(host: str, port: int) -> list[Endpoint]:
        return await resolve(host, port, held)

    return Client(
        TcpAddress(origin.host, origin.port, None, ssl if origin.scheme == "https" else None),
        resolve=guarded,
        max_connections=max_connections,
        idle_seconds=idle_seconds,
        connect_seconds=connect_seconds,
    )


async def resolve(host: str, port: int, policy: EgressPolicy) -> list[Endpoint]:
    """Return the endpoints behind ``host``, each of them allowed.

    One address that is not allowed refuses them all: an answer that mixes public and internal
    addresses is what a rebinding attack looks like. Raises `EgressRefused`, or `NotSent` when
    the name has no address.
    """
    name = _host(host)
    literal = _literal(name)
    if literal is not None:
        judge(literal, port, policy)
        family: int = socket.AF_INET if literal.version == 4 else socket.AF_INET6
        return [(family, str(literal), port)]
    loop = asyncio.get_running_loop()
    try:
        # In the loop's executor; glibc's resolver has its own time-outs, and the caller a deadline.
        found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NotSent(f"cannot resolve {name}: {error}") from error
    endpoints: list[Endpoint] = []
    for at, _, _, _, sockaddr in found:
        text = cast(str, sockaddr[0])
        judge(_parse(text), port, policy)
        endpoints.append((at, text, port))
    if not endpoints:
        raise NotSent(f"cannot resolve {name}: no address")
    return endpoints


def judge(address: Address, port: int, policy: EgressPolicy) -> None:
    """Raise `EgressRefused` unless ``policy`` lets a connection go to this address and port."""
    inner = _unwrap(address)
    _refuse_forever(inner, address)
    if _is_listener(inner, port, policy.listeners):
        raise EgressRefused("own_listener", f"{address}:{port} is this gateway itself")
    if inner.is_global:
        if policy.private_only:
            raise EgressRefused(
                "plain_http", f"plain http must not leave for the public {address}: use https"
            )
        return
    if not policy.allow_private:
        raise EgressRefused(
            "private", f"{address} is on a private network: set the server's allow_private_network"
        )
    if not any(inner in network for network in policy.private_allowed):
        raise EgressRefused(
            "private", f"{address} is on a private network that {SETTING} does not name: add it"
        )


_NEVER: tuple[tuple[str, str, Callable[[Address], bool]], ...] = (
    ("metadata", "a cloud's metadata service", lambda a: a in _METADATA),
    ("unspecified", "not a destination", lambda a: a.is_unspecified or a in _ZERO),
    ("multicast", "a multicast address", lambda a: a.is_multicast),
    ("link_local", "a link-local address", lambda a: a.is_link_local),
    ("reserved", "a reserved address", lambda a: _is_reserved(a)),
)


def _refuse_forever(inner: Address, shown: Address) -> None:
    for rule, what, matches in _NEVER:
        if matches(inner):
            raise EgressRefused(rule, f"{shown} is {what}; no setting allows it")


def _is_reserved(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return address.is_reserved
    if any(address in tunnel for tunnel in _TUNNELS) and not address.is_loopback:
        return True
    # Of IPv6 only the global, unique-local and loopback ranges are in use.
    return address.is_site_local or (address.is_reserved and not address.is_loopback)


def _unwrap(address: Address) -> Address:
    """Return the IPv4 address that a mapped (``::ffff:…``) or NAT64 address stands for."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise EgressRefused("zone", f"{address} names a network interface; remove the zone")
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_listener(address: Address, port: int, listeners: frozenset[tuple[str, int]]) -> bool:
    for host, at in listeners:
        if at != port:
            continue
        listening = _unwrap(ip_address(host))
        if listening == address or (listening.is_unspecified and _is_local(address)):
            return True
    return False


def _is_local(address: Address) -> bool:
    """Return whether this machine has the address: then, and only then, it can be bound."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _host(text: str) -> str:
    """Return the host in one spelling. Raises `EgressRefused` for names of metadata services."""
    host = text.removeprefix("[").removesuffix("]").lower()
    if ":" in host:
        return str(_parse(host))
    host = host.removesuffix(".")
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise EgressRefused("host", "the host is neither a valid name nor an IP address")
    if host in _METADATA_NAMES:
        raise EgressRefused("metadata", f"{host} is a cloud's metadata service")
    if _NUMBER.fullmatch(labels[-1]) and _literal(host) is None:
        # 2130706433, 0x7f.1 and 0177.0.0.1 are 127.0.0.1 to some resolvers.
        raise EgressRefused("host", f"{host} looks like an address; write it as four decimals")
    return host


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _parse(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise EgressRefused("host", f"{text} is not an IP address") from None
