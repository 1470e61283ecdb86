# SPDX-License-Identifier: Apache-2.0
"""A control group for all that a test's systemd runs."""

from pathlib import Path

from ovs_vhost_plugin.lab.process import wait_until
from ovs_vhost_plugin.lab.setup import Setup

_IN_GROUP = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


def mounted() -> Path | None:
    """Where the second version of control groups is mounted; None if it is not."""
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return next((Path(at) for _, at, kind, *_ in mounts if kind == "cgroup2"), None)


class Group(Setup):
    """A group of this name, which is gone on exit: its processes must have been ended."""

    def __init__(self, name: str) -> None:
        super().__init__()
        top = mounted()
        assert top is not None
        self._path = top / name

    def _set_up(self) -> None:
        self._path.mkdir()
        self._closing.callback(wait_until, self._remove, f"end of {self._path}")

    def argv(self, *command: str) -> list[str]:
        """The command line that runs `command` in the group, under the same pid."""
        return ["bash", "-c", _IN_GROUP, str(self._path), *command]

    def pids(self) -> list[int]:
        """The processes in the group and in all groups below."""
        lists = [path.read_text() for path in self._path.rglob("cgroup.procs")]
        return sorted(int(word) for text in lists for word in text.split())

    def _remove(self) -> bool:
        groups = sorted(self._path.rglob("*"), key=lambda path: len(path.parts), reverse=True)
        for group in [*(path for path in groups if path.is_dir()), self._path]:
            try:
                group.rmdir()
            except OSError:
                return False
        return True
