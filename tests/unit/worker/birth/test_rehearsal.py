# SPDX-License-Identifier: Apache-2.0
"""The rehearsal runs a guest in each round, and leaves its process as it was."""

import json
import os
import subprocess
import sys
import weakref
from types import ModuleType

import pytest

from ovs_vhost_plugin.worker.birth.rehearsal import gather

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes taps and namespaces")

PROGRAM = """
import gc, json, os, signal, sys
from ovs_vhost_plugin.tap import device
from ovs_vhost_plugin.worker import process
from ovs_vhost_plugin.worker.birth import rehearsal

def present():
    fds = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    handlers = [repr(signal.getsignal(one)) for one in sorted(signal.valid_signals())]
    targets = sorted((fd, os.readlink(fd)) for fd in fds if os.path.islink(fd))
    return targets, handlers, os.readlink("/proc/self/ns/net")

class Seen(process.Worker):
    ran = False

    def started(self, base, *, further):
        self.ran = True
        super().started(base, further=further)

    def close(self):
        super().close()
        ran.append(self.ran)

def fail(*_):
    raise OSError("as where it is not allowed")

process.Worker, ran = Seen, []
CHANGE
before, error = present(), ""
try:
    rehearsal.rehearse(process.run)
except OSError as caught:
    error = str(caught)
alive = [one for one in gc.get_objects() if isinstance(one, Seen)]
try:
    os.waitpid(-1, os.WNOHANG)
    children = True
except ChildProcessError:
    children = False
after = present()
left = [now for was, now in zip(before, after) if now != was]
print(json.dumps({"left": left, "alive": len(alive) + children, "ran": ran, "error": error}))
"""


def rehearsed(change: str = "") -> dict[str, object]:
    argv = [sys.executable, "-c", PROGRAM.replace("CHANGE", change)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


@root
def test_a_guest_runs_in_each_round_and_nothing_is_left() -> None:
    assert rehearsed() == {"left": [], "alive": 0, "ran": [True] * 12, "error": ""}


@root
def test_workers_end_where_nobody_directs_them() -> None:
    found = rehearsed("rehearsal._direct = fail")
    assert found == {"left": [], "alive": 0, "ran": [False] * 12, "error": ""}


@root
def test_nothing_is_left_where_no_tap_can_be_made() -> None:
    found = rehearsed("device.make = fail")
    assert found == {"left": [], "alive": 0, "ran": [], "error": "as where it is not allowed"}


def test_code_that_runs_is_gathered_and_does_the_same() -> None:
    def runs(number: int, more: int = 1) -> int:
        return number + more

    def rests() -> None:
        pass

    before = runs.__code__, rests.__code__
    gather(lambda: runs(1))
    assert runs.__code__ is not before[0] and runs.__code__ == before[0]
    assert rests.__code__ is before[1]
    assert runs(5) == 6
    assert sys.getprofile() is None


def test_methods_that_run_are_copied_with_all_that_they_have() -> None:
    class Adder:
        def add(self, number: int, *, more: int = 1) -> int:
            """Of three numbers."""
            return number + more + constant

        def rest(self) -> None:
            pass

    constant = 1
    before, rest = Adder.add, Adder.rest
    vars(before)["mark"] = 7
    gather(lambda: Adder().add(1))
    after = Adder.add
    assert after is not before and Adder.rest is rest
    for name in ("name", "qualname", "module", "doc", "kwdefaults", "dict", "annotations"):
        assert getattr(after, f"__{name}__") == getattr(before, f"__{name}__"), name
    assert Adder().add(3) == 5 and Adder().add(3, more=2) == 6


def test_functions_of_a_module_are_copied_wherever_they_are_named() -> None:
    def double(number: int) -> int:
        return 2 * number

    modules = [ModuleType("one"), ModuleType("two")]
    sys.modules.update({module.__name__: module for module in modules})
    try:
        for module in modules:
            vars(module)["double"] = double
        gather(lambda: double(1))
        found = [vars(module)["double"] for module in modules]
        assert found[0] is found[1] is not double
        assert found[0](4) == 8
    finally:
        for module in modules:
            del sys.modules[module.__name__]


def test_references_to_what_is_gone_are_no_functions() -> None:
    class Gone:
        pass

    one = Gone()
    dead = weakref.proxy(one)  # a library may have some, and its __class__ raises ReferenceError
    del one
    gather(lambda: None)
    with pytest.raises(ReferenceError):
        isinstance(dead, int)
