"""Which URLs and addresses may be used, judged and connected to on real sockets."""

import asyncio
import socket
from ipaddress import ip_address, ip_network
from ssl import create_default_context
from time import monotonic

import pytest

from gateway.egress.guard import (
    EgressPolicy,
    EgressRefused,
    Network,
    check_url,
    client_for,
    judge,
    resolve,
)
from gateway.http1.client import NotSent, build_head
from tests.raw_server import Peer, raw_server

pytestmark = pytest.mark.anyio

EVERYWHERE: tuple[Network, ...] = (ip_network("0.0.0.0/0"), ip_network("::/0"))
LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
WIDEST = EgressPolicy(allow_private=True, private_allowed=EVERYWHERE)


def refusal(address: str, policy: EgressPolicy, port: int = 443) -> str:
    """Return the rule that refuses the address, or nothing."""
    try:
        judge(ip_address(address), port, policy)
    except EgressRefused as refused:
        return refused.rule
    return ""


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("169.254.169.254", "metadata"),
        ("169.254.170.2", "metadata"),
        ("168.63.129.16", "metadata"),
        ("100.100.100.200", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("::ffff:169.254.169.254", "metadata"),
        ("64:ff9b::a9fe:a9fe", "metadata"),
        ("169.254.1.1", "link_local"),
        ("fe80::1", "link_local"),
        ("fe80::1%eth0", "zone"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("::ffff:0.0.0.0", "unspecified"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("240.0.0.1", "reserved"),
        ("::127.0.0.1", "reserved"),
        ("2002:7f00:1::", "reserved"),
        ("2001:0:7f00:1::", "reserved"),
        ("fec0::1", "reserved"),
    ],
)
def test_some_addresses_are_refused_whatever_is_set(address: str, rule: str) -> None:
    assert refusal(address, WIDEST) == rule


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.1.2.3",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "::1",
        "fd12::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
    ],
)
def test_private_addresses_need_both_the_server_and_the_deployment(address: str) -> None:
    assert refusal(address, EgressPolicy()) == "private"
    assert refusal(address, EgressPolicy(allow_private=True)) == "private"
    assert refusal(address, EgressPolicy(private_allowed=EVERYWHERE)) == "private"
    narrow = EgressPolicy(allow_private=True, private_allowed=(ip_network("10.9.0.0/16"),))
    assert refusal(address, narrow) == "private"
    assert refusal(address, WIDEST) == ""


def test_a_mapped_private_address_is_held_to_the_ipv4_network() -> None:
    policy = EgressPolicy(allow_private=True, private_allowed=(ip_network("10.0.0.0/8"),))
    assert refusal("::ffff:10.0.0.1", policy) == ""
    assert refusal("::ffff:192.168.0.1", policy) == "private"


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_allowed_but_not_for_plain_http(address: str) -> None:
    assert refusal(address, EgressPolicy()) == ""
    plain = EgressPolicy(allow_private=True, private_allowed=EVERYWHERE, private_only=True)
    assert refusal(address, plain) == "plain_http"


def test_our_own_listeners_are_refused_under_every_local_address() -> None:
    exact = EgressPolicy(True, EVERYWHERE, frozenset({("127.0.0.1", 8080)}))
    assert refusal("127.0.0.1", exact, 8080) == "own_listener"
    assert refusal("::ffff:127.0.0.1", exact, 8080) == "own_listener"
    assert refusal("127.0.0.1", exact, 8081) == ""
    wildcard = EgressPolicy(True, EVERYWHERE, frozenset({("0.0.0.0", 8080)}))
    assert refusal("127.9.9.9", wildcard, 8080) == "own_listener"
    assert refusal("203.0.113.7", wildcard, 8080) == ""


