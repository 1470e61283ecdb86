# SPDX-License-Identifier: Apache-2.0
"""A network namespace as the guest of a vhost-user port, by one command.

    python -m ovs_vhost_plugin.guest.compiled /run/vm1.sock --netns vm1 --address 10.0.0.2/24

It makes a tap in the namespace, waits for the back-end, and drives the device until it is ended by
SIGINT or SIGTERM. It needs CAP_NET_ADMIN there, and /dev/net/tun.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path

from netaddr import EUI, AddrFormatError, IPNetwork
from pyroute2 import IPRoute

from ovs_vhost_plugin.common.process import NEW_NET, enter
from ovs_vhost_plugin.guest.compiled.guest import OFFLOADS, CompiledGuest
from ovs_vhost_plugin.guest.compiled.tap import StackTap
from ovs_vhost_plugin.guest.driver.split import DeviceBrokenError
from ovs_vhost_plugin.guest.frontend.connection import BackEndError
from ovs_vhost_plugin.guest.soft import FEATURES, Config
from ovs_vhost_plugin.vhost.spec import Feature

_NAMESPACES = Path("/run/netns")
_RETRY = 0.2  # seconds
_FAILED = 1
_MOST_PAIRS = 128
"""As many as a port offers."""


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ovs_vhost_plugin.guest.compiled",
        description="Be the guest of a vhost-user port: a tap in a network namespace, whose frames "
        "go through virtio rings to the port and back, at native speed.",
    )
    parser.add_argument("socket", type=Path, help="the port's socket")
    parser.add_argument(
        "--connect",
        action="store_true",
        help="connect to a back-end that listens, where this side listens otherwise",
    )
    parser.add_argument(
        "--netns", metavar="NAME", help="the network namespace (ip netns), else the present one"
    )
    parser.add_argument("--tap", default="eth0", help="the tap's name (default: %(default)s)")
    parser.add_argument(
        "--mac", type=_mac, default="52:54:00:00:00:01", help="its MAC (default: %(default)s)"
    )
    parser.add_argument("--address", type=IPNetwork, help="its IP address, as 10.0.0.2/24")
    parser.add_argument("--mtu", type=int, default=1500, help="its MTU (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, default=256, help="descriptors of each ring (default: %(default)s)"
    )
    parser.add_argument(
        "--packed", action="store_true", help="packed rings, where they are split otherwise"
    )
    parser.add_argument(
        "--queue-pairs",
        type=_pairs,
        default=1,
        metavar="N",
        help="queue pairs, each a thread and a queue of the tap (default: %(default)s)",
    )
    parser.add_argument(
        "--no-offloads", action="store_true", help="finish all checksums, and send no large frames"
    )
    return parser


def main() -> int:
    """Run until a signal; the exit status."""
    options = parser().parse_args()
    if options.netns:
        with (_NAMESPACES / options.netns).open() as there:
            enter(there.fileno(), NEW_NET)
    stop, ended = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(ended)
    tap = StackTap(options.tap, options.mac, options.mtu, options.queue_pairs)
    if options.address:
        _set_address(options.tap, options.address)
    _say(f"{options.tap} is up, {options.mac.hex(':')}, {options.address or 'without address'}")
    config = Config(
        queue_pairs=options.queue_pairs,
        size=options.size,
        features=_features(options),
        mac=options.mac,
        mtu=options.mtu,
    )
    guest = CompiledGuest(options.socket, config, tap, server=not options.connect)
    try:
        _serve(guest, stop)
    except DeviceBrokenError as error:
        _say(str(error))
        return _FAILED
    finally:
        print(json.dumps(guest.counters), flush=True)
        guest.close()
        tap.close()
    return 0


def _serve(guest: CompiledGuest, stop: int) -> None:
    """Run on one back-end after the other."""
    _say(f"waiting for a back-end at {guest.path}")
    while not select.select([stop], [], [], 0)[0]:
        try:
            guest.start()
        except (OSError, BackEndError) as error:
            if isinstance(error, BackEndError):
                _say(str(error))
            time.sleep(_RETRY)
            continue
        assert guest.frontend is not None
        _say(f"the rings run, features {guest.features:#x}")
        connection = guest.frontend.connection
        while not select.select([stop, connection.fileno()], [], [], 1.0)[0]:
            guest.check()
        guest.check()
        with contextlib.suppress(BackEndError):
            connection.check()
            guest.stop_rings()
            return
        _say("the back-end has gone")


def _features(options: argparse.Namespace) -> int:
    features = FEATURES | (0 if options.no_offloads else OFFLOADS)
    return features | (Feature.RING_PACKED.mask if options.packed else 0)


def _set_address(device: str, address: IPNetwork) -> None:
    with IPRoute() as kernel:
        (index,) = kernel.link_lookup(ifname=device)
        kernel.addr("add", index=index, address=str(address.ip), prefixlen=address.prefixlen)


def _mac(text: str) -> bytes:
    try:
        return bytes(EUI(text).packed)
    except AddrFormatError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _pairs(text: str) -> int:
    number = int(text)
    if not 1 <= number <= _MOST_PAIRS:
        raise argparse.ArgumentTypeError(f"not 1 to {_MOST_PAIRS}: {text!r}")
    return number


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
