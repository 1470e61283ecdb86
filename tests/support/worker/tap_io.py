# SPDX-License-Identifier: Apache-2.0
"""The line of a worker's module by which its fork server measures nothing."""

CHOOSES_WRITEV = (
    "from ovs_vhost_plugin.worker.birth.tapio import TapIo\n"
    "def choose_tap_io(_): return TapIo(together=False, words='writev')\n"
)
