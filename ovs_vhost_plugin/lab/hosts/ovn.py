# SPDX-License-Identifier: Apache-2.0
"""A private OVN over private hosts: its databases, ovn-northd, and an ovn-controller on each host.

              NB ── ovn-northd ── SB            (a directory, unix sockets)
                                 ╱  ╲
    host a: ovn-controller ─────╱    ╲───── ovn-controller: host b
            br-int ── Geneve ── br0 ═ up0 … up0 ═ br0 ── Geneve ── br-int

The tunnels are the userspace datapath's own, which needs their local address on a bridge of the
same datapath: each host's `br0` has it.  OVN's programs run unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.hosts.fabric import CLIENT_ADDRESS, CLIENT_MAC, finish_checksums
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.hosts.namespace import Namespace, veth
from ovs_vhost_plugin.lab.process import PATIENCE, LabError, Process
from ovs_vhost_plugin.lab.setup import Setup

INTEGRATION = "br-int"
SWITCH = "net0"
CLIENT = "client"

_TIMEOUT = f"--timeout={PATIENCE:.0f}"
_SYNC_TIMEOUT = f"--timeout={PATIENCE / 3:.0f}"
_SCHEMAS = Path("/usr/share/ovn")


class Ovn(Setup):
    """OVN in `directory`, with the hosts as its chassis, named after their directories.

    There is one logical switch, `net0`.
    """

    def __init__(self, directory: Path, hosts: Sequence[Host]) -> None:
        super().__init__()
        self.directory = directory
        self._hosts = hosts
        self._central = Namespace("ovn")
        self._env = {variable: str(directory) for variable in ("OVS_RUNDIR", "OVN_RUNDIR")}

    def nbctl(self, *command: str) -> str:
        """`ovn-nbctl COMMAND`; returns when every chassis has its flows (`--wait=hv`)."""
        said = self._ask_northbound(_TIMEOUT, *command)
        for last in (False, False, True):
            try:
                self._ask_northbound(_SYNC_TIMEOUT, "--wait=hv", "sync")
                break
            except LabError:  # a chassis that has just come may miss one number, never the next
                if last:
                    raise
        return said

    def _ask_northbound(self, timeout: str, *words: str) -> str:
        argv = ["ovn-nbctl", f"--db={self._socket('nb')}", timeout, *words]
        return process.run(argv, seconds=PATIENCE + 5).stdout.strip()

    def sbctl(self, *command: str) -> str:
        """`ovn-sbctl COMMAND`."""
        argv = ["ovn-sbctl", f"--db={self._socket('sb')}", _TIMEOUT, *command]
        return process.run(argv, seconds=PATIENCE + 5).stdout.strip()

    def wait_binding(self, port: str, *conditions: str) -> None:
        """Return when the Port_Binding of a logical port has these values."""
        self.sbctl("wait-until", "Port_Binding", port, *conditions)

    def add_logical_port(self, name: str, mac: str, address: str, **options: str) -> None:
        """A port of the logical switch."""
        self.nbctl(
            *("lsp-add", SWITCH, name, "--", "lsp-set-addresses", name, f"{mac} {address}"),
            *("--", "lsp-set-port-security", name, f"{mac} {address}"),
        )
        self.set_options(name, **options)

    def set_options(self, name: str, **options: str) -> None:
        """All options of a logical port; `_` in their names stands for `-`."""
        words = (f"{option.replace('_', '-')}={value}" for option, value in options.items())
        self.nbctl("lsp-set-options", name, *words)

    def add_client(self, host: Host) -> Namespace:
        """A namespace on a cable to a logical port that is bound to `host`."""
        client = self._closing.enter_context(Namespace("client"))
        veth(client, "eth0", host.namespace, CLIENT)
        for namespace, device in ((client, "eth0"), (host.namespace, CLIENT)):
            finish_checksums(namespace, device)
        client.run("ip", "link", "set", "eth0", "address", CLIENT_MAC)
        client.address("eth0", f"{CLIENT_ADDRESS}/24")
        self.add_logical_port(CLIENT, CLIENT_MAC, CLIENT_ADDRESS)
        host.switch.add_port(INTEGRATION, CLIENT, f"external_ids:iface-id={CLIENT}")
        self.nbctl("wait-until", "Logical_Switch_Port", CLIENT, "up=true")
        return client

    def chassis(self, name: str) -> str:
        """The row of a chassis, as other rows refer to it."""
        return self.sbctl("get", "Chassis", name, "_uuid")

    def _set_up(self) -> None:
        self.directory.mkdir()
        self._closing.enter_context(self._central)
        for name, database in (("nb", "OVN_Northbound"), ("sb", "OVN_Southbound")):
            self._serve(name, database)
        northd = self._start(
            self._central,
            *("ovn-northd", f"--ovnnb-db={self._socket('nb')}", f"--ovnsb-db={self._socket('sb')}"),
        )
        northd.ready(lambda: self._answers("ovn-northd"), "ovn-northd answers")
        for number, host in enumerate(self._hosts, 1):
            self._add_chassis(host, f"172.31.0.{number}")
        self.nbctl("ls-add", SWITCH)

    def _serve(self, name: str, database: str) -> None:
        file = self.directory / f"{name}.db"
        schema = _SCHEMAS / f"ovn-{name}.ovsschema"
        process.run(["ovsdb-tool", "create", str(file), str(schema)])
        server = self._start(
            self._central,
            *("ovsdb-server", str(file), f"--remote=punix:{self.directory}/{name}.sock"),
            label=f"ovsdb-{name}",
        )
        listed = ["ovsdb-client", "list-dbs", self._socket(name)]
        server.ready(
            lambda: database in process.run(listed, check=False).stdout, f"{database} is served"
        )

    def _add_chassis(self, host: Host, address: str) -> None:
        host.namespace.address(BRIDGE, f"{address}/24")
        settings = {
            "system-id": host.directory.name,
            "ovn-remote": self._socket("sb"),
            "ovn-encap-type": "geneve",
            "ovn-encap-ip": address,
            "ovn-bridge-datapath-type": "netdev",
        }
        host.switch.vsctl(
            *("set", "Open_vSwitch", "."),
            *(f"external_ids:{key}={value}" for key, value in settings.items()),
        )
        controller = self._start(
            host.namespace,
            *("ovn-controller", host.switch.db),
            directory=host.directory,
            env={**host.switch.env, "OVN_RUNDIR": str(host.directory)},
        )
        controller.ready(
            lambda: INTEGRATION in host.switch.vsctl("list-br").split(), "ovn-controller's bridge"
        )

    def _start(
        self,
        namespace: Namespace,
        program: str,
        *arguments: str,
        label: str = "",
        directory: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> Process:
        directory, label = directory or self.directory, label or program
        started = namespace.start(
            [
                *(program, *arguments, f"--pidfile={directory}/{label}.pid"),
                *("-vconsole:off", f"--log-file={directory}/{label}.log"),
            ],
            directory / f"{label}.out",
            env=env or self._env,
        )
        self._closing.callback(started.stop)
        return started

    def _answers(self, label: str) -> bool:
        argv = ["ovn-appctl", "-t", label, "version"]
        return process.run(argv, env=self._env, check=False).returncode == 0

    def _socket(self, name: str) -> str:
        return f"unix:{self.directory}/{name}.sock"
