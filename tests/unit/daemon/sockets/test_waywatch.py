# SPDX-License-Identifier: Apache-2.0
"""Whatever happens on the way to a socket is told, by the real kernel: files, directories, links,
mounts; and it is said when the kernel does not watch any more."""

import errno
import os
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.checkout import TOP

from ovs_vhost_plugin.daemon.sockets import sockpath, waywatch
from ovs_vhost_plugin.daemon.sockets.inotify import Inotify
from ovs_vhost_plugin.daemon.sockets.mounts import Mounts
from ovs_vhost_plugin.daemon.sockets.waywatch import WayWatch

PORT = "vhu0"


class Site:
    """A directory for sockets, and a clock."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.now = 1000.0
        self.mounts = Mounts()
        self.ways = WayWatch(self.now)

    def follow(self, path: Path, port: str = PORT) -> bool:
        """Look for a socket, as the daemon does; return whether it is there."""
        try:
            with (
                self.ways.following(port) as on_step,
                sockpath.walk(str(path), self.mounts, on_step=on_step),
            ):
                return True
        except (FileNotFoundError, NotADirectoryError):
            return False

    def news(self) -> set[str]:
        """The ports with news, and whether the loop would have woken for them."""
        self.now += 1
        woken = self.wakes()
        changed = self.ways.changed(self.now)
        assert woken >= bool(changed)
        return changed

    def wakes(self) -> bool:
        poll = select.poll()
        self.ways.wait(SimpleNamespace(fd_wait=poll.register))
        return bool(poll.poll(0))

    def watches(self) -> int:
        """The kernel's number of watches."""
        instance = self.ways._inotify
        if instance is None:
            return 0
        info = Path(f"/proc/self/fdinfo/{instance.fileno()}").read_text()
        return info.count("inotify wd:")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.ways.close()
    site.mounts.close()


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        held = os.open(path.parent, os.O_PATH)
        sock.bind(f"/proc/self/fd/{held}/{path.name}")
        os.close(held)


def test_a_socket_that_comes_is_told_once_and_to_its_port_alone(site: Site) -> None:
    assert not site.follow(site.top / "a.sock")
    assert not site.follow(site.top / "b.sock", "vhu1")
    assert not site.news() and not site.wakes()
    (site.top / "c").touch()
    assert not site.news()
    bind(site.top / "a.sock")
    assert site.news() == {PORT}
    assert not site.news()
    bind(site.top / "b.sock")
    assert site.news() == {"vhu1"}


def test_what_comes_between_the_watch_and_the_look_is_not_missed(site: Site) -> None:
    path = site.top / "d" / "vm.sock"
    path.parent.mkdir()

    with site.ways.following(PORT) as on_step:

        def bind_then_look(directory: int, name: str) -> None:
            on_step(directory, name)
            if name == path.name:
                bind(path)
                path.unlink()

        with pytest.raises(FileNotFoundError):
            sockpath.walk(str(path), site.mounts, on_step=bind_then_look).__enter__()
    assert site.news() == {PORT}


def test_directories_that_are_missing_are_waited_for_one_by_one(site: Site) -> None:
    path = site.top / "a" / "b" / "vm.sock"
    assert not site.follow(path)
    for directory in (path.parent.parent, path.parent):
        directory.mkdir()
        assert site.news() == {PORT}
        assert not site.follow(path)
    bind(path)
    assert site.news() == {PORT}
    assert site.follow(path)


def test_a_directory_that_is_removed_and_made_again_is_followed(site: Site) -> None:
    path = site.top / "a" / "vm.sock"
    path.parent.mkdir()
    assert not site.follow(path)
    before = site.watches()
    for _ in range(3):
        path.parent.rmdir()
        assert site.news() == {PORT}
        path.parent.mkdir()
        assert site.news() == {PORT}
        assert not site.follow(path)
    assert site.watches() == before
    bind(path)
    assert site.news() == {PORT}


def test_a_directory_that_is_renamed_is_left_and_the_new_one_is_followed(site: Site) -> None:
    path = site.top / "a" / "b" / "vm.sock"
    path.parent.mkdir(parents=True)
    assert not site.follow(path)
    (site.top / "a").rename(site.top / "old")
    assert site.news() == {PORT}
    assert not site.follow(path)
    bind(site.top / "old" / "b" / "vm.sock")
    assert not site.news()
    (site.top / "old").rename(site.top / "a")
    assert site.news() == {PORT}
    assert site.follow(path)


def test_a_link_on_the_way_is_watched_and_so_is_its_target(site: Site) -> None:
    for name in ("one", "two"):
        (site.top / name).mkdir()
    (site.top / "link").symlink_to("one")
    path = site.top / "link" / "vm.sock"
    assert not site.follow(path)
    bind(site.top / "one" / "vm.sock")
    assert site.news() == {PORT}
    (site.top / "one" / "vm.sock").unlink()
    (site.top / "new").symlink_to("two")
    (site.top / "new").rename(site.top / "link")
    assert site.news() == {PORT}
    assert not site.follow(path)
    bind(site.top / "one" / "vm.sock")
    assert not site.news()
    bind(site.top / "two" / "vm.sock")
    assert site.news() == {PORT}


