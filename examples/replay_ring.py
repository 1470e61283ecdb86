# SPDX-License-Identifier: Apache-2.0
"""Record a transmit ring with the memory that it is in, as text; and have the kernels serve it.

python examples/replay_ring.py record examples/ring.json
python examples/replay_ring.py examples/ring.json
"""

import json
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ovs_vhost_plugin.guest.driver.driver import NetHeader, TransmitQueue
from ovs_vhost_plugin.guest.driver.memory import GuestMemory, Region
from ovs_vhost_plugin.guest.driver.split import Buffer, SplitQueue
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.layout import REGION_DTYPE
from ovs_vhost_plugin.vhost.spec import Feature, used_bytes
from ovs_vhost_plugin.worker.device.queuepair import QueuePair
from ovs_vhost_plugin.worker.device.vringconfig import Kind, PairConfig, VringConfig

HEADER = 12  # bytes of a virtio-net header with VERSION_1 (virtio 1.2, 5.1.6)
ROW = 16
MAC = bytes.fromhex("525400000042")


@dataclass(frozen=True)
class Recording:
    """A split ring and the guest's memory at some moment; addresses are the guest's.

    size, desc, avail, used   of the ring, as a driver has them (virtio 1.2, 2.7)
    next_avail                where the device goes on
    regions                   the guest's memory: address and bytes of each
    rows                      16 bytes each, by their address (hexadecimal): those that are not zero
    """

    features: int
    size: int
    desc: int
    avail: int
    used: int
    next_avail: int
    regions: list[tuple[int, int]]
    rows: dict[str, str]

    def memory(self) -> GuestMemory:
        """The memory as it was."""
        made = GuestMemory([Region(address, size, address) for address, size in self.regions])
        for address, row in self.rows.items():
            made.write(int(address, 16), bytes.fromhex(row))
        return made


def record(memory: GuestMemory, queue: SplitQueue, features: int) -> Recording:
    """What there is now. Of a VM that runs, stop it first."""

    def rows() -> Iterator[tuple[str, str]]:
        for region in memory.regions:
            for at in range(region.guest_address, region.guest_address + region.size, ROW):
                row = memory.read(at, ROW)
                if any(row):
                    yield f"{at:x}", row.hex()

    return Recording(
        features,
        queue.size,
        queue.desc_address,
        queue.avail_address,
        queue.used_address,
        queue.used_index,
        [(region.guest_address, region.size) for region in memory.regions],
        dict(rows()),
    )


def replay(recording: Recording, seconds: float = 60.0) -> tuple[list[bytes], str]:
    """Serve the ring until it is empty or breaks: the frames, each with its header; the fault."""
    memory = recording.memory()
    desc, avail, used = (
        np.frombuffer(memory.view(address, length), np.uint8)
        for address, length in (
            (recording.desc, 16 * recording.size),
            (recording.avail, 6 + 2 * recording.size),
            (recording.used, used_bytes(recording.size)),
        )
    )
    # A datagram socket is as good as a tap: each write is a frame.
    tap, wire = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    wire.setblocking(False)
    pair = QueuePair(0, tap.fileno())
    pair.prepare(
        PairConfig(
            rx=None,
            tx=VringConfig(recording.size, desc, avail, used, recording.next_avail),
            regions=_region_table(memory),
            log=None,
            header_size=HEADER,
            features=recording.features,
            finish_offloads=False,
        )
    )
    pair.start()
    frames: list[bytes] = []
    faults: list[tuple[Kind, Fault]] = []
    until = time.monotonic() + seconds
    while not faults and used[2:4].tobytes() != avail[2:4].tobytes() and time.monotonic() < until:
        frames += _read(wire)
        faults = pair.take_faults()
        time.sleep(0.001)  # the driver of a recording does not call
    pair.close()
    frames += _read(wire)
    return frames, faults[0][1].kebab if faults else ""


def _region_table(memory: GuestMemory) -> np.ndarray:
    """Where this process has each region."""
    views = [memory.view(region.guest_address, region.size) for region in memory.regions]
    rows = [
        (region.guest_address, region.size, np.frombuffer(view, np.uint8).ctypes.data)
        for region, view in zip(memory.regions, views, strict=True)
    ]
    return np.array(rows, REGION_DTYPE)


def _read(wire: socket.socket) -> Iterator[bytes]:
    """The frames that have come."""
    while True:
        try:
            yield wire.recv(1 << 17)
        except BlockingIOError:
            return


def example() -> Recording:
    """A driver that sends two frames, and then one from where there is no memory."""
    memory = GuestMemory.of_size(64 << 10)
    queue = SplitQueue(memory, 8)
    transmit = TransmitQueue(queue, HEADER)
    for text, pieces in ((b"in one piece", [2048]), (b"in pieces", [HEADER, 14, 20])):
        transmit.add((b"\xff" * 6 + MAC + b"\x88\xb5" + text).ljust(60, b"\0"), pieces=pieces)
    queue.add([Buffer(0xDEAD0000, 72)], [])
    queue.publish()
    return record(memory, queue, Feature.VERSION_1.mask)


def main(*arguments: str) -> None:
    """Record the example into a file, or replay a file."""
    if arguments[0] == "record":
        Path(arguments[1]).write_text(json.dumps(asdict(example()), indent=1) + "\n")
        return
    frames, fault = replay(Recording(**json.loads(Path(arguments[0]).read_text())))
    for frame in frames:
        print(f"{NetHeader.unpack(frame[:HEADER])}: {frame[HEADER:].hex()}")
    print(f"then the ring broke: {fault}" if fault else "then the ring was empty")


if __name__ == "__main__":
    main(*sys.argv[1:])
