# SPDX-License-Identifier: Apache-2.0
"""A port as rows may ask for it, and the spec of its worker."""

from ovs_vhost_plugin.daemon.ovsdb.interface_rows import PortSpec
from ovs_vhost_plugin.daemon.reconcile import worker_spec
from ovs_vhost_plugin.ipc.spec import PortSettings

PORT = PortSpec(
    name="vhu0",
    bridge="br0",
    ofport=None,
    mode="client",
    path="/run/vm.sock",
    queues=2,
    userspace=True,
    settings=PortSettings(finish_offloads=True, hold=True),
    attached_mac="",
)


SPEC = worker_spec(PORT)
