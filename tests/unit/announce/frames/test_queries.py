# SPDX-License-Identifier: Apache-2.0
"""The queries that ask a guest for its multicast groups, byte for byte."""

import struct

from ovs_vhost_plugin.announce.frames.queries import queries

MAC = bytes.fromhex("525400000001")
# RFC 3376, 4.1 in RFC 791's header with RFC 2113's option: from no address to all systems
IGMP = (
    "01005e000001 525400000001 0800"
    "46 c0 0024 0000 0000 01 02 4413 00000000 e0000001 94040000"
    "11 01 eefe 00000000 00 00 0000"
)
# RFC 3810, 5.1 in RFC 8200's header with RFC 2711's option: from the link-local address
MLD = (
    "333300000001 525400000001 86dd"
    "60000000 0024 00 01 fe80000000000000 505400fffe000001 ff020000000000000000000000000001"
    "3a 00 05020000 0100"
    "82 00 306b 0064 0000 00000000000000000000000000000000 00 00 0000"
)


def words(data):
    """The one's complement sum of `data`: 0xFFFF where its checksum is right (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    return (total & 0xFFFF) + (total >> 16)


def test_both_are_as_their_documents_have_them():
    igmp, mld = queries(MAC, 0)
    assert igmp == bytes.fromhex(IGMP).ljust(60, b"\0")
    assert mld == bytes.fromhex(MLD)


def test_their_checksums_are_right():
    igmp, mld = queries(MAC, 0)
    assert words(igmp[14:38]) == words(igmp[38:50]) == 0xFFFF
    pseudo = mld[22:54] + struct.pack("!II", 28, 58)
    assert words(pseudo + mld[62:]) == 0xFFFF


def test_the_source_is_made_of_the_bridges_own_address():
    """RFC 4291, appendix A: the address with its universal bit turned over, and FFFE amid it."""
    _, mld = queries(bytes.fromhex("02a1b2c3d4e5"), 0)
    assert mld[22:38] == bytes.fromhex("fe80000000000000 00a1b2fffec3d4e5")


def test_a_guest_behind_a_tag_is_asked_with_it():
    for plain, tagged in zip(queries(MAC, 0), queries(MAC, 5), strict=True):
        assert tagged == plain[:12] + bytes.fromhex("81000005") + plain[12:]
