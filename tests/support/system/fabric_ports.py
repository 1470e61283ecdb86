# SPDX-License-Identifier: Apache-2.0
"""A port on both hosts between which a guest moves."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ovs_vhost_plugin.lab.hosts.fabric import Fabric
from ovs_vhost_plugin.lab.process import wait_until


@contextmanager
def server_ports(fabric: Fabric, name: str, key: str) -> Iterator[list[Path]]:
    """The sockets on which a port listens on each host; the ports end with the context."""
    hosts = (fabric.a, fabric.b)
    made = [host.add_server_port(name, key) for host in hosts]
    for host in hosts:
        host.wait_ofport(name)
        host.wait_status(name, "listening")
    try:
        yield made
    finally:
        for host in hosts:
            host.delete_port(name)
            wait_until(lambda host=host: name not in host.appctl("vhost/show"), "the port's end")
