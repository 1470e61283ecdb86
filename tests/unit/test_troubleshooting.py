"""docs/troubleshooting.md has each name that the product gives to what is wrong, and no other."""

import importlib
import inspect
import pkgutil
import re
from enum import Enum

from support.checkout import TOP

import ovs_vhost_plugin
from ovs_vhost_plugin.announce.guests.claims import NotGiven
from ovs_vhost_plugin.announce.result import Outcome
from ovs_vhost_plugin.daemon.ovsdb.carriage import Trouble
from ovs_vhost_plugin.doctor import names as doctor
from ovs_vhost_plugin.jit.faults import Fault
from ovs_vhost_plugin.worker.tap.hold import Reason

PAGE = (TOP / "docs/troubleshooting.md").read_text()
PACKAGE = TOP / "ovs_vhost_plugin"
PARTS = sorted(
    {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__", "guest", "lab"}
)

# Names that the daemon makes without an enum: at the head of a text ("worker-stuck: ...").
_HEAD = re.compile(r"f?\"([a-z]+(?:-[a-z]+)+):[ \"]")
# Names that are made in another way.
_OTHER = {"host-stack-open", "hold-over-limit", "worker-died", "worker-sigkill"}


def enums() -> list[type[Enum]]:
    """Every enum of the product that ends in ErrorName."""
    found = []
    for part in PARTS:
        package = importlib.import_module(f"{ovs_vhost_plugin.__name__}.{part}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith((".birth.forkserver", ".worker.process")):
                continue  # programs
            loaded = importlib.import_module(module.name)
            found += [
                value
                for name, value in inspect.getmembers(loaded, inspect.isclass)
                if name.endswith("ErrorName") and value.__module__ == loaded.__name__
            ]
    return found


def names() -> set[str]:
    named = {
        str(member.value)
        for enum in (*enums(), NotGiven, Reason, Outcome, Trouble)
        for member in enum
    }
    heads = {
        head
        for part in PARTS
        for path in (PACKAGE / part).rglob("*.py")
        for head in _HEAD.findall(path.read_text())
    }
    return named | {fault.kebab for fault in Fault} | heads


def entries() -> list[str]:
    """The names in the tables, in their first column or in the one headed `names`."""
    found, column = [], 1
    for line in PAGE.partition("## The row")[2].splitlines():
        cells = line.split("|")
        if len(cells) < 2:
            column = 1
        elif " names " in cells:
            column = cells.index(" names ")
        else:
            found += re.findall(r"`([a-z]+(?:-[a-z]+)*)`", cells[column])
    return found


def test_every_name_has_an_entry():
    assert len(names()) > 200
    assert sorted((names() | _OTHER) - set(entries())) == []


def test_the_doctor_has_every_name():
    assert sorted((names() | _OTHER) - doctor.entries().keys()) == []


def test_no_entry_is_of_a_name_that_is_no_more():
    compound = {name for name in entries() if "-" in name} - {"memory-backend-memfd"}
    assert sorted(compound - names() - _OTHER) == []


def test_no_name_has_two_entries():
    said = entries()
    assert sorted({name for name in said if said.count(name) > 1}) == []
