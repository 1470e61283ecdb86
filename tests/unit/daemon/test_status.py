# SPDX-License-Identifier: Apache-2.0
"""What is published, and that only differences are written."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.daemon import status
from ovs_vhost_plugin.ipc.reports import PortState

RUNNING = PortState(
    status="running",
    socket="/run/vm.sock",
    features="0x0000000140000000",
    protocol_features="0x7",
    num_vrings=2,
    vring_sizes=(256, 1024),
    mtu=1500,
    error="",
    error_detail="",
    errors=0,
)


def test_a_running_port() -> None:
    assert status.of_state(RUNNING, "") == {
        "vhost-user-status": "running",
        "vhost-user-socket": "/run/vm.sock",
        "vhost-user-features": "0x0000000140000000",
        "vhost-user-protocol-features": "0x7",
        "vhost-user-num-of-vrings": "2",
        "vhost-user-vring-0-size": "256",
        "vhost-user-vring-1-size": "1024",
    }


def test_the_workers_own_error_comes_before_the_daemons() -> None:
    state = replace(RUNNING, error="header-version", error_detail="version 3")
    assert status.of_state(state, "other")["vhost-user-error"] == "header-version: version 3"
    assert status.of_state(RUNNING, "worker-sigkill: x")["vhost-user-error"] == "worker-sigkill: x"


def test_nothing_is_written_where_nothing_changed() -> None:
    keys = status.of_state(RUNNING, "")
    assert status.changes({**keys, "iface-id": "theirs"}, keys) == {}


def test_what_goes_is_removed_and_what_users_set_stays() -> None:
    current = {
        **status.of_state(RUNNING, "header-version"),
        "iface-id": "theirs",
        "vhost-user-mode": "server",
        "vhost-user-queues": "2",
        "vhost-user-announce": "off",
        "vhost-user-dpdk-type": "dpdkvhostuser",
    }
    todo = status.changes(current, {"vhost-user-status": "listening"})
    assert todo.pop("vhost-user-status") == "listening"
    assert todo == dict.fromkeys(
        key for key in status.of_state(RUNNING, "x") if key != "vhost-user-status"
    )


NAMES = st.sampled_from(
    [*status.of_state(RUNNING, "x"), "vhost-user-announced", "iface-id", "vhost-user-mode"]
)
KEYS = st.dictionaries(NAMES, st.sampled_from(["a", "b"]))


@given(KEYS, KEYS)
def test_applying_the_changes_leaves_nothing_to_change(current, wanted) -> None:
    foreign = {"iface-id", "vhost-user-mode"}
    wanted = {key: value for key, value in wanted.items() if key not in foreign}
    after = dict(current)
    for key, value in status.changes(current, wanted).items():
        if value is None:
            del after[key]
        else:
            after[key] = value
    assert status.changes(after, wanted) == {}
    assert {k: v for k, v in after.items() if k in foreign} == {
        k: v for k, v in current.items() if k in foreign
    }
