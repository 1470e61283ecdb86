# SPDX-License-Identifier: Apache-2.0
"""A flow that a guest sends back, while what serves the guest goes away and comes back."""

import contextlib
import itertools
from pathlib import Path

from support.system.qemu_site import GUEST, PORT

from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.measure.flow import Flow, GuestReceiver
from ovs_vhost_plugin.lab.measure.timeline import duplicates
from ovs_vhost_plugin.lab.process import wait_until

UDP_PORTS = itertools.count(7100)  # one for each flow


@contextlib.contextmanager
def echoed(site, guest, *, rate=200):
    """A flow of records that the guest sends back; whatever comes back is whole, and comes once."""
    port = next(UDP_PORTS)
    GuestReceiver(guest, port, echo=True)
    with Flow(site.peer, (GUEST, port), rate=rate, flow=port) as flow:
        resumed(flow)
        yield flow
        flow.stop()
        assert flow.damaged_answers == 0
        assert duplicates(number for _, number in flow.answers) == []


def resumed(flow, more=50):
    """Return when so many records that are yet to be sent were answered."""
    goal = flow.sent + more
    wait_until(lambda: flow.answers and flow.answers[-1][1] >= goal, "answers")


def unanswered(flow):
    """Records that were sent and never answered, once the last one was."""
    resumed(flow)
    flow.stop()

    def missing():
        return set(range(flow.sent)) - {number for _, number in flow.answers}

    # Those that are late are waited for as long as they go on coming.
    while (before := missing()) and (flow.collect(3.0) or missing() != before):
        pass
    return sorted(missing())


def successor(site, pid, port=PORT):
    """Whether a worker other than `pid` serves the port."""
    with contextlib.suppress(FileNotFoundError, IndexError):
        return site.worker(port) != pid
    return False


def alive(pid):
    """Whether a process is more than an entry that nobody has read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def left(site, name):
    """What is left of a port: processes, records, sockets, tap."""
    directory = site.host.directory
    found = [*(directory / "ovs-vhost").glob(f"{name}.*"), *directory.glob(name)]
    links = process.run(site.host.namespace.argv("ip", "-brief", "link")).stdout
    return found + [line for line in links.splitlines() if line.startswith(name)]
