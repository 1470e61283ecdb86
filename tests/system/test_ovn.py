# SPDX-License-Identifier: Apache-2.0
"""A guest moves between two chassis of a real OVN, which opens the new place to it by our RARP.

As automation does it (Nova): the port is given to both chassis with activation-strategy=rarp
before the migration, and to the new one alone after it. Until a RARP comes from the new chassis,
OVN drops there what the guest sends and what is for it.
"""

import json
import shlex
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.system.page import blocks

from ovs_vhost_plugin.lab.guests.movable import Movable, Move
from ovs_vhost_plugin.lab.guests.movable_qemu import QemuMovable
from ovs_vhost_plugin.lab.guests.movable_soft import SoftMovable
from ovs_vhost_plugin.lab.hosts.fabric import Fabric
from ovs_vhost_plugin.lab.hosts.host import Host
from ovs_vhost_plugin.lab.hosts.ovn import INTEGRATION, Ovn
from ovs_vhost_plugin.lab.measure.capture import Capture
from ovs_vhost_plugin.lab.measure.flow import Flow, FlowArrivals
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import run, wait_until
from ovs_vhost_plugin.lab.setup import Setup

pytestmark = pytest.mark.system

PORT, LOGICAL_PORT = "vhu0", "vm0"
UDP_PORT = 7000
RATE = 500  # packets a second
ETHERTYPE_ARP, ETHERTYPE_RARP = 0x0806, 0x8035
ROUNDS = 5  # QEMU's, and the software guest's


class Site(Setup):
    """Chassis a and b, a client on a, and a guest that runs on a and may move to b."""

    def __init__(self, guest: Movable) -> None:
        super().__init__()
        self.guest = guest

    def _set_up(self) -> None:
        enter, guest = self._closing.enter_context, self.guest
        fabric = enter(Fabric())
        self.a, self.b = fabric.a, fabric.b
        self.ovn = enter(Ovn(fabric.directory / "ovn", (self.a, self.b)))
        self._closing.callback(guest.close)
        self.client = self.ovn.add_client(self.a)
        self.ovn.add_logical_port(LOGICAL_PORT, guest.mac, guest.address, requested_chassis="a")
        socket = self._plug(self.a)
        self.ovn.wait_binding(LOGICAL_PORT, f"chassis={self.ovn.chassis('a')}")
        guest.boot(self.a, socket)
        self.a.wait_status(PORT, "running")
        guest.listen(UDP_PORT)
        self.ping()

    def prepare(self, *settings: str) -> None:
        """Give the port to both chassis and begin the guest's destination; b is blocked."""
        self.plug_destination(*settings)
        self.bind_destination()
        self.assert_blocked()

    def plug_destination(self, *settings: str) -> None:
        """Begin the guest's destination, on a port that OVN has not given to b."""
        self.guest.prepare(self.b, self._plug(self.b, *settings))

    def bind_destination(self) -> None:
        """Give the port to both chassis; b waits for a RARP."""
        self.ovn.set_options(LOGICAL_PORT, requested_chassis="a,b", activation_strategy="rarp")
        self.ovn.wait_binding(LOGICAL_PORT, f"additional_chassis={self.ovn.chassis('b')}")
        self.b.switch.wait_until("Interface", PORT, "external_ids:ovn-installed=true")

    def _plug(self, host: Host, *settings: str) -> Path:
        path = host.directory / f"{PORT}.sock"
        given = f"options:vhost-server-path={path}", f"external_ids:iface-id={LOGICAL_PORT}"
        host.switch.add_port(INTEGRATION, PORT, *given, *settings)
        host.wait_status(PORT, "connecting")
        return path

    def release(self) -> None:
        """Give the port to b alone, as after a migration, and take it from a."""
        self.ovn.set_options(LOGICAL_PORT, requested_chassis="b")
        self.ovn.wait_binding(
            LOGICAL_PORT, f"chassis={self.ovn.chassis('b')}", "additional_chassis=[]"
        )
        self.a.switch.vsctl("del-port", INTEGRATION, PORT)

    def assert_blocked(self) -> None:
        """OVN has done all that it had to do, and has not activated b."""
        self.ovn.nbctl("sync")
        options = self.ovn.sbctl("get", "Port_Binding", LOGICAL_PORT, "options")
        assert "activation-strategy=rarp" in options
        assert "additional-chassis-activated" not in options

    def wait_activated(self) -> None:
        """Return when OVN has written down that b was activated."""
        self.ovn.wait_binding(LOGICAL_PORT, "options:additional-chassis-activated=b")

    def announce_by_hand(self) -> str:
        """What `ovs-vhost announce` on b says."""
        answer = json.loads(self.b.appctl("vhost/announce", PORT, "--format", "json"))
        return str(answer["outcome"])

    def ping(self) -> None:
        """Ping until three are answered: a datapath goes by what it cached of the flows before."""
        self.client.ping(self.guest.address, "-i", "0.1")

    def outcomes(self, trigger: str) -> list[str]:
        """What b's announcements with this trigger came to, oldest first."""
        return [a["outcome"] for a in self.b.announcements() if a["trigger"] == trigger]

    def hold(self) -> dict[str, int]:
        """What a held for the guest that left."""
        stats = json.loads(self.a.appctl("vhost/stats", PORT, "--format", "json"))
        counts: dict[str, int] = stats["ports"][PORT]["hold"]
        return counts


@pytest.fixture
def programs(require) -> None:
    words = packages.missing((*packages.SWITCH, *packages.OVN, *packages.GUEST), root=False)
    require(words is None, words)


def attached(guest: Movable) -> str:
    return f'external_ids:attached-mac="{guest.mac}"'


@dataclass(frozen=True)
class Moved:
    """A migration under a flow; since `open_at` b's datapath does what its flows say."""

    migration: Move
    flow: Flow
    arrivals: FlowArrivals
    open_at: float


def move_under_a_flow(site: Site) -> Moved:
    """Migrate while the client sends; go on until some of it has come to the guest on b."""
    with Flow(site.client, (site.guest.address, UDP_PORT), rate=RATE) as flow:
        wait_until(lambda: flow.sent >= RATE, "packets before the migration")
        moved = site.guest.migrate()
        wait_until(lambda: "active" in announced(site), "OVN has activated the port")
        # What the datapath cached of the flows before is in force until it has been looked at.
        site.b.switch.appctl("ovs-vswitchd", "revalidator/wait")
        open_at = time.monotonic()
        goal = flow.sent + RATE
        wait_until(lambda: flow.sent >= goal, "packets after the migration")
        flow.stop()

        def arrived() -> FlowArrivals | None:
            so_far = FlowArrivals.parse(flow.flow, site.guest.received())
            return so_far if flow.sent - 1 in so_far.numbers else None

        arrivals = wait_until(arrived, "the last packet", poll=0.2)
        return Moved(moved, flow, arrivals, open_at)


def announced(site: Site) -> str:
    return site.b.status(PORT).get("announced", "")


@pytest.mark.parametrize(
    ("kind", "announces"),
    [("qemu", False), ("soft", True)],
    ids=["qemu-send-rarp", "soft-guest-announce"],
)
def test_ovn_activates_the_port_by_our_announcement(programs, capsys, kind, announces) -> None:
    """By SEND_RARP where that is all that is known; by attached-mac where the front-end sends none.

    No RARP comes out of the guest: those in the tap would be its own.
    """
    guest = (QemuMovable if kind == "qemu" else SoftMovable)(announces=announces)
    with Site(guest) as site:
        site.prepare(*([attached(guest)] if announces else []))
        with Capture(site.b.namespace, PORT, snap=128) as tap:
            moved = move_under_a_flow(site)
            migration, flow, arrivals = moved.migration, moved.flow, moved.arrivals
            own = [f.ethertype for f in tap.frames() if not f.outgoing]
        assert ETHERTYPE_RARP not in own
        site.wait_activated()
        results = site.b.announcements()
        triggers = {result["trigger"] for result in results}
        # Rings that start after SEND_RARP has told the MAC are announced for that as well.
        assert triggers - {"moved-in"} == (set() if announces else {"send-rarp"})
        active = next(result for result in results if result["outcome"] == "active")
        active_at = active["learned_at"]

        lost = arrivals.lost(flow.sent)
        with capsys.disabled():
            print(
                f"\nOVN, {kind}, {'GUEST_ANNOUNCE' if announces else 'SEND_RARP'}: "
                f"{len(lost)} of {flow.sent} lost at {RATE} a second, downtime "
                f"{migration.downtime_ms:.1f} ms, active {active['milliseconds']:.1f} ms after "
                f"{active['trigger']}, {(active_at - migration.destination_resumed) * 1e3:.1f} ms "
                f"after the guest ran"
            )
        assert arrivals.damaged == len(arrivals.duplicates()) == 0
        assert all(flow.sent_at[number] < moved.open_at for number in lost)
        assert site.hold() == {"waiting": 0}, "OVN's bridge: nothing is held, or sent past it"

        site.release()
        site.ping()
        assert site.announce_by_hand() == "active", "as it is without a strategy"


@pytest.mark.parametrize("announces", [False, True], ids=["send-rarp", "guest-announce"])
def test_without_our_rarp_the_port_stays_blocked(programs, announces) -> None:
    """What the guest says of itself does not activate it: so it is our RARP that does."""
    guest = SoftMovable(announces=announces)
    with Site(guest) as site:
        site.prepare(attached(guest), "external_ids:vhost-user-announce=off")
        with Capture(site.b.namespace, PORT, snap=128) as tap:
            guest.migrate()
            wait_until(lambda: rounds_made(site, tap, announces), "all rounds are over", poll=0.1)
            site.assert_blocked()
            assert site.b.announcements() == []

            wait_until(lambda: site.announce_by_hand() == "active", "OVN takes the RARP")
        site.wait_activated()
        site.ping()


def rounds_made(site: Site, tap: Capture, announces: bool) -> bool:
    """Whether the guest, or the front-end, has said five times where it is."""
    if announces:
        own = [f for f in tap.frames() if not f.outgoing and f.ethertype == ETHERTYPE_ARP]
        return len(own) >= ROUNDS
    stats = json.loads(site.b.appctl("vhost/stats", PORT, "--format", "json"))
    return stats["ports"][PORT]["rarps"] >= ROUNDS


def test_an_announcement_that_is_no_rarp_is_told_to_be_blocked(programs) -> None:
    guest = SoftMovable(announces=True)
    with Site(guest) as site:
        site.prepare(
            f'external_ids:vhost-user-addresses="{guest.mac} {guest.address}"',
            'external_ids:vhost-user-announce="frames=garp rounds=1"',
        )
        guest.migrate()
        wait_until(lambda: site.outcomes("moved-in"), "the announcement's end")
        assert site.outcomes("moved-in") == ["blocked"]
        words = "moved-in: OVN drops what comes from the port"
        wait_until(lambda: announced(site).endswith(words), "the daemon's word")
        site.assert_blocked()


def test_a_guest_that_ovn_learns_of_late_is_announced_again(programs) -> None:
    """Its first announcements met no flow, and a RARP that is not repeated never activates it."""
    guest = SoftMovable(announces=True)
    with Site(guest) as site:
        site.plug_destination(attached(guest), "external_ids:vhost-user-announce=rounds=1")
        guest.migrate()
        wait_until(lambda: site.outcomes("moved-in"), "the announcement's end")
        assert site.outcomes("moved-in") == ["not-learned"]

        site.b.switch.vsctl("remove", "Interface", PORT, "external_ids", "vhost-user-announce")
        site.bind_destination()

        wait_until(lambda: "active" in site.outcomes("port-moved"), "OVN takes the RARP")
        site.wait_activated()
        site.ping()


def test_the_page_s_commands_and_the_chassis_by_which_ml2_ovn_decides(programs) -> None:
    """docs/ovn.md; Neutron's condition is in bind_port of its OVN mech_driver.py."""
    with ExitStack() as stack:
        top = Path(stack.enter_context(TemporaryDirectory(prefix="ovs-vhost-")))
        options = ["--adopt-dpdk-types"]
        host = stack.enter_context(Host("a", top / "a", daemon_options=options))
        stack.enter_context(Ovn(top / "ovn", (host,)))
        path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        databases = {
            f"OVN_{name}_DB": f"unix:{top}/ovn/{name.lower()}.sock" for name in ("NB", "SB")
        }
        env = {**host.switch.env, **databases, "PATH": path}

        def command(line: str) -> str:
            argv = shlex.split(line.replace("/run/vm", str(host.directory)))
            return run(host.namespace.argv(*argv), env=env).stdout

        page = "\n".join(blocks("ovn.md", "sh")).splitlines()
        *commands, tell, look = [line for line in page if line]
        shown = [command(line) for line in commands]
        assert any("vhu1" in text for text in shown)
        host.wait_status("vhu1", "connecting")

        host.switch.add_port(INTEGRATION, PORT, "type=dpdkvhostuser")
        host.wait_status(PORT, "listening")
        assert command("ovn-sbctl get Chassis a other_config:datapath-type") == "netdev\n"
        assert "system" in command(look) and "dpdkvhostuser" not in command(look)
        command(tell)
        wait_until(lambda: "dpdkvhostuser" in command(look), "the chassis has them")
