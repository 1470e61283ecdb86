# SPDX-License-Identifier: Apache-2.0
"""A private Open vSwitch: database and switch of its own, in a namespace and a directory.

It runs the installed programs unchanged.  Its bridges use the userspace datapath
(datapath_type=netdev), which works without the kernel's module and cannot meet a datapath of the
machine's own.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.hosts.namespace import Namespace
from ovs_vhost_plugin.lab.process import PATIENCE, LabError, Process
from ovs_vhost_plugin.lab.setup import Setup

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")

# unix(7): sun_path takes 108 bytes with its terminator; the longest name we add is a worker's.
_LONGEST_DIRECTORY = 70


class PrivateSwitch(Setup):
    """ovsdb-server and ovs-vswitchd in `namespace`, with everything they write in `directory`.

    `userspace_tso` sets other_config:userspace-tso-enable, which the switch reads at its start.
    `program` may name another build of ovs-vswitchd, `other_config` more of its settings.
    """

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        *,
        userspace_tso: bool = False,
        program: str = "ovs-vswitchd",
        other_config: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if len(os.fsencode(directory)) > _LONGEST_DIRECTORY:
            raise LabError(f"{directory}: too long for the names of sockets in it")
        self.namespace = namespace
        self.directory = directory
        self.db = f"unix:{directory}/db.sock"
        self.env = {
            variable: str(directory)
            for variable in ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")
        }
        self.server: Process | None = None
        self.vswitchd: Process | None = None
        self._program = program
        self._other_config = list(other_config)
        if userspace_tso:
            self._other_config.append("userspace-tso-enable=true")

    def _set_up(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._closing.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self._closing.callback(self.stop)
        process.run(["ovsdb-tool", "create", str(self.database), str(SCHEMA)])
        self.start_server()
        self.vsctl("--no-wait", "init")
        # As ovs-ctl does: other programs find this switch's sockets by it.
        self.vsctl("--no-wait", "set", "Open_vSwitch", ".", f"external_ids:rundir={self.directory}")
        for setting in self._other_config:
            self.vsctl("--no-wait", "set", "Open_vSwitch", ".", f"other_config:{setting}")
        self.start_vswitchd()

    @property
    def database(self) -> Path:
        """The file of the database."""
        return self.directory / "conf.db"

    def start_server(self) -> None:
        """Start ovsdb-server; returns when it answers."""
        self.server = self._start(
            "ovsdb-server", str(self.database), f"--remote=punix:{self.directory}/db.sock"
        )
        self.server.ready(
            lambda: self.answers("ovsdb-server"), "ovsdb-server answers on its control socket"
        )

    def start_vswitchd(self) -> None:
        """Start ovs-vswitchd; returns when it has taken over the database's configuration."""
        self.vswitchd = self._start(self._program, self.db)
        self.vswitchd.ready(
            lambda: self.answers("ovs-vswitchd"), "ovs-vswitchd answers on its control socket"
        )
        # ovs-vsctl(8) waits for the switch only where it has changed something.
        self.vsctl("set", "Open_vSwitch", ".", f"external_ids:lab={self.vswitchd.pid}")

    def stop(self) -> None:
        """End switch and database, the switch first, as it talks to the database."""
        self.stop_vswitchd()
        self.stop_server()

    def stop_server(self, *, kill: bool = False) -> None:
        """End ovsdb-server, in order or (`kill`) by surprise."""
        _end(self.server, kill)
        self.server = None

    def stop_vswitchd(self, *, kill: bool = False) -> None:
        """End ovs-vswitchd, in order or (`kill`) by surprise."""
        _end(self.vswitchd, kill)
        self.vswitchd = None

    def restart_server(self, *, kill: bool = False) -> None:
        """End and start ovsdb-server; the database is kept."""
        self.stop_server(kill=kill)
        self.start_server()

    def restart_vswitchd(self, *, kill: bool = False) -> None:
        """End and start ovs-vswitchd."""
        self.stop_vswitchd(kill=kill)
        self.start_vswitchd()

    def vsctl(self, *command: str, check: bool = True) -> str:
        """`ovs-vsctl COMMAND` on this database; its output, stripped."""
        argv = ["ovs-vsctl", f"--db={self.db}", f"--timeout={PATIENCE:.0f}", *command]
        return process.run(argv, check=check, seconds=PATIENCE + 5).stdout.strip()

    def wait_until(self, table: str, row: str, *conditions: str, seconds: float = PATIENCE) -> None:
        """Return when a row has these values (`column:key=value`); LabError after `seconds`."""
        argv = ["ovs-vsctl", f"--db={self.db}", f"--timeout={max(1, round(seconds))}"]
        process.run([*argv, "wait-until", table, row, *conditions], seconds=seconds + 5)

    def ofctl(self, *command: str, stdin: str | None = None) -> str:
        """`ovs-ofctl COMMAND` with this switch's directory for the bridges' sockets."""
        return process.run(["ovs-ofctl", *command], env=self.env, stdin=stdin).stdout

    def appctl(self, target: str, *command: str, check: bool = True) -> str:
        """`ovs-appctl` to `target`, a daemon with its pidfile in this directory."""
        return process.run(["ovs-appctl", "-t", target, *command], env=self.env, check=check).stdout

    def add_bridge(self, name: str, **columns: str) -> None:
        """Add a bridge of the userspace datapath, with its local port up."""
        settings = {"datapath_type": "netdev", **columns}
        self.vsctl(
            *("add-br", name, "--", "set", "Bridge", name),
            *(f"{column}={value}" for column, value in settings.items()),
        )
        self.namespace.run("ip", "link", "set", name, "up")

    def add_port(self, bridge: str, name: str, *settings: str, tag: int | None = None) -> None:
        """Add a port; `settings` go to its Interface row (`column:key=value`)."""
        vlan = [] if tag is None else [f"tag={tag}"]
        interface = ["--", "set", "Interface", name, *settings] if settings else []
        self.vsctl("add-port", bridge, name, *vlan, *interface)

    def interface(self, name: str, column: str) -> str:
        """A column of an Interface row as text; `external_ids:key` works too, "" when absent."""
        text = self.vsctl("--if-exists", "get", "Interface", name, column)
        return "" if text == "[]" else text.strip('"')

    def ofport(self, name: str) -> int | None:
        """The OpenFlow port number, once the switch has given a valid one."""
        text = self.interface(name, "ofport")
        return int(text) if text.isdigit() else None

    def fdb(self, bridge: str) -> dict[str, tuple[str, int]]:
        """The MAC table of a bridge: MAC → (port number as shown, VLAN)."""
        return parse_fdb(self.appctl("ovs-vswitchd", "fdb/show", bridge))

    def groups(self, bridge: str) -> dict[str, set[str]]:
        """The multicast groups of a bridge's ports: port number as shown → groups."""
        return parse_mdb(self.appctl("ovs-vswitchd", "mdb/show", bridge))

    def overruns(self) -> int:
        """The number of frames dropped at the switch's full packet sockets (ss(8), -m)."""
        shown = self.namespace.run(
            "ss", "--packet", "--all", "--memory", "--numeric", "--no-header"
        )
        return sum(map(int, re.findall(r"skmem:\(.*?,d(\d+)\)", shown)))

    def _start(self, program: str, *arguments: str) -> Process:
        name = Path(program).name
        return self.namespace.start(
            [
                *(program, *arguments, f"--pidfile={self.directory}/{name}.pid"),
                *("-vconsole:off", f"--log-file={self.directory}/{name}.log"),
            ],
            self.directory / f"{name}.out",
            env=self.env,
        )

    def answers(self, target: str) -> bool:
        """Whether a daemon takes commands on its control socket here."""
        argv = ["ovs-appctl", "-t", target, "version"]
        return process.run(argv, env=self.env, check=False).returncode == 0


def parse_fdb(text: str) -> dict[str, tuple[str, int]]:
    """`fdb/show`'s table ("port VLAN MAC Age" and rows) as MAC → (port, VLAN)."""
    fields = (row.split() for row in text.splitlines()[1:])
    return {mac: (port, int(vlan)) for port, vlan, mac, *_ in fields}


def parse_mdb(text: str) -> dict[str, set[str]]:
    """`mdb/show`'s table as port → groups; Open vSwitch 3.5 has a column more than 3.1."""
    header, *rows = text.splitlines()
    column = header.split().index("GROUP")
    groups: dict[str, set[str]] = {}
    for row in rows:
        words = row.split()
        groups.setdefault(words[0], set()).add(words[column])
    return groups


def _end(running: Process | None, kill: bool) -> None:
    if running is not None:
        if kill:
            running.kill()
        else:
            running.stop()