def test_a_link_to_nowhere_is_waited_for_at_its_target(site: Site) -> None:
    (site.top / "link").symlink_to(site.top / "there")
    assert not site.follow(site.top / "link" / "vm.sock")
    (site.top / "there").mkdir()
    assert site.news() == {PORT}


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.unlink(),
        lambda path: path.chmod(0o600),
        lambda path: (path.with_name("new").touch(), path.with_name("new").rename(path)),
    ],
    ids=["removed", "opened", "replaced"],
)
def test_a_file_in_the_place_is_watched_as_well(
    site: Site, change: Callable[[Path], object]
) -> None:
    path = site.top / "vm.sock"
    path.touch()
    assert site.follow(path)
    assert not site.news()
    change(path)
    assert site.news() == {PORT}


def test_a_file_instead_of_a_directory_is_watched(site: Site) -> None:
    (site.top / "a").touch()
    assert not site.follow(site.top / "a" / "vm.sock")
    assert not site.ways.refusals
    (site.top / "a").unlink()
    assert site.news() == {PORT}


def test_nothing_is_left_of_ways_that_nobody_waits_on(site: Site) -> None:
    (site.top / "a").mkdir()
    assert not site.follow(site.top / "a" / "1.sock")
    before = site.watches()
    assert not site.follow(site.top / "a" / "2.sock", "vhu1")
    assert site.watches() == before  # a directory has one watch, whoever waits
    site.ways.forget(PORT)
    assert site.watches() == before
    bind(site.top / "a" / "1.sock")
    bind(site.top / "a" / "2.sock")
    assert site.news() == {"vhu1"}
    shutil.rmtree(site.top / "a")
    assert site.news() == {"vhu1"}
    site.ways.forget("vhu1")
    site.ways.forget("vhu1")
    assert site.watches() == 0 and not site.wakes()
    assert not any((site.ways._ports_of, site.ways._names_in, site.ways._ports_at))


def test_when_news_was_lost_all_have_news(site: Site) -> None:
    assert not site.follow(site.top / "a.sock")
    assert not site.follow(site.top / "b.sock", "vhu1")
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    names = site.top / "x", site.top / "y"
    names[0].touch()
    for number in range(limit // 2 + 2):
        names[number % 2].rename(names[1 - number % 2])
    assert site.news() == {PORT, "vhu1"}
    assert not site.news()
    bind(site.top / "a.sock")
    assert site.news() == {PORT}


def test_who_changes_names_without_end_wakes_the_loop_so_often(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever mounts something on this machine meanwhile would be counted as well.
    monkeypatch.setattr(site.ways._mounts, "changed", set)
    monkeypatch.setattr(site.ways._mounts, "wait", lambda _: None)
    assert not site.follow(site.top / "a.sock")
    told = 0
    for _ in range(300):
        (site.top / "a.sock").touch()
        (site.top / "a.sock").unlink()
        told += bool(site.ways.changed(site.now))
    assert told == waywatch._READS_AT_ONCE
    at = site.ways.get_timer()
    assert at is not None and site.now < at <= site.now + 0.05
    assert not site.wakes()
    assert site.ways.changed(at + 0.001) == {PORT}
    assert site.ways.get_timer() is None


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "max_user_watches"), (errno.EACCES, "see inotify")],
)
def test_a_watch_that_the_kernel_refuses_is_named_and_made_later(
    site: Site, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Inotify, "add_watch", refuse)
        assert not site.follow(site.top / "a.sock")
    assert advice in site.ways.refusals[PORT]
    assert not site.follow(site.top / "a.sock")
    assert not site.ways.refusals
    bind(site.top / "a.sock")
    assert site.news() == {PORT}


def test_an_instance_that_the_kernel_refuses_is_named_and_made_later(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(waywatch, "Inotify", refuse)
        assert not site.follow(site.top / "a.sock")
        assert not site.news()
    assert site.ways.refusals[PORT] == (
        "inotify: Too many open files; raise fs.inotify.max_user_instances"
    )
    assert not site.follow(site.top / "a.sock")
    assert not site.ways.refusals
    bind(site.top / "a.sock")
    assert site.news() == {PORT}


_IN_A_NAMESPACE = """
import sys
from pathlib import Path
from ovs_vhost_plugin.common import process
from unit.daemon.sockets.test_waywatch import Site, bind

top = Path(sys.argv[1])
process.unshare(process.NEW_MOUNT)
process.mount("none", "/", None, process.MS_REC | process.MS_PRIVATE)
site = Site(top)
place = top / "with space" / "vm.sock"
place.parent.mkdir()
(top / "other").mkdir()
assert not site.follow(place)
process.mount("none", str(top / "other"), "tmpfs", 0, "")
assert not site.news()
process.mount("none", str(place.parent), "tmpfs", 0, "")
assert site.news() == {"vhu0"}
assert not site.follow(place)
bind(place)
assert site.news() == {"vhu0"}
assert site.follow(place)
process.unmount(str(place.parent), process.MNT_DETACH)
assert site.news() == {"vhu0"}
assert not site.follow(place)
print("done")
"""


def test_mounts_on_the_way_are_told(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("it takes root to mount")
    path = os.pathsep.join([str(TOP), str(TOP / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", _IN_A_NAMESPACE, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr
