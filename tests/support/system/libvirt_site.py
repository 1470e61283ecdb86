# SPDX-License-Identifier: Apache-2.0
"""The domain of docs/libvirt.md, with the lab's guest in it, on hosts with a libvirtd each."""

import contextlib
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from support.system.page import block

from ovs_vhost_plugin.lab.guests import image, qemu
from ovs_vhost_plugin.lab.guests.console import Console
from ovs_vhost_plugin.lab.guests.qemu import GuestConfig
from ovs_vhost_plugin.lab.hosts.fabric import CLIENT_ADDRESS, CLIENT_MAC, Fabric
from ovs_vhost_plugin.lab.hosts.libvirt import IMAGES, LibvirtHost
from ovs_vhost_plugin.lab.process import wait_until

PAGE = "libvirt.md"
DOMAIN, PORT = "vm1", "vhu0"
ADDRESS = "10.0.0.5"

_MEBIBYTES = 256
_CONSOLE = "console"
_OF_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


def domain_xml(interface: str | None = None) -> Element:
    """The page's domain, with `interface` in place of its own if given, for the lab's guest."""
    domain = ElementTree.fromstring(block(PAGE, "xml", "<domain"))
    devices = domain.find("devices")
    if interface is not None:
        devices.remove(devices.find("interface"))
        devices.append(ElementTree.fromstring(interface))
    _emulate(domain)
    _boot_the_lab_s(domain)
    if qemu.version() < (9,):
        _mind_old_emulation(domain)
    return domain


def _emulate(domain: Element) -> None:
    """There is no KVM; and a guest that is emulated has no time for much memory.

    Nor for a second processor: while a guest with several maps its devices, QEMU's emulation may
    fail an assertion in `iotlb_to_section` (QEMU's issue 1921). The NIC has its queues all the
    same.
    """
    domain.set("type", "qemu")
    domain.remove(domain.find("cpu"))
    domain.find("vcpu").text = "1"
    domain.find("memory").text = str(_MEBIBYTES)


def _boot_the_lab_s(domain: Element) -> None:
    """The lab's kernel, with its console at a socket, instead of a disk."""
    devices, made = domain.find("devices"), image.build()
    mac = devices.find("interface/mac").get("address")
    config = GuestConfig(mac, f"{ADDRESS}/24", neighbours={CLIENT_ADDRESS: CLIENT_MAC})
    system = domain.find("os")
    SubElement(system, "kernel").text = str(IMAGES / made.kernel.name)
    SubElement(system, "initrd").text = str(IMAGES / made.initramfs.name)
    SubElement(system, "cmdline").text = config.kernel_arguments()
    devices.remove(devices.find("disk"))
    serial = devices.find("serial")
    serial.set("type", "unix")
    SubElement(serial, "source", mode="bind", path=f"/run/{_CONSOLE}")


def _mind_old_emulation(domain: Element) -> None:
    """What lab/guests/qemu.py says of emulation by QEMU 7.2: no MSI-X, no memory of whole MiB.

    For a NIC with several queues libvirt itself names a number of MSI-X vectors.
    """
    interface = domain.find("devices/interface")
    interface.remove(interface.find("driver"))
    size = (_MEBIBYTES << 20) - qemu.UNALIGNED
    arguments = [
        *("-global", "virtio-net-pci.vectors=0"),
        *("-object", f"memory-backend-memfd,id=lab,size={size},share=on"),
        *("-machine", "memory-backend=lab", "-m", f"{size}B"),
    ]
    commandline = SubElement(domain, f"{_OF_QEMU}commandline")
    for argument in arguments:
        SubElement(commandline, f"{_OF_QEMU}arg", value=argument)


class Domain:
    """It, on one host and then another."""

    def __init__(self, fabric: Fabric, host: LibvirtHost, xml: Element) -> None:
        self.fabric = fabric
        self.host = host
        self.mac = xml.find("devices/interface/mac").get("address")
        self._server = xml.find("devices/interface/source").get("mode") == "server"
        made = image.build()
        for there in (fabric.a, fabric.b):
            for path in (made.kernel, made.initramfs):
                (there.images / path.name).write_bytes(path.read_bytes())
        self._write("vm1.xml", xml)
        self._write("nic.xml", xml.find("devices/interface"))

    @property
    def idle(self) -> str:
        """What the port does without a VM."""
        return "connecting" if self._server else "listening"

    def _write(self, name: str, element: Element) -> None:
        (self.host.run_directory / name).write_text(ElementTree.tostring(element, "unicode"))

    def state(self) -> str:
        """What libvirt says of it."""
        return self.host.virsh("domstate", DOMAIN)

    @contextlib.contextmanager
    def console(self) -> Iterator[Console]:
        """Its serial console; one at a time."""
        console = Console.connect(self.host.run_directory / _CONSOLE)
        try:
            yield console
        finally:
            console.close()

    def introduce(self) -> None:
        """Have the client ask for the address of a guest that has booted, and then no more.

        The switches may know its MAC elsewhere, and it says nothing by itself. What a guest's
        kernel says when its NIC comes up (arp_notify) is lost if the carrier comes later.
        """
        self.host.wait_running(PORT)
        self.fabric.forget_neighbour(ADDRESS)
        self.fabric.client.ping(ADDRESS)
        self.fabric.set_neighbour(ADDRESS, self.mac)

    def ping(self) -> None:
        """Ping the guest until three answers have come."""
        self.host.wait_running(PORT)
        self.fabric.client.ping(ADDRESS, "-i", "0.1")

    def wait_statistics(self) -> None:
        """Return when libvirt tells the switch's own, which it renews every five seconds."""

        def counted() -> bool:
            words = self.host.virsh("domifstat", DOMAIN, PORT).split()
            return int(words[words.index("rx_packets") + 1]) > 0

        wait_until(counted, "libvirt's statistics")
