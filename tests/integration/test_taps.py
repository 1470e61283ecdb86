# SPDX-License-Identifier: Apache-2.0
"""Taps and the host's stack on the real kernel, in a namespace without a switch."""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.tap import (
    HostStack,
    HostStackError,
    TapError,
    TapErrorName,
    Taps,
    device,
)

pytestmark = pytest.mark.integration

NOBODY = 65534


@pytest.fixture
def namespace(require) -> Iterator[Namespace]:
    lacking = packages.missing((packages.SWITCH[0], packages.NFT))
    require(lacking is None, lacking or "")
    with Namespace("taps") as made, made.entered():
        yield made


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateDir:
    monkeypatch.chdir(tmp_path)  # a short path, as of a socket
    return StateDir.create(Path())


@pytest.fixture
def taps(namespace: Namespace, state: StateDir) -> Taps:
    return Taps(state)


@pytest.fixture
def stack(namespace: Namespace) -> HostStack:
    return HostStack()


def rules(namespace: Namespace) -> str:
    return namespace.run("nft", "list", "ruleset").strip()


def killed_in(deed: Callable[[], object]) -> None:
    """Run it in a process that kills itself on the way."""
    pid = os.fork()
    if pid == 0:
        try:
            deed()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def kill_myself(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_tap_is_all_it_shall_be_in_the_moment_its_name_is_there(
    taps: Taps, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    make_persistent = device.make_persistent

    def look(queue: int) -> None:
        seen.append(namespace.run("ip", "-d", "link", "show", "vhu0"))
        seen.append(namespace.run("ethtool", "-k", "vhu0"))
        make_persistent(queue)

    # The first step after the move.
    monkeypatch.setattr(device, "make_persistent", look)
    taps.create("vhu0")
    assert " user root " in seen[0] and "NO-CARRIER" not in seen[0] and ",UP" not in seen[0]
    for feature in ("tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-tcp6-segmentation"):
        assert f"{feature}: on" in seen[1]


def test_a_foreign_interface_is_named_however_late_it_comes(
    taps: Taps, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_to_root = device.give_to_root

    def late(queue: int) -> None:
        namespace.tap("vhu0")
        give_to_root(queue)

    with monkeypatch.context() as patch, pytest.raises(TapError) as caught:
        patch.setattr(device, "give_to_root", late)
        taps.create("vhu0")
    assert caught.value.name is TapErrorName.FOREIGN
    namespace.run("ip", "link", "del", "vhu0")
    taps.create("vhu0")  # nothing of the other attempt is in the way


@pytest.mark.parametrize("step", ["give_to_root", "offer_offloads", "make_persistent"])
def test_a_daemon_killed_on_the_way_leaves_nothing(
    taps: Taps, namespace: Namespace, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(device, step, kill_myself)
        killed_in(lambda: taps.create("vhu0"))
    assert taps.owned("vhu0") is None
    assert not namespace.run("ip", "link", "show", "vhu0", check=False)
    assert taps.owned("vhu0") is None and taps.create("vhu0")


def test_who_has_queues_open_is_counted_and_does_not_keep_a_tap(
    taps: Taps, namespace: Namespace
) -> None:
    taps.create("vhu0")
    assert taps.queues("vhu0") == 0
    queues = [taps.open_first("vhu0"), taps.open_further("vhu0")]
    try:
        assert taps.queues("vhu0") == 2
        taps.delete("vhu0")
        assert not namespace.run("ip", "link", "show", "vhu0", check=False)
        # And another comes by its name while the old queues are still open.
        taps.create("vhu0")
        assert taps.queues("vhu0") == 0
        with pytest.raises(OSError) as caught:
            os.write(queues[0], bytes(74))
        assert caught.value.errno == errno.EBADFD
    finally:
        for queue in queues:
            os.close(queue)


def test_a_tap_of_others_is_not_removed(taps: Taps, namespace: Namespace) -> None:
    namespace.tap("vhu0")
    taps.delete("vhu0")
    assert namespace.run("ip", "link", "show", "vhu0")
    assert not taps.claim("vhu0") and taps.queues("vhu0") == 0


@pytest.mark.parametrize("refused", [True, False])
def test_a_tap_that_does_not_go_is_down_and_still_ours(
    taps: Taps, namespace: Namespace, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    index = taps.create("vhu0")

    def delete(index: int) -> None:
        if refused:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with monkeypatch.context() as patch:
        patch.setattr(taps._links, "delete", delete)
        with pytest.raises(TapError) as caught:
            taps.delete("vhu0")
    assert caught.value.name is TapErrorName.HELD
    assert ",UP" not in namespace.run("ip", "link", "show", "vhu0")
    assert taps.owned("vhu0") == index
    taps.delete("vhu0")
    assert taps.owned("vhu0") is None


@pytest.mark.parametrize("carrier", [True, False])
def test_claiming_a_tap_changes_nothing_else(
    taps: Taps, namespace: Namespace, carrier: bool
) -> None:
    taps.create("vhu0")
    queue = taps.open_first("vhu0")
    try:
        if carrier:
            namespace.run("ip", "link", "set", "dev", "vhu0", "carrier", "on")
        assert not taps.claim("vhu0")
        give_to(NOBODY, queue)
        assert taps.claim("vhu0")
        assert not taps.claim("vhu0")
        assert taps.queues("vhu0") == 1
        shown = namespace.run("cat", "/sys/class/net/vhu0/carrier").strip()
        assert shown == str(int(carrier))
    finally:
        os.close(queue)


def give_to(uid: int, queue: int) -> None:
    import fcntl

    fcntl.ioctl(queue, device._TUNSETOWNER, uid)


# -- the host's stack ----------------------------------------------------------------------------


def test_a_chain_drops_what_comes_from_the_tap_and_goes_without_a_trace(
    taps: Taps, stack: HostStack, namespace: Namespace
) -> None:
    stack.shut("vhu0", taps.create("vhu0"))
    assert 'hook ingress device "vhu0" priority -500; policy drop;' in rules(namespace)
    assert conf("arp_ignore") == "8"
    stack.open("vhu0")
    assert rules(namespace) == ""
    assert conf("arp_ignore") == conf("arp_ignore", "default")


def test_nothing_is_made_for_a_tap_of_the_kernel_s_bridges(
    taps: Taps, stack: HostStack, namespace: Namespace
) -> None:
    taps.create("vhu0")
    before = conf("arp_ignore")
    stack.open("vhu0")
    assert rules(namespace) == "" and conf("arp_ignore") == before


def test_a_tap_made_anew_by_its_name_is_shut_again(
    taps: Taps, stack: HostStack, namespace: Namespace
) -> None:
    """Up to Linux 6.15 the chain goes with its device, and the table stays."""
    for _ in range(2):
        stack.shut("vhu0", taps.create("vhu0"))
        assert 'device "vhu0"' in rules(namespace)
        taps.delete("vhu0")


def test_what_others_did_to_a_chain_is_undone(
    taps: Taps, stack: HostStack, namespace: Namespace
) -> None:
    index = taps.create("vhu0")
    stack.shut("vhu0", index)
    chain = ("netdev", "ovs-vhost-vhu0", "ingress")
    namespace.run("nft", "add", "chain", *chain, "{ policy accept; }")
    stack.shut("vhu0", index)
    assert "policy drop" in rules(namespace)
    namespace.run("nft", "delete", "table", "netdev", "ovs-vhost-vhu0")
    namespace.run("nft", "add", "table", "netdev", "ovs-vhost-vhu0")
    # One that cannot be changed into ours.
    namespace.run(
        *("nft", "add", "chain", *chain),
        '{ type filter hook ingress device "vhu0" priority 7; }',
    )
    stack.shut("vhu0", index)
    assert "priority -500; policy drop" in rules(namespace)


def test_only_what_somebody_else_removed_is_heard_of(
    taps: Taps, stack: HostStack, namespace: Namespace
) -> None:
    for name in ("vhu0", "vhu1", "vhu2"):
        stack.shut(name, taps.create(name))
    namespace.run("nft", "add", "table", "netdev", "theirs")
    namespace.run("nft", "delete", "table", "netdev", "theirs")
    assert stack.hear() == []
    namespace.run("nft", "delete", "chain", "netdev", "ovs-vhost-vhu1", "ingress")
    stack.forget("vhu0")
    assert stack.hear() == ["vhu1"]
    namespace.run("nft", "flush", "ruleset")
    assert stack.hear() == ["vhu2"]


def test_where_more_changes_come_than_can_be_told_only_the_missing_chain_counts(
    taps: Taps, stack: HostStack, namespace: Namespace
) -> None:
    for name in ("vhu0", "vhu1"):
        stack.shut(name, taps.create(name))
    many = "".join(f"add table ip t{n}\ndelete table ip t{n}\n" for n in range(4000))
    for _ in range(2):
        namespace.run("nft", "-f", "-", stdin=many)
    namespace.run("nft", "delete", "table", "netdev", "ovs-vhost-vhu1")
    assert stack.hear() == ["vhu1"]


def test_a_kernel_without_it_is_told_of(
    taps: Taps, stack: HostStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyroute2 import NetlinkError

    def refuse(*_: object, **__: object) -> None:
        raise NetlinkError(errno.EOPNOTSUPP, "Operation not supported")

    index = taps.create("vhu0")
    monkeypatch.setattr(
        stack, "_nft", SimpleNamespace(table=refuse, chain=refuse, get_chains=refuse)
    )
    with pytest.raises(HostStackError, match="nftables: Operation not supported"):
        stack.shut("vhu0", index)
    assert conf("rp_filter") == "1"


def conf(setting: str, name: str = "vhu0") -> str:
    return Path(f"/proc/sys/net/ipv4/conf/{name}/{setting}").read_text().strip()


def test_the_next_daemon_puts_only_chains_that_are_missing_or_not_as_they_should_be(
    taps: Taps, stack: HostStack, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"vhu{number}" for number in range(4)]
    for name in names:
        stack.shut(name, taps.create(name))
    namespace.run("nft", "delete", "table", "netdev", "ovs-vhost-vhu1")
    accepts = "chain netdev ovs-vhost-vhu2 ingress { policy accept; }"
    namespace.run("nft", "add", *accepts.split())
    after = HostStack()
    put: list[str] = []
    add_chain = HostStack._add_chain

    def noted(self: HostStack, name: str) -> None:
        put.append(name)
        add_chain(self, name)

    monkeypatch.setattr(HostStack, "_add_chain", noted)
    for name in names:
        after.shut(name, 1)
        if name == "vhu0":  # and one that goes while the daemon starts
            namespace.run("nft", "delete", "table", "netdev", "ovs-vhost-vhu3")
            assert after.hear() == []
    assert sorted(set(put)) == ["vhu1", "vhu2", "vhu3"]
    assert rules(namespace).count("policy drop") == 4
