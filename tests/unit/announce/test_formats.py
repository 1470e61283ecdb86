# SPDX-License-Identifier: Apache-2.0
"""Formats of others, installed as a package would install them."""

import importlib
import sys

import pytest
from support.checkout import TOP

from ovs_vhost_plugin.announce.formats import MAX_FRAMES, FormatError, Guest, frames_of, installed
from ovs_vhost_plugin.announce.frames.announcements import (
    gratuitous_arp,
    neighbor_advertisement,
    rarp,
)
from ovs_vhost_plugin.announce.frames.compose import compose
from ovs_vhost_plugin.announce.policy import Policy
from ovs_vhost_plugin.net.ethernet import tagged
from ovs_vhost_plugin.net.station import Station

EXAMPLE = TOP / "examples/announcement_format.py"
MAC = bytes.fromhex("525400123456")
GUEST = Guest(MAC, 0, (), (), "vhu0", "br0")


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a distribution with entry points on sys.path."""

    def put(**points: str) -> None:
        info = tmp_path / "site_formats-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: site-formats\nVersion: 1.0\n")
        lines = [f"{name} = {target}" for name, target in points.items()]
        head = "[ovs_vhost_plugin.announcements]"
        (info / "entry_points.txt").write_text("\n".join([head, *lines, ""]))
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()

    return put


def test_the_example_in_the_docs_works_when_installed(install, tmp_path, monkeypatch):
    code = EXAMPLE.read_text().partition("\n\n")[2]
    assert code in (TOP / "docs/announce.md").read_text(), "the page shows the file"
    (tmp_path / "site_example.py").write_text(EXAMPLE.read_text())
    install(hello="site_example:hello")
    formats = installed()
    monkeypatch.delitem(sys.modules, "site_example")
    frames, wrong = compose(Station(MAC, 10), Policy(frames=("hello",)), formats, "vhu0", "br0")
    assert wrong == ""
    plain = (b"\xff" * 6 + MAC + b"\x88\xb5vhu0").ljust(60, b"\0")
    assert frames == (tagged(plain, 10),)


def test_one_that_cannot_be_loaded_fails_when_used_and_no_other(install):
    install(gone="no_such_module:hello", wrong="os:no_such_name", rarp="os:getcwd")
    formats = installed()
    assert set(formats) >= {"gone", "wrong"} and "rarp" not in formats
    policy = Policy(frames=("gone", "rarp"))
    frames, wrong = compose(Station(MAC), policy, formats, "vhu0", "br0")
    assert frames == (rarp(MAC),)
    assert wrong.startswith("gone: ModuleNotFoundError: ")


def frame(source: bytes = MAC, size: int = 60) -> bytes:
    return (b"\xff" * 6 + source + b"\x88\xb5").ljust(size, b"\0")[:size]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ([frame()] * (MAX_FRAMES + 1), "17 frames, more than 16"),
        (["text"], "14 to 1514 bytes"),
        ([frame(size=13)], "14 to 1514 bytes"),
        ([frame(size=1515)], "14 to 1514 bytes"),
        ([frame(source=b"\x52\x54\0\0\0\1")], "source is not the guest"),
        (None, "TypeError"),
    ],
)
def test_what_is_no_announcement_of_the_guest_is_named(made, words):
    with pytest.raises(FormatError) as wrong:
        frames_of("odd", {"odd": lambda guest: made}, GUEST)
    assert str(wrong.value).startswith("odd: ") and words in str(wrong.value)


@pytest.mark.parametrize("made", [[frame()] * MAX_FRAMES, [frame(size=14), frame(size=1514)]])
def test_as_much_as_a_format_may_make(made):
    assert frames_of("odd", {"odd": lambda guest: made}, GUEST) == made


def test_a_long_error_of_a_format_is_cut():
    with pytest.raises(FormatError) as wrong:
        frames_of("odd", {"odd": lambda guest: [][int("0" * 300 + "x")]}, GUEST)
    assert len(str(wrong.value)) == len("odd: ") + 200


def test_frames_of_several_formats_come_in_the_policys_order():
    made = {name: [frame(size=size)] for name, size in (("one", 60), ("two", 61))}
    formats = {name: lambda guest, name=name: made[name] for name in made}
    policy = Policy(frames=("one", "rarp", "two"))
    assert compose(Station(MAC), policy, formats, "vhu0", "br0") == (
        (*made["one"], rarp(MAC), *made["two"]),
        "",
    )


def test_a_station_is_made_of_the_frames_its_policy_names():
    ipv4, ipv6 = bytes([192, 0, 2, 1]), bytes(15) + b"\x07"
    station = Station(MAC, 10, (ipv4,), (ipv6,), router=True)
    frames, _ = compose(station, Policy(), {}, "vhu0", "br0")
    assert frames == (
        tagged(rarp(MAC), 10),
        tagged(gratuitous_arp(MAC, ipv4), 10),
        tagged(neighbor_advertisement(MAC, ipv6, router=True), 10),
    )
    assert compose(station, Policy(frames=("garp",)), {}, "vhu0", "br0")[0] == frames[1:2]
    assert compose(Station(MAC), Policy(frames=("garp",)), {}, "vhu0", "br0") == ((), "")


def test_a_format_is_told_who_it_is_about():
    told = []
    station = Station(MAC, 10, (bytes([192, 0, 2, 1]),), (bytes(15) + b"\x07",))
    formats = {"spy": lambda guest: told.append(guest) or []}
    assert compose(station, Policy(frames=("spy",)), formats, "vhu0", "br0") == ((), "")
    (guest,) = told
    assert (guest.mac, guest.vlan, guest.port, guest.bridge) == (MAC, 10, "vhu0", "br0")
    assert [str(ip) for ip in (*guest.ipv4, *guest.ipv6)] == ["192.0.2.1", "::7"]
