# SPDX-License-Identifier: Apache-2.0
"""The release of a worker, which an earlier or later daemon may have started: what it understands.

A worker may lie of its release, and is sent no more for that than it could be sent anyway.
"""

from dataclasses import fields
from typing import Any

from ovs_vhost_plugin.ipc import commands
from ovs_vhost_plugin.ipc.codec import MessageError, codec_of
from ovs_vhost_plugin.ipc.commands import (
    KNOWN,
    KNOWN_AT_FIRST,
    OLDEST,
    PROTOCOL,
    Command,
    Configure,
)
from ovs_vhost_plugin.ipc.reports import WorkerHello
from ovs_vhost_plugin.ipc.spec import PortSettings, WorkerSpec

_SETTINGS = frozenset(one.name for one in fields(PortSettings))


class WorkerRelease:
    """One worker's. `build` and `protocol` are None until its hello.

    ignored  its reports of kinds that are not known here, which later releases may send
    """

    def __init__(self, *, ours: bool) -> None:
        """`ours`: it is of this daemon's own release."""
        self.version = ""
        self.build: str | None = None
        self.protocol: int | None = None
        self.ignored = 0
        self._commands = frozenset(KNOWN if ours else KNOWN_AT_FIRST)
        self._settings = _SETTINGS

    def met(self, hello: WorkerHello) -> None:
        """Take what the worker says of itself. Raises MessageError if it cannot be served."""
        if hello.protocol < OLDEST or hello.oldest > PROTOCOL:
            told = f"it speaks version {hello.protocol} (to daemons from {hello.oldest} on)"
            raise MessageError(f"{told}, this daemon {OLDEST} to {PROTOCOL}")
        self.version, self.build, self.protocol = hello.version, hello.build, hello.protocol
        self._commands = frozenset(hello.commands)

    def has_settings(self, said: dict[str, Any]) -> None:
        """Note the settings in the hello `said`, which was checked: the worker has these."""
        self._settings = _SETTINGS & said["spec"]["settings"].keys()

    def knows(self, command: type[Command]) -> bool:
        """Whether the worker knows a command."""
        return command.WIRE_NAME in self._commands

    def encode(self, command: Command) -> dict[str, Any]:
        """A command as the worker takes it: of version 2, with exactly the settings it has."""
        packet = commands.encode(command)
        if isinstance(command, Configure):
            packet["settings"] = {
                k: v for k, v in packet["settings"].items() if k in self._settings
            }
        return packet


def changed_settings(before: WorkerSpec | None, after: WorkerSpec) -> str:
    """The settings of a worker that differ, for the log."""
    codec = codec_of(PortSettings)
    had = {} if before is None else codec.encode(before.settings)
    new = codec.encode(after.settings).items() - had.items()
    return ", ".join(f"{name} {value}" for name, value in sorted(new))
