# SPDX-License-Identifier: Apache-2.0
"""A private host: a namespace with a switch of its own and our daemon on it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ovs_vhost_plugin.common.dirs import PROGRAM, StateDir
from ovs_vhost_plugin.lab.hosts.namespace import Namespace, end_workers
from ovs_vhost_plugin.lab.hosts.switch import PrivateSwitch
from ovs_vhost_plugin.lab.measure.timeline import Mark
from ovs_vhost_plugin.lab.process import PATIENCE, LabError, Process, wait_until
from ovs_vhost_plugin.lab.setup import Setup

BRIDGE = "br0"
CONFIRMED = "announcement confirmed"
_TRIGGERS = {"send-rarp": "SEND_RARP received", "moved-in": "guest moved in"}

# The first start on a machine compiles the kernels; later ones load them.
_DAEMON_START_SECONDS = 180.0
_WORKER_START_SECONDS = 300.0
_AWAITS_GUEST = ("connecting", "listening")


class Host(Setup):
    """A host named `label`, whose files are in `directory`; its bridge is `br0`.

    `daemon=False` makes one without our daemon; `daemon_options` are added to its command line.
    """

    switch_type: ClassVar[type[PrivateSwitch]] = PrivateSwitch

    def __init__(
        self,
        label: str,
        directory: Path,
        *,
        userspace_tso: bool = False,
        daemon: bool = True,
        daemon_options: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.label = label
        self.directory = directory
        self.namespace = self._make_namespace()
        self.switch = self.switch_type(self.namespace, directory, userspace_tso=userspace_tso)
        self.daemon: Process | None = None
        self.code = Path(__file__).parents[3]
        """The directory whose ovs_vhost_plugin the next daemon runs."""
        self.environment: dict[str, str] = {}
        """More of the next daemon's environment."""
        self._with_daemon = daemon
        self._options = list(daemon_options)

    def _make_namespace(self) -> Namespace:
        return Namespace(self.label)

    def _set_up(self) -> None:
        self._closing.enter_context(self.namespace)
        self._closing.enter_context(self.switch)
        self._closing.callback(end_workers, self.directory)
        self._closing.callback(self.stop_daemon)
        self.switch.add_bridge(BRIDGE)
        if self._with_daemon:
            self.start_daemon()

    @property
    def log(self) -> Path:
        """The daemon's log file."""
        return self.directory / "ovs-vhost.log"

    def launch_daemon(self) -> None:
        """Start the daemon without waiting for it, so that two hosts' daemons start together."""
        path = os.pathsep.join(filter(None, [str(self.code), os.environ.get("PYTHONPATH")]))
        self.daemon = self.namespace.start(
            [
                *(sys.executable, "-P", "-m", "ovs_vhost_plugin", "daemon", self.switch.db),
                f"--pidfile={self.directory}/ovs-vhost.pid",
                f"--log-file={self.log}",
                *self._options,
            ],
            self.directory / "ovs-vhost.out",
            env={**self.switch.env, "PYTHONPATH": path, **self.environment},
        )

    def start_daemon(self) -> None:
        """Start the daemon; returns when it answers."""
        self.launch_daemon()
        self.wait_daemon()

    def wait_daemon(self) -> None:
        """Return when the launched daemon answers."""
        if self.daemon is None:
            raise LabError("the daemon was not started")
        self.daemon.ready(
            lambda: self.switch.answers("ovs-vhost"),
            "ovs-vhost answers on its control socket",
            _DAEMON_START_SECONDS,
            poll=0.05,
        )

    def stop_daemon(self, *, kill: bool = False) -> None:
        """End the daemon, in order or (`kill`) by surprise; workers go on."""
        if self.daemon is not None:
            if kill:
                self.daemon.kill()
            else:
                self.daemon.stop()
        self.daemon = None

    def worker_pid(self, port: str) -> int:
        """The pid of a port's worker, awaited: there is none between two workers."""
        record = self.directory / "ovs-vhost" / f"{port}.pid"

        def recorded() -> list[str] | None:
            with contextlib.suppress(FileNotFoundError):
                return record.read_text().split()[:1]
            return None

        return int(wait_until(recorded, f"{record}")[0])

    def journal(self, socket: Path) -> Path:
        """The journal of the rings of the guest at `socket`."""
        return StateDir(self.directory / PROGRAM).journal(str(socket))

    def appctl(self, *command: str, check: bool = True) -> str:
        """`ovs-appctl -t ovs-vhost COMMAND` on this host's daemon."""
        return self.switch.appctl("ovs-vhost", *command, check=check)

    def add_uplink(self, device: str) -> None:
        """Put an end of a cable on the bridge, as a port with the device's name."""
        self.switch.add_port(BRIDGE, device)

    def add_client_port(
        self, name: str, path: Path | None = None, *settings: str, tag: int | None = None
    ) -> Path:
        """Add a port whose worker connects to `path`, where the guest listens; return the path.

        `settings` are more of the Interface row: `mtu_request=9000`,
        `external_ids:vhost-user-queues=2`, …
        """
        path = path or self.directory / f"{name}.sock"
        server_path = f"options:vhost-server-path={path}"
        self.switch.add_port(BRIDGE, name, server_path, *settings, tag=tag)
        return path

    def add_server_port(
        self, name: str, *settings: str, tag: int | None = None, bridge: str = BRIDGE
    ) -> Path:
        """Add a port whose worker listens; return the path, to which the guest connects."""
        mode = "external_ids:vhost-user-mode=server"
        self.switch.add_port(bridge, name, mode, *settings, tag=tag)
        return self.directory / name

    def delete_port(self, name: str) -> None:
        """Remove a port."""
        self.switch.vsctl("del-port", name)

    def status(self, name: str) -> dict[str, str]:
        """The daemon's status of a port: external_ids without their `vhost-user-`."""
        prefix = "vhost-user-"
        keys = self.switch.vsctl("--bare", "get", "Interface", name, "external_ids")
        pairs = (entry.strip().partition("=") for entry in keys.strip("{}").split(", "))
        return {
            key.strip('"').removeprefix(prefix): value.strip('"')
            for key, _, value in pairs
            if key.strip('"').startswith(prefix)
        }

    def wait_status(self, name: str, status: str) -> None:
        """Return when the daemon has published this `status` for a port.

        A port that awaits its guest may first have awaited the kernels of its worker.
        """
        seconds = _WORKER_START_SECONDS if status in _AWAITS_GUEST else PATIENCE
        condition = f"external_ids:vhost-user-status={status}"
        try:
            self.switch.wait_until("Interface", name, condition, seconds=seconds)
        except LabError as error:
            words = self.log.read_text().splitlines()[-8:] if self.log.exists() else []
            report = "\n".join([f"{name}: not {status}, but {self.status(name)}", *words])
            raise LabError(report) from error

    def capture_device(self, name: str) -> str:
        """The device on which a port's frames can be captured: its tap."""
        return name

    def overruns(self, name: str) -> int:
        """The number of frames dropped at the port's full tap, whose guest is slow."""
        return self.namespace.dropped(name)

    def wait_ready(self, name: str) -> None:
        """Return when the port waits for its guest, with compiled kernels."""
        self.wait_status(name, "connecting")

    def wait_started(self, name: str) -> None:
        """Return when the port has a worker with compiled kernels; its guest may be there too."""
        started = (*_AWAITS_GUEST, "running")
        wait_until(
            lambda: self.status(name).get("status") in started,
            f"{name} to be started",
            _WORKER_START_SECONDS,
        )

    def wait_running(self, name: str) -> None:
        """Return when the port's rings run."""
        self.wait_status(name, "running")

    def announcing(self, since: float, tag: int = 0) -> list[Mark]:
        """The daemon's first announcement with this tag that was requested since then."""
        ours = (a for a in self.announcements() if a["received_at"] >= since and a["vlan"] == tag)
        first = min(ours, key=lambda a: float(a["received_at"]), default={})
        trigger = _TRIGGERS.get(first.get("trigger", ""), "announcement asked for")
        steps = {"received_at": trigger, "sent_at": "packet-out sent", "learned_at": CONFIRMED}
        where = f"host {self.label}, daemon"
        return [Mark(first[key], step, where) for key, step in steps.items() if first.get(key)]

    def has_carrier(self, name: str) -> bool:
        """Whether the kernel lets frames into a port's tap, a moment after its carrier is up.

        The link's state follows the carrier, under the lock under which it is read here
        (linkwatch_do_dev in net/core/link_watch.c).
        """
        shown = self.namespace.run("ip", "link", "show", "dev", name)
        return "LOWER_UP" in shown and " state UP " in shown

    def wait_carrier(self, name: str) -> None:
        """Return when `has_carrier` is true."""
        wait_until(lambda: self.has_carrier(name), f"{name}: the carrier")

    def stats(self, name: str) -> dict[str, Any]:
        """The daemon's statistics of a port."""
        answer = json.loads(self.appctl("vhost/stats", name, "--format", "json"))
        stats: dict[str, Any] = answer["ports"][name]
        return stats

    def announcements(self) -> list[dict[str, Any]]:
        """The announcements that ended, oldest first; times in CLOCK_MONOTONIC seconds."""
        answer = json.loads(self.appctl("vhost/announce-log", "--format", "json"))
        announcements: list[dict[str, Any]] = answer["announcements"]
        return announcements

    def wait_ofport(self, name: str, seconds: float = PATIENCE) -> int:
        """The OpenFlow port number, when the switch has opened the port's tap."""
        self.switch.wait_until("Interface", name, "ofport>=1", seconds=seconds)
        return int(self.switch.interface(name, "ofport"))
