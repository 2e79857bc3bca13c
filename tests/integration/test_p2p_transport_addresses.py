"""Where nodes dial and listen: names, addresses, ports, and what is said of those that lead nowhere."""

from __future__ import annotations

import os
import socket

import pytest

from p2p import transport
from p2p.errors import NetworkError
from p2p.transport import LinkDown, LinkUp
from tests.transports import Node, check, in_loop, linked, running

pytestmark = pytest.mark.filterwarnings("error")  # sockets, contexts and tasks that are left behind, too


# Dialling.


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "unreachable"),
        ("[::1]:1", "unreachable"),
        ("no-such-host.invalid:1", "unreachable: "),
        ("nonsense", "unreachable: 'nonsense' is no address"),
        ("ipc:///tmp/x:1", "unreachable: 'ipc:"),
        ("\ud800:1", "unreachable: "),
        ("", "unreachable: "),
    ],
)
@in_loop
async def test_an_address_where_nobody_answers_is_told_as_a_link_that_went_down(address: str, reason: str) -> None:
    node = Node(None)
    async with running(node):
        link = node.transport.dial(address, node.key)
        assert not node.transport.send(link, b"early")
        down = await node.next(LinkDown)
        assert (down.link, down.key) == (link, node.key)
        assert down.reason.startswith(reason)


@in_loop
async def test_names_are_looked_up_and_all_they_stand_for_is_tried() -> None:
    a, b = Node(), Node(None)  # the first thing that localhost stands for is often ::1, where nobody listens
    async with running(a, b):
        link = b.transport.dial(f"localhost:{a.address.rpartition(':')[2]}", a.key)
        assert await b.next(LinkUp) == LinkUp(link, a.key, True)


@in_loop
async def test_ipv6_works_where_the_machine_has_it() -> None:
    a = Node("[::]:0" if socket.has_ipv6 and os.path.exists("/proc/net/if_inet6") else "127.0.0.1:0")
    b = Node(None)
    async with running(a, b):
        port = int(a.address.rpartition(":")[2])
        hosts = ["127.0.0.1", "[::1]"] if a.address.startswith("[") else ["127.0.0.1"]
        for host in hosts:
            link = b.transport.dial(f"{host}:{port}", a.key)
            assert await b.next(LinkUp) == LinkUp(link, a.key, True)


@in_loop
async def test_a_peer_that_says_nothing_at_all_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "DIAL_S", 0.2)
    node = Node(None)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        async with running(node):
            link = node.transport.dial(f"127.0.0.1:{mute.getsockname()[1]}", node.key)
            assert await node.next(LinkDown) == LinkDown(link, node.key, "unreachable: no answer")


@in_loop
async def test_a_node_that_restarts_on_its_port_can_be_dialled_again() -> None:
    a, b = Node(), Node(None)
    async with running(b):
        async with running(a):
            here, _ = await linked(b, a)
            port = a.address
        assert await b.next(LinkDown) == LinkDown(here, a.key, transport.DISCONNECTED)
        gone = b.transport.dial(port, a.key)
        assert await b.next(LinkDown) == LinkDown(gone, a.key, transport.UNREACHABLE)
        again = Node(port, a.secret)
        async with running(again):
            assert again.address == port
            await check(b, (ends := await linked(b, again))[0], again, ends[1])


# Listening.


@pytest.mark.parametrize("listen", ["nonsense", "node.example.org:1", "127.0.0.1:99999", "192.0.2.1:0"])
@in_loop
async def test_nobody_can_listen_at_such_an_address(listen: str) -> None:
    node = Node(listen)
    with pytest.raises(NetworkError) as caught:
        await node.transport.start()
    assert caught.value.hint
    await node.transport.close()


@in_loop
async def test_a_port_that_is_taken_is_refused_with_a_hint() -> None:
    a = Node()
    async with running(a):
        b = Node(a.address)
        with pytest.raises(NetworkError, match=r"cannot listen on .*Address already in use") as caught:
            await b.transport.start()
        assert "another port" in str(caught.value.hint)
