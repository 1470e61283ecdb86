# SPDX-License-Identifier: Apache-2.0
"""inotify by the real kernel: what happens to a name is told, whole and once."""

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovs_vhost_plugin.daemon.sockets import inotify
from ovs_vhost_plugin.daemon.sockets.inotify import Inotify, InotifyEvent

NAMES = inotify.CREATE | inotify.DELETE | inotify.MOVED_FROM | inotify.MOVED_TO


@pytest.fixture
def watcher() -> Iterator[Inotify]:
    made = Inotify()
    yield made
    made.close()


def test_each_change_of_a_name_is_an_event_in_order(watcher: Inotify, tmp_path: Path) -> None:
    watch = watcher.add_watch(str(tmp_path), NAMES)
    (tmp_path / "a").touch()
    (tmp_path / "a").rename(tmp_path / ("b" * 255))
    (tmp_path / ("b" * 255)).unlink()
    assert watcher.read() == [
        InotifyEvent(watch, inotify.CREATE, "a"),
        InotifyEvent(watch, inotify.MOVED_FROM, "a"),
        InotifyEvent(watch, inotify.MOVED_TO, "b" * 255),
        InotifyEvent(watch, inotify.DELETE, "b" * 255),
    ]
    assert watcher.read() == []


def test_a_name_is_any_bytes(watcher: Inotify, tmp_path: Path) -> None:
    watcher.add_watch(str(tmp_path), NAMES)
    name = os.fsdecode(b"\xff\n\xc3\xa9")
    (tmp_path / name).touch()
    assert [event.name for event in watcher.read()] == [name]


def test_a_directory_has_one_watch_whose_end_is_told(watcher: Inotify, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    watch = watcher.add_watch(str(here), NAMES)
    assert watcher.add_watch(f"{here}/.", NAMES) == watch
    here.rmdir()
    assert watcher.read() == [InotifyEvent(watch, inotify.IGNORED, "")]
    with pytest.raises(OSError, match="inotify_rm_watch"):
        watcher.rm_watch(watch)


def test_what_is_removed_is_watched_no_more(watcher: Inotify, tmp_path: Path) -> None:
    watch = watcher.add_watch(str(tmp_path), NAMES)
    watcher.rm_watch(watch)
    (tmp_path / "a").touch()
    assert watcher.read() == [InotifyEvent(watch, inotify.IGNORED, "")]


def test_a_file_is_no_directory(watcher: Inotify, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(NotADirectoryError):
        watcher.add_watch(str(tmp_path / "a"), NAMES | inotify.ONLYDIR)


def test_the_fd_is_readable_when_there_is_something(watcher: Inotify, tmp_path: Path) -> None:
    watcher.add_watch(str(tmp_path), NAMES)
    assert select.select([watcher], [], [], 0)[0] == []
    (tmp_path / "a").touch()
    assert select.select([watcher], [], [], 0)[0] == [watcher]
    assert not os.get_inheritable(watcher.fileno())
