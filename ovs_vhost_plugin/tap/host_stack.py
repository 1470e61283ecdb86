# SPDX-License-Identifier: Apache-2.0
"""Keeps this host's own network stack from hearing and answering a guest, port by port.

A userspace bridge reads a tap with a packet socket, which only copies frames: every frame goes on
to the host's ARP, IPv4 and the rest, as if the guest were a neighbour on one of its networks. A
chain of nftables at the tap's ingress drops the frames there, after the packet sockets had their
copy (__netif_receive_skb_core in net/core/dev.c). Not tc: a switch that polices removes the ingress
qdisc of others. The kernel's bridges take their frames after this hook, so their ports have no
chain.

Each tap has a table of its own, so that several daemons do not meet. Tables have no owner (Linux
5.12, `flags owner`): until Linux 6.9 such a table would go with the daemon, while workers live on.
So anybody who flushes the rules removes ours too; the kernel reports it, and we put them back.
Meanwhile the settings of the tap keep IPv4 almost silent.
Source: nft(8), linux/netfilter/nf_tables.h, Documentation/networking/ip-sysctl.rst.
"""

import contextlib
import errno
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PREFIX = "ovs-vhost-"
_CHAIN = "ingress"
_NFPROTO_NETDEV = 5
_NF_NETDEV_INGRESS = 0
_FIRST = -500  # before the chains of others, most of which are at 0 (filter)
_NF_DROP = 0

_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 7
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_WATCH_BUFFER = 4 << 20  # bytes; memory is used only while they wait
_DELETIONS = (0x0A02, 0x0A05)  # NFNL_SUBSYS_NFTABLES with NFT_MSG_DELTABLE, NFT_MSG_DELCHAIN
_NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_TABLE_OF = re.compile(rb"ovs-vhost-([!-~]{1,15})\0")

# Settings that do part of the chain's work for the moments in which the chain is missing.
_SETTINGS = {
    "accept_local": "0",
    "arp_accept": "0",
    "arp_ignore": "8",  # answers for no address
    "forwarding": "0",
    "route_localnet": "0",
    "rp_filter": "1",
}


class HostStackError(Exception):
    """The host's stack cannot be kept away; the text says why."""


