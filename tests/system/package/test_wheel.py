# SPDX-License-Identifier: Apache-2.0
"""The wheel and the source distribution, on a Debian 13 that has nothing of this checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support import checkout
from support.system.fresh_root import FreshRoot
from support.system.soft_ports import SoftPort, check_inward, check_outward

from ovs_vhost_plugin import __version__
from ovs_vhost_plugin.guest.soft import Config
from ovs_vhost_plugin.lab.hosts import namespace
from ovs_vhost_plugin.lab.hosts.host import BRIDGE, Host
from ovs_vhost_plugin.lab.platform import borrowed, packages

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

VENV = "/opt/ovs-vhost"
PROGRAM = f"{VENV}/bin/ovs-vhost"
SIZES = (60, 600, 1514)


class HostOfRoot(Host):
    """A host whose daemon is the one that is installed in a root."""

    def __init__(self, root: FreshRoot, directory: Path) -> None:
        super().__init__("wheel", directory)
        self._root = root

    def launch_daemon(self) -> None:
        """Start the root's daemon on this host's switch."""
        files = (f"--pidfile={self.directory}/ovs-vhost.pid", f"--log-file={self.log}")
        cache = {"OVS_VHOST_CACHE_DIR": "/var/cache/ovs-vhost"}
        self.daemon = self.namespace.start(
            self._root.argv(PROGRAM, "daemon", self.switch.db, *files),
            self.directory / "ovs-vhost.out",
            env={**borrowed.environment(os.environ), **self.switch.env, **cache},
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The source distribution, and the wheel that was made from it."""
    top = tmp_path_factory.mktemp("distributions")
    checkout.copy(top / "source")
    argv = [sys.executable, "-m", "build", "--outdir", str(top / "dist"), str(top / "source")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    (source,) = (top / "dist").glob("*.tar.gz")
    (wheel,) = (top / "dist").glob("*.whl")
    return source, wheel


@pytest.fixture(scope="module")
def root(require):
    """A fresh Debian 13 with a virtual environment."""
    words = packages.missing((*packages.SWITCH, *packages.RELEASES), root=False)
    require(words is None, words)
    with ExitStack() as stack:
        top = namespace.scratch_directory()
        stack.callback(shutil.rmtree, top, ignore_errors=True)
        root = stack.enter_context(FreshRoot(top / "root"))
        root.fetch("python3", "-m", "venv", VENV)
        yield root


def test_both_have_all_that_the_program_reads(made):
    source, wheel = made
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "ovs_vhost_plugin"],
        cwd=checkout.TOP,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    wanted = {name for name in listed if not name.endswith(".md")}
    assert any(not name.endswith(".py") for name in wanted)
    assert wanted - set(zipfile.ZipFile(wheel).namelist()) == set()
    with tarfile.open(source) as files:
        assert wanted - {name.partition("/")[2] for name in files.getnames()} == set()


def test_they_install_elsewhere_and_serve_a_port(made, root):
    for number, distribution in enumerate(made):
        copy = shutil.copy(distribution, root.root / "root")
        again = ["--force-reinstall", "--no-deps"] if number else []
        pip = (f"{VENV}/bin/pip", "--quiet", "--disable-pip-version-check", "install")
        root.fetch(*pip, *again, f"/root/{Path(copy).name}")
        assert root.fetch(PROGRAM, "--version").split()[-1] == __version__
    assert not (root.root / checkout.TOP.relative_to("/")).exists()
    with ExitStack() as stack:
        top = stack.enter_context(TemporaryDirectory(prefix="ovs-vhost-"))
        host = stack.enter_context(HostOfRoot(root, Path(top, "h")))
        host.switch.ofctl("del-flows", str(host.directory / f"{BRIDGE}.mgmt"))
        port = stack.enter_context(SoftPort(host))  # the kernels are compiled meanwhile
        assert list((root.root / "var/cache/ovs-vhost").glob("kernels-*"))
        guest = port.guest(Config())
        check_outward(port, guest, SIZES)
        check_inward(port, guest, SIZES)
