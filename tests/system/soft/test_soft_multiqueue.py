# SPDX-License-Identifier: Apache-2.0
"""The most queue pairs that there may be, and pairs switched on and off while frames pass."""

import threading

import pytest
from support.system.soft_ports import datagram, receive_all, settle

from ovs_vhost_plugin.guest.soft import Config
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system

MOST = 128
BURST = 100
SMALL = 16  # descriptors of a ring
HEADERS = 42  # bytes before the payload of a datagram
SOME = 16
STEPS = (1, SOME, 3, 8)
OFF = (SOME - 1) + (SOME - 3)  # how often one is switched off
PAUSE = 0.001  # seconds between frames of a flow that goes on


def numbered(number):
    """A datagram whose payload begins with its number; there are flows for all queues."""
    frame = datagram(1000 + number % 1000, 100)
    return frame[:HEADERS] + number.to_bytes(8) + frame[HEADERS + 8 :]


def number_of(frame):
    return int.from_bytes(frame[HEADERS : HEADERS + 8])


def switch(guest, pairs):
    """Have the first `pairs` pairs on and the others off, as a front-end does for its guest.

    What the guest receives meanwhile: it does not stop for that.
    """
    received = []
    for index in range(len(guest.pairs)):
        for vring in (2 * index, 2 * index + 1):
            guest.frontend.enable_vring(vring, index < pairs)
        if index % 8 == 0:
            settle(guest)
            received += guest.receive_all(0)
    settle(guest)
    return received + guest.receive_all(0)


class Sender(threading.Thread):
    """Sends numbered frames to the guest until it is stopped."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self._port = port
        self._stop_asked = threading.Event()
        self.sent = []

    def run(self):
        while not self._stop_asked.wait(PAUSE):
            self.sent.append(numbered(len(self.sent)))
            self._port.inject(self.sent[-1])

    def stop(self):
        self._stop_asked.set()
        self.join()


def test_128_pairs_each_send_and_get_the_answers(plug):
    port = plug(queues=MOST)
    guest = port.guest(Config(queue_pairs=MOST, size=SMALL))
    questions = [datagram(1000 + flow, 100 + flow, outward=True) for flow in range(MOST)]
    with port.capture() as capture:
        for flow, question in enumerate(questions):
            guest.send(question, queue=flow)
        guest.drain()
        assert sorted(port.sent(capture, MOST)) == sorted(questions)
    answers = [datagram(1000 + flow, 500 + flow) for flow in range(MOST)]
    port.inject(*answers)
    received = receive_all(guest, MOST)
    assert sorted((queue, got.frame) for queue, got in received) == list(enumerate(answers))
    pairs = port.stats()["queue_pairs"]
    assert [(pair["tx_packets"], pair["rx_packets"]) for pair in pairs] == [(1, 1)] * MOST
    # The front-end has set them up; a worker tells of its state only so often.
    condition = f"external_ids:vhost-user-num-of-vrings={2 * MOST}"
    port.host.switch.wait_until("Interface", port.name, condition)
    assert port.errors() == {}


def test_pairs_go_on_and_off_while_frames_come(plug):
    """None comes to a pair that is off, none twice, and at most one is lost as one is switched off.

    The kernel takes a queue away with what came to it since that was looked at last.
    """
    port = plug(queues=SOME)
    guest = port.guest(Config(queue_pairs=SOME, size=64))
    received = []
    sender = Sender(port)
    sender.start()
    try:
        for pairs in STEPS:
            received += switch(guest, pairs)
            queues = set()
            frames = 0
            while frames < 500 or len(queues) < min(pairs, 4):
                some = receive_all(guest, 1)
                queues |= {queue for queue, _ in some}
                frames += len(some)
                received += some
            assert max(queues) < pairs
    finally:
        sender.stop()
    while len(received) < len(sender.sent) and (some := guest.receive_all(2.0)):
        received += some
    sent = dict(map(reversed, enumerate(sender.sent)))
    numbers = [sent[got.frame] for _, got in received]
    assert len(numbers) == len(set(numbers))
    assert len(sent) - len(numbers) <= OFF
    assert port.errors() == {}


def test_what_waits_for_a_pair_that_is_switched_off_comes_by_another_in_order(plug):
    port = plug(queues=2)
    guest = port.guest(Config(queue_pairs=2, size=SMALL))
    # The guest takes nothing yet: what its buffers do not hold waits in the tap.
    frames = [numbered(n) for n in range(BURST)]
    port.inject(*frames)
    wait_until(
        lambda: all(port.counters(pair)["rx_packets"] == SMALL for pair in (0, 1)), "full rings"
    )
    guest.frontend.enable_vring(2, False)
    settle(guest)
    received = receive_all(guest, len(frames))
    assert sorted(got.frame for _, got in received) == sorted(frames)
    mine = [number_of(got.frame) for queue, got in received if queue == 0]
    other = [number_of(got.frame) for queue, got in received if queue == 1]
    assert len(other) == SMALL
    assert other == sorted(other)
    # Behind what its own buffers held comes what the other was to have, then what waits for it.
    late = mine[SMALL:]
    assert max(other) < late[0]
    falls = [n for n in range(1, len(late)) if late[n] < late[n - 1]]
    assert len(falls) <= 1
