# SPDX-License-Identifier: Apache-2.0
"""A port, the guests on it, and the bridge's end of its tap, where frames go in and are seen.

A packet socket on the tap stands where the bridge's own does: what it sends the guest receives,
and what it captures is what the worker made of the guest's frames.
"""

import itertools
import json
import os
import socket
import struct
from contextlib import ExitStack
from pathlib import Path

from pyroute2 import IPRoute

from ovs_vhost_plugin.guest.driver.responder import checksum
from ovs_vhost_plugin.guest.soft import SoftGuest
from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.measure.capture import Capture
from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.vhost.spec import FrontendRequest

GUEST_MAC = bytes.fromhex("525400000001")
OTHER_MAC = bytes.fromhex("525400000099")
ETHERTYPE = b"\x88\xb5"  # IEEE 802 local experimental
BURST = 32  # frames under way at once, where loss is not the point
LARGEST = 60_000  # bytes a tap takes here
SECONDS = 60.0  # until what does not come counts as missing
_names = (f"vhu{n}" for n in itertools.count())


def frame_of(size, *, outward=False):
    """A frame of `size` bytes that proves its contents: nobody else makes the same."""
    to, source = (OTHER_MAC, GUEST_MAC) if outward else (GUEST_MAC, OTHER_MAC)
    return to + source + ETHERTYPE + os.urandom(size - 14)


def datagram(flow, size, *, outward=False):
    """UDP between two fixed hosts; `flow` is the port of each side, so it decides the queue."""
    to, source = (OTHER_MAC, GUEST_MAC) if outward else (GUEST_MAC, OTHER_MAC)
    ends = [socket.inet_aton("10.1.0.1"), socket.inet_aton("10.1.0.2")]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, size - 14, 0, 0, 64, 17, 0)
    ip += b"".join(ends if outward else reversed(ends))
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    udp = struct.pack("!HHHH", flow, flow, size - 34, 0)
    return to + source + b"\x08\x00" + ip + udp + os.urandom(size - 42)


def carrier_changes(host, device):
    """How often a device's carrier has gone or come."""
    with host.namespace.entered(), IPRoute() as kernel:
        (link,) = kernel.get_links(ifname=device)
        return link.get_attr("IFLA_CARRIER_CHANGES")


class SoftPort:
    """A port in server mode; guests connect to its worker one after the other."""

    waiting = "listening"

    def __init__(self, host, *, queues=1, settings=(), bridge=BRIDGE):
        self.host = host
        self.name = next(_names)
        self._bridge = bridge
        self._settings = (f"external_ids:vhost-user-queues={queues}", *settings)
        self._closing = ExitStack()

    def __enter__(self):
        with ExitStack() as stack:
            host, name = self.host, self.name
            self.path = self.add(*self._settings)
            stack.callback(host.delete_port, name)
            host.wait_status(name, self.waiting)
            host.namespace.run("ip", "link", "set", name, "mtu", str(LARGEST))
            self.wire = host.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)
            stack.callback(self.wire.close)
            self.wire.bind((name, 0))
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._closing.close()

    def add(self, *settings):
        """Add the port; where its guests find it."""
        return self.host.add_server_port(self.name, *settings, bridge=self._bridge)

    def make_guest(self, config):
        """A guest that is not yet started."""
        return SoftGuest(self.path, config)

    def guest(self, config):
        """A guest whose rings are enabled; it is closed with the port."""
        guest = self.make_guest(config)
        self._closing.callback(guest.close)
        guest.start()
        settle(guest)
        # What an IOMMU is asked is answered meanwhile: a ring may wait for that.
        wait_until(lambda: guest.serve() or self.host.has_carrier(self.name), "the carrier")
        # Until a pair's own queue has come from the daemon, the first pair gets its frames.
        wait_until(
            lambda: guest.serve() or len(self.stats()["queue_pairs"]) >= config.queue_pairs,
            "all pairs",
        )
        return guest

    @property
    def carrier(self):
        return "LOWER_UP" in self.host.namespace.run("ip", "link", "show", "dev", self.name)

    @property
    def carrier_changes(self):
        """How often the tap's carrier has gone or come."""
        return carrier_changes(self.host, self.name)

    def wait_carrier(self):
        self.host.wait_carrier(self.name)

    @property
    def pid(self):
        """The worker's."""
        return self.host.worker_pid(self.name)

    def open_files(self):
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def capture(self):
        return Capture(self.host.namespace, self.name)

    def stats(self):
        text = self.host.appctl("vhost/stats", self.name, "--format", "json")
        return json.loads(text)["ports"][self.name]

    def counters(self, pair=0):
        return self.stats()["queue_pairs"][pair]

    def errors(self):
        """How often each named error happened."""
        return self.stats()["errors"]

    def published_error(self):
        """external_ids:vhost-user-error."""
        return self.host.status(self.name).get("error", "")

    def wait_published(self, error):
        """Return when external_ids:vhost-user-error begins so: the daemon writes it in its time."""
        wait_until(lambda: self.published_error().startswith(error), f"{error} published")

    def inject(self, *frames):
        """Send frames to the guest."""
        for frame in frames:
            self.wire.send(frame)

    def sent(self, capture, count):
        """What the guest sent, when it is `count` frames."""

        def arrived():
            frames = [frame.data for frame in capture.frames() if not frame.outgoing]
            return frames if len(frames) >= count else None

        return wait_until(arrived, f"{count} frames on {self.name}", SECONDS)


def settle(guest):
    """Return when the worker has executed all requests so far: the answer to one more is here."""
    guest.frontend.connection.ask(FrontendRequest.GET_FEATURES)


def receive_all(guest, count):
    """The guest's next `count` frames, or more if more are there already, with their queues."""
    received = []
    while len(received) < count:
        some = guest.receive_all(SECONDS)
        assert some, f"only {len(received)} of {count} frames came"
        received += some
    return received


def receive(guest, count):
    """The same without queues."""
    return [received.frame for _, received in receive_all(guest, count)]


def check_outward(port, guest, sizes, pieces=None):
    """The guest sends frames of all `sizes`, and the tap has the same."""
    frames = [frame_of(size, outward=True) for size in sizes]
    with port.capture() as capture:
        for frame in frames:
            guest.send(frame, pieces=pieces)
        guest.drain()
        assert port.sent(capture, len(frames)) == frames


def check_inward(port, guest, sizes, burst=BURST):
    """Frames of all `sizes` come to the guest as they were."""
    frames = [frame_of(size) for size in sizes]
    for start in range(0, len(frames), burst):
        some = frames[start : start + burst]
        port.inject(*some)
        assert receive(guest, len(some)) == some
