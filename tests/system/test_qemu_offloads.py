# SPDX-License-Identifier: Apache-2.0
"""Offloads: passed on where the datapath takes them, finished in the worker where it does not."""

import pytest
from support.system.qemu_site import LONGEST_FRAME, MIB, PORT, Site, check_frames

from ovs_vhost_plugin.lab.measure.capture import Capture
from ovs_vhost_plugin.vhost.spec import Feature

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("qemu_programs")]

_OFFERED = (Feature.CSUM, Feature.HOST_TSO4, Feature.GUEST_CSUM, Feature.GUEST_TSO4)


def traffic(site, device):
    """Frames seen on the tap while a guest moves TCP and UDP both ways: (from it, to it)."""
    path = site.host.add_client_port(PORT)
    try:
        with site.qemu(path, device=device) as guest:
            site.host.wait_status(PORT, "running")
            missing = [bit.name for bit in _OFFERED if not site.features() & bit.mask]
            assert missing == [], "the offer is the same on every host"
            with Capture(site.host.namespace, PORT) as capture:
                site.tcp(guest, 8 * MIB)
                site.udp(guest, 7000, size=1024)
                site.udp(guest, 7001, size=4096)
                frames = capture.frames()
            counters = site.counters()
            assert counters["tx_dropped_faulty"] == counters["rx_dropped_too_long"] == 0
    finally:
        site.host.delete_port(PORT)
    from_guest = [frame.data for frame in frames if not frame.outgoing]
    to_guest = [frame.data for frame in frames if frame.outgoing]
    assert len(from_guest) > 100 and len(to_guest) > 100
    return from_guest, to_guest


def test_a_datapath_that_takes_offloads_gets_large_frames_both_ways(qemu_programs):
    with Site(userspace_tso=True) as site:
        from_guest, to_guest = traffic(site, {})
        for frames in (from_guest, to_guest):
            large = [frame for frame in frames if len(frame) > LONGEST_FRAME]
            assert len(large) > 10, f"{len(large)} of {len(frames)}"
        # The checksums are the receiver's to trust, or the wire's to finish: not computed here.
        assert check_frames(from_guest).wrong


def test_no_frame_leaves_unfinished_where_the_datapath_takes_no_offloads(qemu_programs):
    with Site() as site:
        # Without mergeable buffers the guest's chains are longer and its header is the same.
        for device in ({}, {"disable-modern": "on", "mrg_rxbuf": "off"}):
            for frames in traffic(site, device):
                result = check_frames(frames)
                assert result.wrong == []
                assert result.checked > 100
                assert result.longest <= LONGEST_FRAME
