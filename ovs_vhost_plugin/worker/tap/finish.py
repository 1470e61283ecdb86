# SPDX-License-Identifier: Apache-2.0
"""Finishes a frame from the tap: makes it frames that any wire carries.

For a guest that takes offloads, the kernel leaves checksums unfinished and segments unmade. A frame
that goes elsewhere than to the guest has to be finished here, as nobody else does it.
"""

from __future__ import annotations

import numpy as np

from ovs_vhost_plugin.jit import fresh, layout
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.jit.net import offload
from ovs_vhost_plugin.jit.result import fault_of

_GSO_TYPES = 1 << 1 | 1 << 4 | 1 << 5  # TCPV4, TCPV6, UDP_L4: those that `offload` can segment


class UnfinishedError(Exception):
    """A header asks for an impossible offload; the text names the fault."""


class Finisher:
    """Finishes frames in buffers of its own."""

    def __init__(self) -> None:
        net = fresh.new_net()
        self._rules = net.state
        for name, value in (("cfg_csum", 1), ("cfg_ecn", 1), ("cfg_gso_types", _GSO_TYPES)):
            self._rules[name] = value
        self._header, self._frame, self._segment = net.header, net.frame, net.gso_segment

    def finish(self, record: bytes | memoryview, header_size: int) -> list[bytes]:
        """Return the complete frames of a virtio-net header and its frame; one, without GSO.

        Raises UnfinishedError: the kernel wrote the header, but if the frame had waited for
        buffers, it has been in the guest's memory (jit/net/receive.py, spill).
        """
        length = len(record) - header_size
        header, frame = self._header, self._frame
        header[:header_size] = np.frombuffer(record[:header_size], np.uint8)
        self._rules["cfg_header_size"] = header_size
        result = int(offload.check_header(header, length, self._rules))
        if result < 0:
            raise UnfinishedError(Fault(fault_of(result)).kebab)
        if not offload.leaves_work(header):
            return [bytes(record[header_size:])]
        frame[:length] = np.frombuffer(record[header_size:], np.uint8)
        if not offload.is_gso(header):
            offload.finish_checksum(header, frame, length)
            return [frame[:length].tobytes()]
        headers = int(offload.all_headers(header, frame, length))
        if headers < 0:
            raise UnfinishedError(Fault(fault_of(headers)).kebab)
        return self._segments(headers, length - headers)

    def _segments(self, headers: int, payload: int) -> list[bytes]:
        segments = []
        for position in range(0, payload, int(offload.gso_size(self._header))):
            made = offload.make_gso_segment(
                self._header, self._frame, headers, payload, position, self._segment
            )
            begin = layout.HEADER_MAX
            segments.append(self._segment[begin : begin + int(made)].tobytes())
        return segments
