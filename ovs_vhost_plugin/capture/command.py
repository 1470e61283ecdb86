# SPDX-License-Identifier: Apache-2.0
"""The command: looks into the capture's memory a hundred times a second, and writes pcapng."""

from __future__ import annotations

import argparse
import errno
import os
import platform
import select
import signal
import sys
import time
from collections.abc import Sequence

from ovs_vhost_plugin import __version__
from ovs_vhost_plugin.capture import pcapng
from ovs_vhost_plugin.capture.comments import comments
from ovs_vhost_plugin.capture.output import STANDARD, CaptureOutput
from ovs_vhost_plugin.capture.ring import CapturedFrame, RingBrokenError
from ovs_vhost_plugin.capture.source import CaptureNews, CaptureSource
from ovs_vhost_plugin.common import dirs
from ovs_vhost_plugin.control import CommandError, add_target, ask, positive
from ovs_vhost_plugin.ipc.captures import AskCapture, CaptureErrorName, CaptureMark
from ovs_vhost_plugin.jit.capture_ring import FRAME_MAX, RX, TX

_LOOKS = 0.01
"""Seconds between two looks: with a part's room, that bounds the rate to 100 MB/s a queue pair."""
_PATIENCE = 5.0
"""Seconds for the daemon to take the capture."""
_DIRECTIONS = {"rx": RX, "tx": TX, "both": RX | TX}


def _snap(text: str) -> int:
    value = int(text)
    if not 1 <= value <= FRAME_MAX:
        raise argparse.ArgumentTypeError(f"not from 1 to {FRAME_MAX}: {text!r}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"not a time: {text!r}")
    return value


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(
        prog=f"{dirs.PROGRAM} capture",
        description="Write the frames that cross the rings of a port as pcapng, for Wireshark and "
        "tshark, until Ctrl-C. Received (rx, inbound) and transmitted (tx, outbound) are as the "
        "guest sees them. Each frame's virtio-net header is a comment of it, as is why it was "
        "dropped, if it was; announcements, migrations and changes of the port's status are "
        "entries between the frames. Frames that come faster than they are written are left out "
        "and counted: the port never waits. Only root may capture, one at a time of a port.",
        epilog="Example: ovs-vhost capture vhu0 | tshark -r -",
    )
    made.add_argument("port", metavar="PORT", help="the port's name")
    add_target(made)
    made.add_argument(
        "-w",
        "--write",
        metavar="FILE",
        default=STANDARD,
        help="the file to write, readable for root alone (default: standard output)",
    )
    made.add_argument(
        "--direction",
        choices=list(_DIRECTIONS),
        default="both",
        help="only frames that the guest receives, or transmits (default: %(default)s)",
    )
    made.add_argument("--count", type=positive, metavar="N", help="end after N frames")
    made.add_argument(
        "--snap",
        type=_snap,
        default=FRAME_MAX,
        metavar="BYTES",
        help="the first bytes of each frame only (default: the whole frame)",
    )
    made.add_argument("--duration", type=_seconds, metavar="SECONDS", help="end after this time")
    return made


def main(argv: Sequence[str]) -> int:
    """Capture until it is enough. Raises CommandError."""
    args = parser().parse_args(argv)
    if args.write == STANDARD and sys.stdout.isatty():
        raise CommandError("pcapng is not for a terminal: --write FILE, or a pipe to tshark -r -")
    over: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: over.append(number))
    source = _connect(args)
    try:
        output = CaptureOutput(args.write, lambda: bool(over))
        capture = PcapngCapture(args, source, output)
        print(f"capturing {args.port}; Ctrl-C ends it", file=sys.stderr)
        try:
            capture.run(over)
        finally:
            output.close()
            print(capture.summary, file=sys.stderr)
    except BrokenPipeError:
        return 0  # its reader has seen enough
    except OSError as error:
        raise CommandError(f"{args.write}: {error.strerror or error}") from error
    finally:
        source.close()
    if capture.trouble:
        raise CommandError(capture.trouble)
    return 0


