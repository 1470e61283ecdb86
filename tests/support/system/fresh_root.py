# SPDX-License-Identifier: Apache-2.0
"""The root of a fresh Debian in a directory: it gets packages from this machine's mirrors."""

import os
import shutil
import subprocess
from pathlib import Path

from ovs_vhost_plugin.lab.platform import borrowed, distro
from ovs_vhost_plugin.lab.process import LabError
from ovs_vhost_plugin.lab.setup import Setup

RELEASE = "trixie"
APT = ("apt-get", "-qq", "--yes", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0")
SECONDS = 600.0
"""Until a command that fetches, installs or builds counts as one that never ends."""


class FreshRoot(Setup):
    """A copy of what debootstrap makes, in `root`. No file of this checkout is seen in it."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self._mounts: list[distro.Mount] = []

    def _set_up(self) -> None:
        self._closing.callback(shutil.rmtree, self.root, ignore_errors=True)
        self._mounts = distro.fresh(RELEASE, self.root)
        # It need not survive a failure of power, and so installs in a third of the time.
        (self.root / "etc/dpkg/dpkg.cfg.d/lab").write_text("force-unsafe-io\n")
        self.fetch("apt-get", "-qq", "update")

    def argv(self, *command: str, directory: Path = Path("/")) -> list[str]:
        """The command line that runs `command` in the root, with this machine's network."""
        return distro.entry(self.root, self._mounts, directory, command)

    def fetch(self, *command: str, directory: Path = Path("/")) -> str:
        """Run a command in the root with this machine's network; what it printed.

        Raises LabError if it fails.
        """
        done = subprocess.run(
            self.argv(*command, directory=directory),
            env={**borrowed.environment(os.environ), "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode:
            words = done.stdout[-3000:]
            raise LabError(f"{' '.join(command)}: exit status {done.returncode}: {words}")
        return done.stdout

    def fetch_packages(self, *packages: str, download: bool = False) -> None:
        """Install packages with their dependencies; with `download` they are only kept for apt."""
        self.fetch(*APT, "install", *(["--download-only"] if download else []), *packages)
