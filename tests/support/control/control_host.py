# SPDX-License-Identifier: Apache-2.0
"""Private hosts whose daemons fork workers of the tests'; the rest is real."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from support.checkout import TOP

from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.lab.process import PATIENCE, Process, wait_until

_PROGRAM = Path(__file__).with_name("daemon_with_fake_worker.py")


class ControlHost(Host):
    """A host whose daemon forks fake workers; the rest is real."""

    program: ClassVar[Path] = _PROGRAM
    """The daemon with the tests' workers."""
    wrapper: ClassVar[tuple[str, ...]] = ()
    """A command that runs the daemon's."""

    def launch_daemon(self) -> None:
        self.daemon = self.start_another(self._options)

    def start_another(self, options: Sequence[str], name: str = "ovs-vhost") -> Process:
        package_root = str(TOP)
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        return self.namespace.start(
            [
                *(*self.wrapper, sys.executable, str(self.program), self.switch.db),
                f"--pidfile={self.directory}/{name}.pid",
                *(f"--log-file={self.directory}/{name}.log", "-vfile:dbg", "-vconsole:off"),
                *options,
            ],
            self.directory / f"{name}.out",
            env={**self.switch.env, "PYTHONPATH": path},
        )

    @property
    def state(self) -> Path:
        return self.directory / "ovs-vhost"

    def link(self, name: str) -> str:
        """`ip link show` of a device, "" when there is none."""
        return self.namespace.run("ip", "-d", "link", "show", name, check=False)

    def leftovers(self) -> list[str]:
        """What there is of any port but its journal, by which it finds its guest's rings again.

        And but its migrations, which are told when it is gone.
        """
        kept = {"journals", "migrations"}
        return sorted(path.name for path in self.state.iterdir() if path.name not in kept)

    def wait_gone(self, name: str) -> None:
        wait_until(lambda: not self.link(name) and not self.leftovers(), f"end of {name}")

    def wait_status_of(self, name: str, wanted: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        def asked() -> dict[str, str] | None:
            status = self.status(name)
            return status if wanted(status) else None

        return wait_until(asked, f"{name}: wanted status")

    def end_workers(self) -> None:
        end_workers(self)


def end_workers(host: Host) -> None:
    """Workers outlive the daemon by design; tests must not leave them."""
    if host.daemon is None:
        host.start_daemon()
    host.appctl("exit", "--cleanup")
    assert host.daemon is not None
    host.daemon.wait(PATIENCE)
    host.daemon = None
