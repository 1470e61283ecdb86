# SPDX-License-Identifier: Apache-2.0
"""OpenStack's os-vif and ovsdbapp, from PyPI, at work on a private host."""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ovs_vhost_plugin.lab.hosts.host import BRIDGE
from ovs_vhost_plugin.lab.process import run

_PLACE = Path(sys.prefix) / "openstack"
_PROGRAM = Path(__file__).with_name("openstack_program.py")


def missing() -> str:
    """What is missing of it, "" if nothing."""
    present = (_PLACE / "os_vif").is_dir() and (_PLACE / "ovsdbapp").is_dir()
    return "" if present else f"missing: os-vif and ovsdbapp in {_PLACE}; make test installs them"


@dataclass(frozen=True)
class Vif:
    """A port of Neutron's as Nova tells it os-vif; `mode` is that of the VM's end."""

    mode: str
    path: Path
    id: str = "5e1f0de0-1234-4321-8000-00000000cafe"
    vm: str = "0a0a0a0a-0000-4000-8000-0000000000fe"
    mac: str = "52:54:00:00:00:01"
    bridge: str = BRIDGE
    mtu: int = 1450
    isolate: bool = False

    @property
    def name(self) -> str:
        """As Neutron and os-vif make it."""
        return f"vhu{self.id}"[:14]


def plug(host: Any, vif: Vif) -> None:
    _order(host, plug=_told(vif))


def unplug(host: Any, vif: Vif) -> None:
    _order(host, unplug=_told(vif))


def transact(host: Any, *commands: tuple[str, list[Any]]) -> None:
    """ovsdbapp commands, each a method with its arguments, in one transaction."""
    _order(host, commands=[[method, arguments, {}] for method, arguments in commands])


def _told(vif: Vif) -> dict[str, Any]:
    return {**asdict(vif), "name": vif.name, "path": str(vif.path)}


def _order(host: Any, **order: Any) -> None:
    argv = host.namespace.argv(sys.executable, str(_PROGRAM), host.switch.db)
    run(argv, env={"PYTHONPATH": os.fspath(_PLACE)}, stdin=json.dumps(order))
