# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost try`: a switch, a port and a VM in private, and its console on this terminal.

Each command is printed and then run, just as it is printed (lab/trial.py). All of it is gone at the
end, however it ends.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shlex
import shutil
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from ovs_vhost_plugin.common.dirs import PROGRAM
from ovs_vhost_plugin.lab import process
from ovs_vhost_plugin.lab.guests import image
from ovs_vhost_plugin.lab.hosts import namespace
from ovs_vhost_plugin.lab.interruption import HEARD_WITHIN
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import LabError, wait_until
from ovs_vhost_plugin.lab.takedown import INTERRUPTED, taken_down
from ovs_vhost_plugin.lab.trial import GUEST, HOST_ADDRESS, LEAVE, CommandGroup, Trial

_FAILED = 1
_LONGEST_STEP = 300.0  # seconds; the first start of the daemon compiles the kernels
_BY_HAND = "ovs-vhost-try"
"""The namespace and the directory of the commands that a person runs."""


def parser() -> argparse.ArgumentParser:
    """The parser of the command's options; the man page is made from it too."""
    made = argparse.ArgumentParser(
        prog=f"{PROGRAM} try",
        description="Make a switch, a bridge, a port and a VM in a network namespace of their own, "
        "and give the VM's console to this terminal. Each command is printed as it is run. When "
        "the VM ends all of it is taken down, as it is at Ctrl-C before the VM runs, at SIGTERM "
        "and when the terminal is closed.",
        epilog=f"Example: {PROGRAM} try --dry-run >try.sh; less try.sh; sudo sh -e try.sh",
    )
    made.add_argument(
        "--dry-run",
        action="store_true",
        help="only print the commands, which are a script for sh; the VM's kernel and initramfs "
        "are made all the same, in the cache",
    )
    return made


def main(argv: Sequence[str]) -> int:
    """`ovs-vhost try ARGV…`; the exit status."""
    dry = parser().parse_args(argv).dry_run
    if words := packages.missing((*packages.SWITCH, *packages.GUEST), root=not dry):
        return _complain(words)
    try:
        if dry:
            print(script(Trial(_BY_HAND, Path("/run", _BY_HAND), image.build(), program())))
            return 0
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            return _complain("this is no terminal for the VM's console; --dry-run needs none")
        with taken_down():
            _play(Console(highlight=False, soft_wrap=True, markup=False, emoji=False))
    except LabError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        _complain("interrupted; all of it is taken down")
        return INTERRUPTED
    return 0


def _complain(words: str) -> int:
    with contextlib.suppress(OSError):  # the terminal may be closed
        print(f"{PROGRAM} try: {words}", file=sys.stderr)
    return _FAILED


def program() -> str:
    """The shell's words for this very program."""
    beside = Path(sys.executable).with_name(PROGRAM)
    found = shutil.which(PROGRAM)
    if found and (not beside.exists() or beside.samefile(found)):
        return PROGRAM
    words = [str(beside)] if beside.exists() else [sys.executable, "-m", "ovs_vhost_plugin"]
    return shlex.join(words)


def script(trial: Trial) -> str:
    """All commands of a trial, for `sh -e`."""
    parts = [step.as_text() for step in trial.make()]
    words = "To look around meanwhile, in another terminal:"
    parts.append("\n".join([f"# {words}", *(f"#   {command}" for command in trial.around())]))
    return "\n\n".join([*parts, trial.machine().as_text(), trial.end().as_text()])


def _play(screen: Console) -> None:
    """Make it all, join the terminal to the VM until that ends, and take it down."""
    made = image.build()
    directory = namespace.scratch_directory()
    directory.rmdir()  # the first step makes it, as a person would
    trial = Trial(f"{namespace.PREFIX}-{os.getpid()}-0-try", directory, made, program())
    for step in trial.make():
        _take(step, trial, screen)
    machine = trial.machine()
    screen.print(machine.as_text(), style="dim")
    screen.print(_welcome(trial))
    _at_terminal(machine, trial)
    _take(trial.end(), trial, screen)


def _take(step: CommandGroup, trial: Trial, screen: Console) -> None:
    """Print a step's commands and run them. Raises LabError."""
    screen.print(f"# {step.why}", style="dim")
    for command in step.commands:
        screen.print(command)
        process.run(["sh", "-ec", command], env=trial.environment, seconds=_LONGEST_STEP)
    screen.print()


def _welcome(trial: Trial) -> str:
    around = "\n".join(f"  {command}" for command in trial.around())
    address = GUEST.address.partition("/")[0]
    return (
        f"\nThe VM's eth0 has {address}; `ping {HOST_ADDRESS}` there reaches the bridge.\n{LEAVE}\n"
        f"To look around meanwhile, in another terminal, as root:\n{around}\n"
    )


def _at_terminal(machine: CommandGroup, trial: Trial) -> None:
    """Run the VM with this terminal as its console, to its end. Raises LabError."""
    (command,) = machine.commands
    with _terminal_as_before():
        environment = {**os.environ, **trial.environment}
        running = subprocess.Popen(["sh", "-ec", f"exec {command}"], env=environment)
        try:
            wait_until(lambda: running.poll() is not None, "QEMU's end", math.inf, HEARD_WITHIN)
        finally:
            running.kill()
            status = running.wait()
    if status:
        raise LabError(f"QEMU ended with status {status}")


@contextlib.contextmanager
def _terminal_as_before() -> Iterator[None]:
    """Put the terminal's modes back: a QEMU that is killed leaves it without echo."""
    modes = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal may be closed
            termios.tcsetattr(sys.stdin, termios.TCSANOW, modes)