class HostStack:
    """The chains of this network namespace.

    State is this object's own actions; `hear` reports chains that others removed.
    """

    def __init__(self) -> None:
        self._shut: dict[str, int] = {}
        self._lost: set[str] = set()
        self._found: set[str] | None = None  # of an earlier daemon, and not removed since
        self._nft: Any = None
        self._watch: socket.socket | None = None

    def shut(self, name: str, index: int) -> None:
        """Keep the host's stack away from the tap `name`; idempotent.

        HostStackError when the kernel cannot add the chain; the settings are made in any case.
        """
        _set(name, _SETTINGS)
        self._shut.pop(name, None)
        with _named_errors():
            self._listen()
            if self._found is None:
                self._found = self._present()
            if name not in self._found:
                self._put(name)
            self._found.discard(name)
        self._shut[name] = index

    def open(self, name: str) -> None:
        """Give the tap the kernel's defaults back, whether or not it differs from them."""
        self._shut.pop(name, None)
        _set(name, dict.fromkeys(_SETTINGS))
        self.forget(name)

    def forget(self, name: str) -> None:
        """Remove the table of a tap that has gone."""
        self._shut.pop(name, None)
        # A kernel without nftables has nothing to remove.
        with contextlib.suppress(HostStackError), _named_errors():
            self._remove(name)

    def let_go(self) -> None:
        """Leave all chains to another daemon."""
        self._shut.clear()
        self._found = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    # -- what others do --------------------------------------------------------------------------

    def hear(self) -> list[str]:
        """Taps whose chains somebody else has removed since the last call; no longer shut."""
        deleted = self._lost | self._deleted()
        lost = sorted(deleted & self._shut.keys())
        self._lost.clear()
        if self._found is not None:
            self._found -= deleted
        for name in lost:
            del self._shut[name]
        return lost

    def fileno(self) -> int | None:
        """The fd that is readable when `hear` has news; None while no chain is ours."""
        return None if self._watch is None else self._watch.fileno()

    def _listen(self) -> None:
        if self._watch is not None:
            return
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        watch = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
        try:
            # As ports are added in hundreds, each makes some notifications.
            with contextlib.suppress(PermissionError):
                watch.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _WATCH_BUFFER)
            watch.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))
        except OSError:
            watch.close()
            raise
        self._watch = watch

    def _deleted(self) -> set[str]:
        """Names of the taps of which anybody, this object too, has deleted a table or chain."""
        names: set[str] = set()
        while self._watch is not None:
            try:
                names |= deletions(self._watch.recv(1 << 16))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # Notifications were lost. Chains that are there are not put again: that makes more
                # notifications, and of many taps some would be lost each time.
                names |= self._shut.keys() - self._present()
        return names

    def _present(self) -> set[str]:
        """Names of the taps whose chain is there, as `_add_chain` makes it.

        Either the kernel removes it with its tap, or (Linux 6.16) it is for each tap of that name.
        """
        found = set()
        for chain in self._tables.get_chains():
            name = str(chain.get_attr("NFTA_CHAIN_TABLE")).removeprefix(_PREFIX)
            hook = chain.get_attr("NFTA_CHAIN_HOOK")
            if hook is None or chain.get_attr("NFTA_CHAIN_NAME") != _CHAIN:
                continue
            wanted = [*_hook(name), ("NFTA_CHAIN_POLICY", _NF_DROP)]
            if all(value in (hook.get_attr(key), chain.get_attr(key)) for key, value in wanted):
                found.add(name)
        return found

    # -- the chains ------------------------------------------------------------------------------

    @property
    def _tables(self) -> Any:
        if self._nft is None:
            # Imported late: fork server and workers do not need it.
            from pyroute2.nftables.main import NFTables

            self._nft = NFTables(nfgen_family=_NFPROTO_NETDEV)
        return self._nft

    def _put(self, name: str) -> None:
        from pyroute2 import NetlinkError

        self._tables.table("add", name=_PREFIX + name)
        try:
            self._add_chain(name)
        except NetlinkError:
            # Somebody else's chain of this name may be there, which cannot be changed into ours.
            self._remove(name)
            self._tables.table("add", name=_PREFIX + name)
            self._add_chain(name)

    def _add_chain(self, name: str) -> None:
        # `kwarg` passes attributes unchanged: the library has no words of its own for ingress yet.
        attributes = {
            "table": _PREFIX + name,
            "name": _CHAIN,
            "hook": {"attrs": _hook(name)},
            "policy": _NF_DROP,
            "type": "filter",
        }
        self._tables.chain("add", kwarg=attributes)

    def _remove(self, name: str) -> None:
        from pyroute2 import NetlinkError

        try:
            self._tables.table("del", name=_PREFIX + name)
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise
        self._lost |= self._deleted()
        self._lost.discard(name)  # removed here, not by others


def _hook(name: str) -> list[tuple[str, str | int]]:
    """The place of a tap's chain, in the library's words."""
    return [
        ("NFTA_HOOK_HOOKNUM", _NF_NETDEV_INGRESS),
        ("NFTA_HOOK_PRIORITY", _FIRST),
        ("NFTA_HOOK_DEV", name),
    ]


def deletions(messages: bytes) -> set[str]:
    """Names of the taps whose table or chain was deleted, from nftables' notifications."""
    names: set[str] = set()
    while len(messages) >= _NLMSGHDR.size:
        length, kind, *_ = _NLMSGHDR.unpack_from(messages)
        if kind in _DELETIONS:
            names.update(name.decode() for name in _TABLE_OF.findall(messages[:length]))
        messages = messages[max(length + 3 & ~3, _NLMSGHDR.size) :]
    return names


def _set(name: str, settings: dict[str, str] | dict[str, None]) -> None:
    """Write the tap's IPv4 settings; None stands for the value of new interfaces."""
    top = Path("/proc/sys/net/ipv4/conf")
    for setting, value in settings.items():
        with contextlib.suppress(OSError):  # it has gone, or the kernel lacks it
            wanted = (top / "default" / setting).read_text() if value is None else value
            (top / name / setting).write_text(wanted)


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    from pyroute2 import NetlinkError

    try:
        yield
    except NetlinkError as error:
        raise HostStackError(f"nftables: {error.args[-1]}") from error
    except OSError as error:
        raise HostStackError(f"nftables: {error.strerror}") from error