class PcapngCapture:
    """A capture from its first look to its last; `trouble` says what ended it, if nobody did."""

    def __init__(
        self, args: argparse.Namespace, source: CaptureSource, output: CaptureOutput
    ) -> None:
        self.trouble = ""
        self._args = args
        self._output = output
        self._source = source
        self._written = 0
        # Frames and marks have CLOCK_MONOTONIC's times, which nobody sets.
        self._offset = time.time_ns() - time.monotonic_ns()

    def run(self, over: Sequence[int]) -> None:
        """Write until `over` has something, enough has come, or the port is no more."""
        args = self._args
        kept = "" if args.direction == "both" else args.direction
        program = f"{dirs.PROGRAM} {__version__}"
        described = "the rings of a vhost-user port; inbound is what the guest receives"
        self._output.write(
            pcapng.section(program, f"{platform.system()} {platform.release()}")
            + pcapng.interface(args.port, described, args.snap, kept)
        )
        until = None if args.duration is None else time.monotonic() + args.duration
        while not self._is_over(over, until):
            # Without frames the daemon's words wake it at once, frames at the next look.
            select.select([self._source], [], [], _LOOKS)
            self._look()
        if not self.trouble:
            self._look()  # what has come up to the signal
        found = self._written + self._source.lost
        self._output.write(pcapng.statistics(time.time_ns(), found, self._source.lost))

    @property
    def summary(self) -> str:
        """How much it was, in words."""
        lost = self._source.lost
        return f"{self._written} frames captured, {lost} left out for want of room"

    def _is_over(self, over: Sequence[int], until: float | None) -> bool:
        self.trouble = self.trouble or self._source.ended
        late = until is not None and time.monotonic() >= until
        return bool(over) or bool(self.trouble) or late or self._left() == 0

    def _left(self) -> int | None:
        """How many frames are wanted yet; None: all."""
        return None if self._args.count is None else self._args.count - self._written

    def _look(self) -> None:
        try:
            found = self._source.look()
        except RingBrokenError as error:
            words = f"the port's process has written nonsense: {error}"
            self.trouble = f"{CaptureErrorName.RING_BROKEN}: {words}"
            return
        found.frames = found.frames[: self._left()]
        self._output.write(b"".join(self._blocks(found)))
        self._written += len(found.frames)

    def _blocks(self, found: CaptureNews) -> list[bytes]:
        """All that was found, in the order of its times."""
        timed = [(frame.time, _packet(frame, self._offset)) for frame in found.frames]
        timed += [(int(mark.at * 1e9), self._entry(mark)) for mark in found.marks]
        timed.sort(key=lambda one: one[0])
        return [block for _, block in timed]

    def _entry(self, mark: CaptureMark) -> bytes:
        fields = [
            ("MESSAGE", f"{self._args.port}: {mark.kind}: {mark.text}"),
            ("PRIORITY", "6"),  # informational
            ("SYSLOG_IDENTIFIER", dirs.PROGRAM),
            ("OVS_VHOST_PORT", self._args.port),
            ("OVS_VHOST_MARK", mark.kind),
        ]
        return pcapng.journal_entry(int(mark.at * 1e9) + self._offset, fields)


def _packet(frame: CapturedFrame, offset: int) -> bytes:
    at, direction = frame.time + offset, pcapng.OUTBOUND if frame.sent else pcapng.INBOUND
    said = comments(frame)
    return pcapng.packet(at, frame.data, frame.length, direction, frame.pair, frame.lost, said)


def _connect(args: argparse.Namespace) -> CaptureSource:
    """A capture by the daemon. Raises CommandError, whose text says what to do."""
    try:
        where = ask(args.target, "vhost/captures", [])["socket"]
    except CommandError as error:
        if "not a valid command" in str(error):  # as the bindings' unixctl says it
            raise CommandError(
                "the daemon is of a release before and cannot capture; restart it with "
                "'systemctl restart ovs-vhost', which leaves the ports working"
            ) from error
        raise
    asked = AskCapture(args.port, _DIRECTIONS[args.direction], args.snap)
    try:
        source = CaptureSource(where, asked)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise CommandError(f"{where}: only root may capture") from error
        raise CommandError(f"{where}: {os.strerror(error.errno or 0)}") from error
    source.await_answer(_PATIENCE)
    if source.ended:
        source.close()
        raise CommandError(source.ended)
    return source