def rule_of(url: str, *, allow_private: bool = False, networks: tuple[Network, ...] = ()) -> str:
    try:
        check_url(url, allow_private=allow_private, private_allowed=networks)
    except EgressRefused as refused:
        return refused.rule
    return ""


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("ftp://a.example/", "scheme"),
        ("//a.example/", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("https://", "host"),
        ("https:///x", "host"),
        ("https://u:p@a.example/", "userinfo"),
        ("https://a.example@127.0.0.1/", "userinfo"),
        ("https://a.example/#x", "url"),
        ("https://a.example\\@b.example/", "url"),
        ("https://a.exa\tmple/", "url"),
        ("https://a.example/\n", "url"),
        ("https://ä.example/", "url"),
        ("https://a.example:0/", "port"),
        ("https://a.example:65536/", "port"),
        ("https://a.example:x/", "host"),
        ("https://a..example/", "host"),
        ("https://-a.example/", "host"),
        ("https://a.example../", "host"),
        ("https://%6d.example/", "host"),
        ("https://[fe80::1%25eth0]/", "host"),
        ("https://2130706433/", "host"),
        ("https://0x7f000001/", "host"),
        ("https://0x7f.1/", "host"),
        ("https://0177.0.0.1/", "host"),
        ("https://127.1/", "host"),
        ("https://127.0.0.1./", "private"),
        ("https://[::ffff:127.0.0.1]/", "private"),
        ("https://169.254.169.254/latest/meta-data/", "metadata"),
        ("https://METADATA.google.internal./", "metadata"),
        ("https://10.0.0.1/", "private"),
        ("http://a.example/", "plain_http"),
        ("http://8.8.8.8/", "plain_http"),
    ],
)
def test_a_bad_url_is_refused_by_its_rule(url: str, rule: str) -> None:
    assert rule_of(url) == rule


def test_plain_http_is_taken_for_private_servers_only() -> None:
    assert rule_of("http://mcp.internal/", allow_private=True) == "plain_http"
    assert rule_of("http://mcp.internal/", networks=LOOPBACK) == "plain_http"
    assert rule_of("http://mcp.internal/", allow_private=True, networks=LOOPBACK) == ""
    assert rule_of("http://8.8.8.8/", allow_private=True, networks=LOOPBACK) == "plain_http"


def test_a_good_url_comes_apart_in_one_spelling() -> None:
    origin = check_url("https://MCP.Example.:8443/a?b=c", allow_private=False, private_allowed=())
    assert (origin.scheme, origin.host, origin.port) == ("https", "mcp.example", 8443)
    assert (origin.target, origin.host_header) == ("/a?b=c", b"mcp.example:8443")
    bare = check_url("https://mcp.example", allow_private=False, private_allowed=())
    assert (bare.port, bare.target, bare.host_header) == (443, "/", b"mcp.example")
    six = check_url("https://[2606:4700::1111]/", allow_private=False, private_allowed=())
    assert (six.host, six.host_header) == ("2606:4700::1111", b"[2606:4700::1111]")


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f.1", "127.1", "metadata.google.internal", "a b", "", "::1%lo"]
)
async def test_a_host_is_checked_again_when_it_is_resolved(host: str) -> None:
    with pytest.raises(EgressRefused):
        await resolve(host, 443, WIDEST)


async def test_a_name_that_points_inside_is_refused() -> None:
    with pytest.raises(EgressRefused, match="allow_private_network"):
        await resolve("localhost", 443, EgressPolicy())
    endpoints = await resolve("localhost", 443, EgressPolicy(True, LOOPBACK))
    assert {ip_address(ip).is_loopback for _, ip, _ in endpoints} == {True}


async def test_one_refused_address_refuses_the_whole_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def mixed(*_: object, **__: object) -> list[object]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 443)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 443)),
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", mixed)
    with pytest.raises(EgressRefused) as refused:
        await resolve("rebinding.example", 443, WIDEST)
    assert refused.value.rule == "metadata"


async def test_a_name_without_address_is_not_sent() -> None:
    with pytest.raises(NotSent, match="cannot resolve") as fault:
        await resolve("nothing.invalid", 443, WIDEST)
    assert not isinstance(fault.value, EgressRefused)


async def test_the_client_connects_through_the_guard_and_sends_nothing_when_refused() -> None:
    async def answer(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await peer.gone()

    async with raw_server(answer) as server:
        port = server.port
        origin = check_url(
            f"http://127.0.0.1:{port}/", allow_private=True, private_allowed=LOOPBACK
        )
        head = build_head("GET", origin.target, [(b"host", origin.host_header)], None)
        for policy in (EgressPolicy(), EgressPolicy(True, EVERYWHERE, frozenset({("::", port)}))):
            refusing = client_for(origin, policy)
            with pytest.raises(EgressRefused):
                await refusing.request(head, deadline=monotonic() + 5, max_body=9)
            refusing.close()
        assert server.connections == 0
        client = client_for(origin, EgressPolicy(True, LOOPBACK))
        response = await client.request(head, deadline=monotonic() + 5, max_body=9)
        assert (response.status, response.body, server.connections) == (200, b"ok", 1)
        client.close()


async def test_https_is_never_spoken_in_clear() -> None:
    origin = check_url("https://mcp.example/", allow_private=False, private_allowed=())
    with pytest.raises(ValueError, match="SSLContext"):
        client_for(origin, EgressPolicy())
    client_for(origin, EgressPolicy(), ssl=create_default_context()).close()
