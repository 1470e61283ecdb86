# SPDX-License-Identifier: Apache-2.0
"""A directory is trusted when nobody else decides what is in it: not on the way to it either."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ovs_vhost_plugin.common.trusted import DistrustError, check_directory, check_files

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
NOBODY = 65534


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two directories below pytest's own, which is in /tmp: a sticky one."""
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True, mode=0o700)
    (deep / "file").write_text("ours")
    deep.chmod(0o700)
    deep.parent.chmod(0o755)
    return deep


def _refused(path: Path, check: Callable[[Path], None] = check_directory) -> str:
    with pytest.raises(DistrustError) as caught:
        check(path)
    return str(caught.value)


def test_what_is_ours_alone_is_trusted(place: Path) -> None:
    check_directory(place)
    check_files(place)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o775, 0o1777])
def test_who_else_may_write_it(place: Path, mode: int) -> None:
    place.chmod(mode)
    assert "may be written by others" in _refused(place)


@pytest.mark.parametrize("mode", [0o775, 0o777])
def test_who_else_may_rename_it(place: Path, mode: int) -> None:
    place.parent.chmod(mode)
    assert f"{place.parent} may be written" in _refused(place)
    # Sticky, as /tmp is: what is ours stays ours.
    place.parent.chmod(mode | 0o1000)
    check_directory(place)


@AS_ROOT
@pytest.mark.parametrize("which", ["a", "a/b"])
def test_whose_it_is(place: Path, which: str) -> None:
    os.chown(place.parents[1] / which, NOBODY, -1)
    assert f"belongs to user {NOBODY}" in _refused(place)


def test_links_are_followed_where_they_lead(place: Path) -> None:
    link = place.parent / "link"
    link.symlink_to("b")
    check_directory(link)
    link.unlink()
    link.symlink_to(place)
    check_directory(link / ".." / "link")
    place.chmod(0o777)
    assert f"{place} may be written" in _refused(link)


@AS_ROOT
def test_whose_a_link_is(place: Path) -> None:
    link = place.parent / "link"
    link.symlink_to("b")
    os.chown(link, NOBODY, -1, follow_symlinks=False)
    assert f"{link} belongs to user" in _refused(link)


def test_links_without_end(place: Path) -> None:
    (place / "x").symlink_to("x")
    assert "too many links" in _refused(place / "x")


def test_what_is_not_there(place: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check_directory(place / "none")
    with pytest.raises(NotADirectoryError):
        check_directory(place / "file")


def test_a_file_that_others_may_write(place: Path) -> None:
    (place / "c").mkdir(mode=0o700)
    (place / "c" / "deep").write_text("")
    check_files(place)
    (place / "c" / "deep").chmod(0o666)
    assert "deep may be written by others" in _refused(place, check_files)


@AS_ROOT
def test_a_file_of_somebody_else(place: Path) -> None:
    os.chown(place / "file", NOBODY, -1)
    assert "file belongs to user" in _refused(place, check_files)


def test_a_link_among_the_files(place: Path) -> None:
    (place / "link").symlink_to("file")
    assert "link is no plain file" in _refused(place, check_files)
