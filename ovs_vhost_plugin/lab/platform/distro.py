# SPDX-License-Identifier: Apache-2.0
"""Run a command on another release of the distribution: `make test DISTRO=trixie` is this.

    python3 -m ovs_vhost_plugin.lab.platform.distro trixie make test
    python3 -m ovs_vhost_plugin.lab.platform.distro trixie qemu-system-x86_64 --version

debootstrap makes a base of that release in `.cache/roots`, once; the root is a copy of it with the
lab's packages.  A command runs in it with the machine's own kernel, devices, network and /tmp, and
with this checkout at its usual path; the checkout's `.cache` and `.venv` are that release's own.
All mounts are in the command's own mount namespace: no mount is left, however the command ends.

The command takes the place of this program, so signals, open files and the exit status are its own:
QEMU of another release can be started by this where the machine's QEMU would be (`command`).

Needs nothing but Python itself, as it runs before there is a virtual environment.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovs_vhost_plugin.lab.platform import borrowed, mirrors, packages

CHECKOUT = Path(__file__).resolve().parents[3]
MIRROR = "MIRROR"
"""The environment variable that names a mirror, to be used instead of the machine's own."""

_SCRIPTS = Path("/usr/share/debootstrap/scripts")
_BASE = ("ca-certificates", "git", "make", "python3", "python3-venv")
# Mounts of this machine are seen within; mounts made within are not seen by the machine.
_NAMESPACE = ("unshare", "--mount", "--propagation", "slave")
_STAGES = ("Retrieving", "Extracting", "Unpacking", "Configuring")


class DistroError(Exception):
    """There is no root to run in; the message says why, and what to do."""


@dataclass(frozen=True)
class Mount:
    """A directory of this machine that is seen in the root, at the path `at`."""

    source: Path
    at: Path
    writable: bool = True


@dataclass(frozen=True)
class Root:
    """The directory of one release."""

    directory: Path

    @property
    def base(self) -> Path:
        """The release as debootstrap makes it, with nothing of ours. Nothing runs in it."""
        return self.directory / "base"

    @property
    def root(self) -> Path:
        """The release's root with the lab's packages; it has this name once it is copied."""
        return self.directory / "root"

    @property
    def partial(self) -> Path:
        """A base or root that is being made, or whose making was interrupted."""
        return self.directory / "root.partial"

    @property
    def packages(self) -> Path:
        """The file with the list of packages that the root was filled with."""
        return self.directory / "packages"

    @property
    def complete(self) -> bool:
        """Whether the root is whole and has all packages of today's list."""
        return self.root.is_dir() and _text(self.packages) == _package_list()


def place(release: str) -> Root:
    """The place of a release, which may be empty."""
    return Root(CHECKOUT / ".cache" / "roots" / release)


def command(release: str, *argv: str) -> list[str]:
    """The command that runs `argv` on another release.  Makes its root first if incomplete."""
    return [sys.executable, "-m", __name__, release, *argv]


def prepare(release: str) -> tuple[Root, list[Mount]]:
    """Make the release's root with all packages if need be; return it and its mounts."""
    there = _reach(release)
    with _alone(there.directory / "lock"):
        if not there.root.is_dir():
            if not there.base.is_dir():
                _debootstrap(release, there)
            there.packages.unlink(missing_ok=True)
            _copy(there.base, there.partial)
            there.partial.rename(there.root)
        mounts = _mounts(there, borrowed.copy_settings(there.root))
        if not there.complete:
            _say(f"{release}: installing packages; the first time that takes some minutes")
            program = ["python3", packages.__file__, "install"]
            done = subprocess.run(
                entry(there.root, mounts, CHECKOUT, program),
                env=borrowed.environment(os.environ),
                stdout=sys.stderr,
                check=False,
            )
            if done.returncode:
                raise DistroError(f"{release}: its packages could not be installed, see above")
            there.packages.write_text(_package_list())
    return there, mounts


def fresh(release: str, root: Path) -> list[Mount]:
    """Make `root` a fresh machine of the release, which reaches this one's networks.

    Returns the mounts that a command in it needs (`entry`); nothing of this checkout is among them.
    """
    there = _reach(release)
    with _alone(there.directory / "lock"):
        if not there.base.is_dir():
            _debootstrap(release, there)
    _copy(there.base, root)
    return [*_machine(), *_readable(borrowed.copy_settings(root))]


def _reach(release: str) -> Root:
    if os.geteuid() != 0:
        raise DistroError("needs root, to make and enter a root of another release; try sudo")
    known(release)
    there = place(release)
    there.directory.mkdir(parents=True, exist_ok=True)
    return there


def known(release: str) -> None:
    """Raise DistroError unless debootstrap is here and knows the release."""
    packages.install(packages.RELEASES)
    releases = sorted(path.name for path in _SCRIPTS.iterdir() if path.is_file())
    if release not in releases:
        near = difflib.get_close_matches(release, releases) or ["trixie", "bookworm"]
        raise DistroError(
            f"{release}: debootstrap knows no such release; did you mean {' or '.join(near)}? "
            f"All that it knows are in {_SCRIPTS}"
        )


