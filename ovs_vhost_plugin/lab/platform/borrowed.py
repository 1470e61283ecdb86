# SPDX-License-Identifier: Apache-2.0
"""Settings that a root of another release takes from this machine, to reach the same networks.

These are the ways by which apt and pip get packages (proxies, certificates, passwords, indexes),
and by which names are resolved.  Needs nothing but Python itself, as it runs before there is a
virtual environment.
"""

from __future__ import annotations

import configparser
import filecmp
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

_FILES = ("/etc/hosts", "/etc/resolv.conf", "/etc/apt/auth.conf")
_DIRECTORIES = ("/etc/apt/auth.conf.d", "/etc/ssl/certs", "/usr/local/share/ca-certificates")
_APT = "/etc/apt/apt.conf.d/00-of-the-machine"
_NOT_OF_A_RELEASE = tuple(
    f"Acquire::{name}"
    for name in ("IndexTargets", "Changelogs", "CompressionTypes", "Languages", "cdrom")
)
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_DROPPED = (
    *("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "TMPDIR"),
    *("XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "PIP_CACHE_DIR"),
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """The environment for programs in a root: this machine's, without paths missing there."""
    kept = {name: value for name, value in own.items() if name not in _DROPPED}
    return {**kept, "PATH": _PATH, "HOME": os.fspath(_home(own)), "LC_ALL": "C.UTF-8"}


def copy_settings(root: Path, own: Mapping[str, str] = os.environ) -> list[Path]:
    """Copy this machine's settings into the root; return the directories that they name.

    Such directories (of wheels, say) may be large, so they are to be mounted.
    """
    settings = pip_settings(own)
    home = _home(own)
    _inside(root, home).mkdir(parents=True, exist_ok=True)
    directories = (path for name in _DIRECTORIES for path in Path(name).rglob("*"))
    for path in (*map(Path, _FILES), home / ".netrc", *settings, *directories):
        _copy(path, root)
    dumped = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True)
    _inside(root, Path(_APT)).write_text("\n".join(acquire_settings(dumped.stdout)) + "\n")
    named = dict.fromkeys(named_paths([*_words(settings), *_values(own)]))
    for path in named:
        _copy(path, root)
    return [path for path in named if path.is_dir() and str(path) not in _DIRECTORIES]


def acquire_settings(dump: str) -> Iterator[str]:
    """The lines of `apt-config dump` about fetching packages, for any release."""
    for line in dump.splitlines():
        wanted = line.startswith(("Acquire::", "APT::Sandbox::"))
        if wanted and not line.startswith(_NOT_OF_A_RELEASE):
            yield line


def pip_settings(own: Mapping[str, str]) -> list[Path]:
    """The existing files of pip's settings, in the places where pip looks for them."""
    home = _home(own)
    configuration = Path(own.get("XDG_CONFIG_HOME") or home / ".config")
    system = (own.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    places = [
        *(Path(directory, "pip/pip.conf") for directory in system),
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        configuration / "pip/pip.conf",
        *(Path(own[name]) for name in ("PIP_CONFIG_FILE",) if own.get(name)),
    ]
    return [path for path in places if path.is_file()]


def named_paths(words: Iterable[str]) -> Iterator[Path]:
    """The files and directories of this machine among the words of settings.

    An index (file:///somewhere/simple) leads to files beside it, so its parent is taken.
    """
    for word in words:
        url = urlsplit(word)
        path = Path(unquote(url.path) if url.scheme == "file" else word)
        if path.is_absolute() and path.exists():
            index = path.is_dir() and path.name == "simple" and path.parent != Path("/")
            yield path.parent if index else path


def _words(settings: Iterable[Path]) -> Iterator[str]:
    for path in settings:
        parser = configparser.RawConfigParser()
        parser.read(path)
        for section in parser.sections():
            for value in dict(parser.items(section)).values():
                yield from value.split()


def _values(own: Mapping[str, str]) -> Iterator[str]:
    for name, value in own.items():
        if (name.startswith("PIP_") and name not in _DROPPED) or name in _CERTIFICATES:
            yield from value.split()


def _home(own: Mapping[str, str]) -> Path:
    return Path(own.get("HOME") or "/root")


def _copy(path: Path, root: Path) -> None:
    """Copy a file, also one that a link leads to; anything else is left."""
    if not path.is_file():
        return
    target = _inside(root, path)
    # A link there (resolv.conf, certificates) may lead out of the root: it is replaced.
    if target.is_symlink() or not target.exists() or not filecmp.cmp(path, target, shallow=False):
        target.parent.mkdir(parents=True, exist_ok=True)
        copied = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copy(path, copied)
        copied.replace(target)


def _inside(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")
