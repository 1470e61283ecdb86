# SPDX-License-Identifier: Apache-2.0
"""Checks whether another user can have written a directory's contents.

Files that root reads and acts on are as safe as the weakest directory on their path: a user who may
rename one component can replace all below it. So each component is checked, links included. Once
all of them are ours, nobody else can change that, so no race lies between check and use.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_MOST_LINKS = 40  # MAXSYMLINKS, linux/namei.h


class DistrustError(Exception):
    """Somebody else may have written there; the text has the place and a remedy."""


def check_directory(path: Path) -> None:
    """Check that only root, or the user that runs us, can change the directory `path`.

    Each component of the absolute path must belong to one of them, and nobody else may write to it.
    In a sticky directory such as /tmp anybody may add files, but not replace ours (inode(7)): that
    will do for a component, not for the directory itself. Writing by the group counts as writing by
    others, whoever is in the group; an ACL that lets somebody write shows in the group's bits
    (acl(5)).

    DistrustError, or OSError where there is no such directory.
    """
    at, left = Path("/"), list(reversed(path.absolute().parts[1:]))
    links = 0
    _check(at, at.lstat(), sticky_does=bool(left))
    while left:
        part = left.pop()
        if part == "..":
            at = at.parent
            continue
        found = (at / part).lstat()
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise DistrustError(f"{path}: too many links")
            _check_owner(at / part, found)
            target = (at / part).readlink()
            at = Path("/") if target.is_absolute() else at
            left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            continue
        at /= part
        _check(at, found, sticky_does=bool(left))


def check_files(directory: Path) -> None:
    """Check that all in a checked directory is ours as well: plain files and directories.

    A file may be older than the directory's mode, or have been left open to writing. A file that
    vanishes meanwhile was removed by us. DistrustError.
    """
    with contextlib.suppress(FileNotFoundError):
        for path in directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                _check_file(path, path.lstat())


def _check_file(path: Path, found: os.stat_result) -> None:
    directory = stat.S_ISDIR(found.st_mode)
    if not directory and not stat.S_ISREG(found.st_mode):
        raise DistrustError(f"{path} is no plain file; remove it")
    _check_owner(path, found)
    _check_mode(path, found)
    if directory:
        check_files(path)


def _check(path: Path, found: os.stat_result, *, sticky_does: bool) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(path))
    _check_owner(path, found)
    if not (sticky_does and found.st_mode & stat.S_ISVTX):
        _check_mode(path, found)


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise DistrustError(f"{path} belongs to user {found.st_uid}; use a directory of root's")


def _check_mode(path: Path, found: os.stat_result) -> None:
    if found.st_mode & _OTHERS_WRITE:
        mode = stat.S_IMODE(found.st_mode)
        raise DistrustError(f"{path} may be written by others (mode {mode:04o}); chmod go-w it")
