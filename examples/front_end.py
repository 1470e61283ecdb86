# SPDX-License-Identifier: Apache-2.0
"""Talk to a port as a front-end: say something, and print the first frame that comes.

python examples/front_end.py /run/openvswitch/vhu0
"""

import select
import sys
from pathlib import Path

from ovs_vhost_plugin.guest.driver.driver import ReceiveQueue, TransmitQueue
from ovs_vhost_plugin.guest.driver.memory import GuestMemory
from ovs_vhost_plugin.guest.driver.split import SplitQueue
from ovs_vhost_plugin.guest.frontend.connection import FrontEndConnection
from ovs_vhost_plugin.guest.frontend.frontend import FrontEnd, VringSetup
from ovs_vhost_plugin.vhost.spec import Feature

MAC = bytes.fromhex("525400000042")
FEATURES = Feature.VERSION_1.mask | Feature.MRG_RXBUF.mask
HEADER = 12  # bytes of a virtio-net header with these features (virtio 1.2, 5.1.6)
BUFFER = 2048  # bytes of a receive buffer


def main(path: Path) -> None:
    """Connect to the port that listens at `path`."""
    # What a virtual machine has: memory, and a driver with a ring for each direction.
    memory = GuestMemory.of_size(1 << 20)
    rx, tx = (VringSetup(index, SplitQueue(memory, 64)) for index in (0, 1))
    receive = ReceiveQueue(rx.queue, HEADER, mergeable=True, pieces=[BUFFER])
    transmit = TransmitQueue(tx.queue, HEADER)

    # What QEMU does for it: negotiate, share the memory, start the rings.
    frontend = FrontEnd(FrontEndConnection.connect(path, timeout=30.0))
    frontend.initialise()
    print(f"offered: {frontend.offered:#x}, {frontend.queue_pairs_offered} queue pairs")
    frontend.set_features(FEATURES)
    frontend.give_memory(memory)
    for vring in (rx, tx):
        frontend.enable_vring(vring.index, True)
        frontend.start_vring(vring, vring.queue.base)

    # What the guest does: offer buffers, send a frame, and wait for one.
    receive.fill()
    frontend.kick(rx)
    transmit.add((b"\xff" * 6 + MAC + b"\x88\xb5" + b"hello").ljust(60, b"\0"))
    if tx.queue.publish():
        frontend.kick(tx)
    while not rx.queue.want_calls(True):
        select.select([rx.call], [], [])
        rx.call.take()
    for received in receive.receive():
        print(f"received: {received.frame.hex()}", flush=True)

    stopped = [frontend.stop_vring(vring.index) for vring in (rx, tx)]
    print(f"the rings stopped at {stopped}")
    frontend.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
