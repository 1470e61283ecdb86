# SPDX-License-Identifier: Apache-2.0
"""A front-end that wants more than is offered hangs up, tells its own log why, and comes back."""

import json
import socket
import time

import pytest
from support.system.soft_ports import check_inward, check_outward

from ovs_vhost_plugin.guest.frontend.connection import listen
from ovs_vhost_plugin.guest.soft import USUAL, SoftGuest
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost import spec
from ovs_vhost_plugin.vhost.spec import FrontendRequest

pytestmark = pytest.mark.system

ERROR = "front-end-gives-up"
VISITS = 8
SIZES = [60, 1500]


def count_and_hang_up(sock: socket.socket) -> int:
    """What it is told, as QEMU that wants more."""
    with sock:
        sock.settimeout(60)
        sock.sendall(spec.HEADER.pack(FrontendRequest.GET_QUEUE_NUM, spec.VERSION, 0))
        answer = sock.recv(64)
    return int(spec.U64.unpack_from(answer, spec.HEADER.size)[0])


def test_one_that_comes_back_at_once_is_named_and_slowed_down(plug):
    port = plug(queues=2)
    came = []
    for _ in range(VISITS):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(port.path))
            assert count_and_hang_up(sock) == 2
        came.append(time.monotonic())
    # From the fifth on each keeps a second from the one before; load only makes that more.
    assert came[-1] - came[4] > 2.0
    port.wait_published(ERROR)
    assert "queue pairs there are (2)" in port.published_error()
    shown = json.loads(port.host.appctl("vhost/show", "--format", "json"))
    assert any(ERROR in str(found) for found in shown["ports"])
    guest = port.guest(USUAL)
    check_inward(port, guest, SIZES)
    check_outward(port, guest, SIZES)
    wait_until(lambda: not port.published_error(), "the error's end")


def test_one_that_listens_is_named_and_served_when_it_stays(soft_host):
    name = "gives-up"
    path = soft_host.directory / f"{name}.sock"
    listener = listen(path)
    soft_host.add_client_port(name, path, "external_ids:vhost-user-queues=2")
    try:
        listener.settimeout(300)
        for _ in range(2):
            assert count_and_hang_up(listener.accept()[0]) == 2
        wait_until(lambda: soft_host.status(name).get("error", "").startswith(ERROR), ERROR)
        listener.close()
        path.unlink()
        guest = SoftGuest(path, USUAL, server=True)
        guest.start()
        soft_host.wait_status(name, "running")
        wait_until(lambda: "error" not in soft_host.status(name), "the error's end")
        guest.close()
    finally:
        listener.close()
        soft_host.delete_port(name)
