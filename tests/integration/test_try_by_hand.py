# SPDX-License-Identifier: Apache-2.0
"""The script of `ovs-vhost try --dry-run`, run by a shell as a person does, without its VM."""

from pathlib import Path

import pytest

from ovs_vhost_plugin import trial
from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.guests.image import Image
from ovs_vhost_plugin.lab.hosts import namespace
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.trial import Trial

pytestmark = pytest.mark.integration


@pytest.fixture
def made(require):
    words = packages.missing(packages.SWITCH)
    require(words is None, words)
    directory = namespace.scratch_directory()
    directory.rmdir()
    name = f"{directory.name}-hand"
    image = Image(Path("/none/kernel"), Path("/none/initramfs"))
    yield Trial(name, directory, image, trial.program())
    namespace.remove(name)
    namespace.end_workers(directory)


def test_the_script_makes_a_port_and_takes_it_down(made):
    script, vm = trial.script(made), made.machine().as_text()
    assert script.count(vm) == 1
    looks = "\n".join(made.around())
    told = process.run(["sh", "-e"], stdin=script.replace(vm, looks), seconds=300).stdout
    assert "Port vhu0" in told and "vhost-user-status=connecting" in told
    assert not made.directory.exists()
    assert not Path("/run/netns", made.namespace).exists()