def entry(root: Path, mounts: Sequence[Mount], directory: Path, argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` in the root: in a mount namespace, with the mounts made.

    It uses pivot_root and not chroot: programs that make namespaces themselves need a true root.
    """
    steps = [f"mount --rbind {_quoted(root)} {_quoted(root)}"]
    for mount in mounts:
        at = _quoted(root / mount.at.relative_to("/"))
        steps.append(f"mkdir -p {at}")
        steps.append(f"mount --rbind {_quoted(mount.source)} {at}")
        if not mount.writable:
            steps.append(f"mount -o remount,bind,ro {at}")
    steps += [
        f"cd {_quoted(root)}",
        # /run has the names of network namespaces and daemons' sockets: each command has its own.
        "mount -t tmpfs -o mode=755 tmpfs run",
        "mkdir run/lock",
        "pivot_root . .",
        "umount -l .",
        f"cd {_quoted(directory)}",
        'exec "$@"',
    ]
    script = " &&\n".join(steps)
    return [*_NAMESPACE, "sh", "-c", script, "sh", *argv]


def _mounts(there: Root, named: Sequence[Path]) -> list[Mount]:
    """The parts of this machine that a command sees; later mounts lie over earlier ones."""
    for name in ("cache", "venv"):
        (there.directory / name).mkdir(exist_ok=True)
        (CHECKOUT / f".{name}").mkdir(exist_ok=True)
    return [
        *_machine(),
        *_readable(named),
        *(Mount(path, path) for path in (CHECKOUT, *_git_directory())),
        *(Mount(there.directory / name, CHECKOUT / f".{name}") for name in ("cache", "venv")),
    ]


def _machine() -> list[Mount]:
    return [Mount(path, path) for path in map(Path, ("/proc", "/sys", "/dev", "/tmp"))]


def _readable(named: Sequence[Path]) -> list[Mount]:
    return [Mount(path, path, writable=False) for path in named]


def _git_directory() -> list[Path]:
    """The directory of this checkout's git data, if it is outside (git worktree)."""
    pointer = CHECKOUT / ".git"
    if not pointer.is_file():
        return []
    own = Path(pointer.read_text().removeprefix("gitdir:").strip())
    common = own / (_text(own / "commondir") or ".").strip()
    return [common.resolve()] if common.is_dir() else []


def _debootstrap(release: str, there: Root) -> None:
    """Make the base; remains of an interrupted run are removed, but not its downloads."""
    sources = _sources(release)
    shutil.rmtree(there.partial, ignore_errors=True)
    downloads = there.directory / "downloads"
    downloads.mkdir(exist_ok=True)
    _say(f"{release}: making a base in {there.base}, once; that takes a minute or two")
    argv = [
        *_NAMESPACE,
        *("debootstrap", "--variant=minbase", f"--include={','.join(_BASE)}"),
        *(f"--components={','.join(sources[0].components)}", f"--cache-dir={downloads}"),
        *(release, str(there.partial), sources[0].uri),
    ]
    log = there.directory / "debootstrap.log"
    if _logged(argv, log):
        raise DistroError(
            f"{release}: debootstrap failed:\n{_tail(log)}\n(all of it: {log})\n"
            f"If it is the mirror that has no such release: {MIRROR}=URL names another one."
        )
    listed = "".join(f"{source}\n" for source in sources)
    (there.partial / "etc/apt/sources.list").write_text(listed)
    there.partial.rename(there.base)
    shutil.rmtree(downloads, ignore_errors=True)


def _copy(base: Path, to: Path) -> None:
    """Copy a whole system: owners, links and holes as they are."""
    shutil.rmtree(to, ignore_errors=True)
    to.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--archive", "--reflink=auto", str(base), str(to)], check=True)


def _sources(release: str) -> list[mirrors.PackageSource]:
    named = os.environ.get(MIRROR)
    if named:
        return [mirrors.PackageSource(named, release, ("main",))]
    own = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    try:
        return mirrors.of_release(mirrors.configured(), own, release)
    except (mirrors.NoMirrorError, subprocess.CalledProcessError, OSError) as error:
        raise DistroError(f"{error}; {MIRROR}=URL names one") from error


def _logged(argv: Sequence[str], log: Path) -> int:
    """Run a program with its output in a file, and show the stages that it reaches."""
    stage = None
    with (
        log.open("w") as sink,
        subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as running,
    ):
        assert running.stdout is not None
        for line in running.stdout:
            sink.write(line)
            began = next((name for name in _STAGES if line.startswith(f"I: {name}")), stage)
            if began != stage:
                stage = began
                _say(f"  {line.removeprefix('I: ').strip()} …")
        return running.wait()


def _tail(log: Path, lines: int = 12) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Lock: one program at a time makes and fills a root, the others wait."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"another command is preparing {path.parent.name}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _package_list() -> str:
    return hashlib.sha256(Path(packages.__file__).read_bytes()).hexdigest()


def _text(path: Path) -> str | None:
    """A file's text, or None if it is missing: only reading it tells."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _directory(mounts: Sequence[Mount]) -> Path:
    """The directory in which a command starts: the current one, if the root has it."""
    here = Path.cwd()
    return here if any(here.is_relative_to(mount.at) for mount in mounts) else CHECKOUT


def main(arguments: Sequence[str]) -> int:
    """RELEASE COMMAND…: becomes the command, or returns an exit status."""
    if len(arguments) < 2 or arguments[0].startswith("-"):
        _say("usage: python3 -m ovs_vhost_plugin.lab.platform.distro RELEASE COMMAND…")
        return 2
    release, *argv = arguments
    try:
        there, mounts = prepare(release)
    except KeyboardInterrupt:
        _say(f"{release}: interrupted; the next run goes on")
        return 130
    except (DistroError, OSError, subprocess.CalledProcessError) as error:
        _say(f"distro: {error}")
        return 1
    line = entry(there.root, mounts, _directory(mounts), argv)
    return os.execvpe(line[0], line, borrowed.environment(os.environ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
