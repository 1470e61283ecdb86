# SPDX-License-Identifier: Apache-2.0
"""The soak's traffic tells what was lost, doubled or changed, and which outage has no cause."""

import re
import socket
import threading

import pytest
from soak.machine import EchoedTraffic
from support.system.numbered_traffic import NumberedTraffic

from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.measure.flow import RECORD_SIZE
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.integration

PORT = 7000
LOST = "guest: 1 datagrams were lost, sent  after the first: [7]"


@pytest.fixture
def namespace(require):
    lacking = packages.missing(packages.SWITCH)
    require(lacking is None, lacking or "")
    with Namespace("soak") as made:
        yield made


class Echo:
    """A guest that sends each record back, but for those that it is told to treat otherwise."""

    def __init__(self, namespace, answers):
        self.deaf = threading.Event()
        self._answers = answers
        self._socket = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", PORT))
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _run(self):
        while True:
            data, peer = self._socket.recvfrom(2 * RECORD_SIZE)
            if not data:
                return
            if not self.deaf.is_set():
                for answer in self._answers.get(int(data[:8]), lambda data: [data])(data):
                    self._socket.sendto(answer, peer)


def echoed(namespace, answers, *, within_outage=False):
    """The faults of a flow whose records are answered so, and that nobody hears for a while."""
    traffic = EchoedTraffic(namespace, "guest", "127.0.0.1", 1)
    with Echo(namespace, answers) as echo:
        traffic.start()
        traffic.wait_for_more(20)
        if within_outage:
            with traffic.outage():
                echo.deaf.set()
                sent = traffic.sent
                wait_until(lambda: traffic.sent >= sent + 5, "five records")
                echo.deaf.clear()
        traffic.stop()
    return traffic.faults()


def test_all_is_well(namespace):
    assert echoed(namespace, {}) == []


def test_what_is_lost_in_an_outage_is_allowed(namespace):
    assert echoed(namespace, {}, within_outage=True) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda data: [], [LOST]),
        (lambda data: [data, data], ["guest: datagrams came twice: [7]"]),
        (
            lambda data: [data.replace(b"7", b"8")],
            ["guest: 1 datagrams were changed", LOST],
        ),
    ],
    ids=["lost", "twice", "changed"],
)
def test_one_record_is_not_as_it_should_be(namespace, answer, words):
    found = echoed(namespace, {7: answer})
    assert [re.sub(r"[0-9.]+ to [0-9.]+ s", "", fault) for fault in found] == words


def test_an_outage_without_a_cause_is_told():
    traffic = NumberedTraffic(None, "tap", None, rate=1)
    traffic.expected = [(10.0, 12.0)]
    traffic.outages = [(10.5, 11.0), (20.0, 20.5)]
    assert traffic.unexpected() == ["tap: 0.5 s without a port"]
