# SPDX-License-Identifier: Apache-2.0
"""pcapng as readers that are not ours read it: dpkt, and Wireshark's where it is installed."""

import io
import json
import struct
import subprocess

import dpkt
import pytest

from ovs_vhost_plugin.capture import pcapng
from ovs_vhost_plugin.capture.comments import comments, describe_header
from ovs_vhost_plugin.capture.ring import CapturedFrame
from ovs_vhost_plugin.jit.capture_ring import Drop
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.lab.platform import packages

AT = 1_700_000_000_123_456_789
FRAME = bytes.fromhex("525400000001525400000099") + b"\x88\xb5" + bytes(range(50))
FILE = b"".join(
    [
        pcapng.section("ovs-vhost", "Linux"),
        pcapng.interface("vhu0", "rings", 60, "rx"),
        pcapng.packet(AT, FRAME[:60], 64, pcapng.INBOUND, 3, 7, ["one", "two and more"]),
        pcapng.journal_entry(AT + 10**9, [("MESSAGE", "the guest leaves: rings-stopped")]),
        pcapng.packet(AT + 2 * 10**9, b"", 0, pcapng.OUTBOUND, 0, 0, []),
        pcapng.statistics(AT, 9, 7),
    ]
)


def test_an_independent_reader_finds_the_frames():
    reader = dpkt.pcapng.Reader(io.BytesIO(FILE))
    assert reader.snaplen == 60 and reader.datalink() == dpkt.pcap.DLT_EN10MB
    (first, data), (second, nothing) = reader
    assert (data, nothing) == (FRAME[:60], b"")
    assert first == pytest.approx(AT / 1e9) and second == pytest.approx(first + 2)


def test_options_of_a_packet():
    block = pcapng.packet(AT, FRAME[:60], 64, pcapng.INBOUND, 3, 7, ["one"])
    read = dpkt.pcapng.EnhancedPacketBlockLE(block)
    options = [(option.code, bytes(option.data)) for option in read.opts]
    assert options[:3] == [
        (2, struct.pack("<I", 1)),
        (6, struct.pack("<I", 3)),
        (4, struct.pack("<Q", 7)),
    ]
    assert options[3] == (1, b"one")
    assert (read.caplen, read.pkt_len) == (60, 64)


@pytest.mark.parametrize("length", range(9))
def test_blocks_are_aligned_and_say_their_length_twice(length):
    for block in (
        pcapng.packet(AT, bytes(length), length, 1, 0, 0, ["x" * length]),
        pcapng.journal_entry(AT, [("MESSAGE", "x" * length)]),
        pcapng.interface("x" * length, "", 1, "y" * length),
    ):
        assert len(block) % 4 == 0
        assert (
            struct.unpack_from("<I", block, 4) == struct.unpack("<I", block[-4:]) == (len(block),)
        )


def test_wireshark_reads_frames_comments_and_marks(tmp_path, require):
    require(packages.WIRESHARK.present, "tshark is not installed")
    path = tmp_path / "capture.pcapng"
    path.write_bytes(FILE)
    said = tshark(path)
    (frame, mark, nothing) = [one["_source"]["layers"] for one in said]
    assert "inbound" in str(frame["frame"]).lower() or "0x00000001" in str(frame["frame"])
    assert "one" in str(frame) and "two and more" in str(frame)
    assert frame["frame"]["frame.interface_id_tree"]["frame.interface_name"] == "vhu0"
    assert frame["frame"]["frame.len"] == "64" and frame["frame"]["frame.cap_len"] == "60"
    assert frame["frame"]["frame.time_epoch"].startswith("1700000000.123456789")
    assert "rings-stopped" in str(mark) and "systemd" in str(mark)
    assert nothing["frame"]["frame.len"] == "0"


def tshark(path):
    words = ["tshark", "-r", str(path), "-T", "json", "--no-duplicate-keys"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_header_in_words():
    tso = bytes([1, 0x81]) + struct.pack("<5H", 54, 1448, 34, 16, 1)
    assert describe_header(tso) == (
        "virtio-net: flags=NEEDS_CSUM gso_type=TCPV4|ECN hdr_len=54 gso_size=1448 csum_start=34 "
        "csum_offset=16 num_buffers=1"
    )
    assert describe_header(b"\xf2\x07" + bytes(8)) == (
        "virtio-net: flags=DATA_VALID|0xf0 gso_type=0x7 hdr_len=0 gso_size=0 csum_start=0 "
        "csum_offset=0"
    )


def test_what_became_of_a_frame():
    fine = CapturedFrame(AT, 0, True, 64, b"", FRAME, 0, 0, False, 0)
    assert list(comments(fine)) == []
    faulty = fine._replace(drop=Drop.TX_DROPPED_FAULTY, fault=Fault.GSO_SIZE)
    assert list(comments(faulty)) == ["dropped: tx_dropped_faulty (gso-size)"]
    refused = fine._replace(drop=Drop.TX_DROPPED_TAP_DOWN, finished=True, lost=3)
    finished, dropped, lost = comments(refused)
    assert dropped == "dropped: tx_dropped_tap_down"
    assert finished.startswith("finished here") and lost.startswith("3 frames")
    unknown = fine._replace(drop=200, fault=201)
    assert list(comments(unknown)) == ["dropped: 200 (201)"]
