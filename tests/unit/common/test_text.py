# SPDX-License-Identifier: Apache-2.0
"""Whatever text a row has, each line that is logged, shown or published is printable."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import ovs.vlog
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.daemon.idl import interface, read_all, tables
from support.daemon.world import NOW, OPTIONS, World

from ovs_vhost_plugin import render
from ovs_vhost_plugin.common.text import escaped
from ovs_vhost_plugin.daemon.control.commands import Commands, UsageError
from ovs_vhost_plugin.daemon.ovsdb.snapshot import Snapshot
from ovs_vhost_plugin.daemon.reconcile import Phase
from ovs_vhost_plugin.vswitchd.unixctl import NoAnswer, parse_answer

EVIL = "a\nvhu9  br0  3  running\x1b[2J\x9b\u202e\u2028[bold]\\"
TEXT = st.one_of(st.just(EVIL), st.text(max_size=12), st.sampled_from(["vhu0", "/a", "of=", ""]))
KEYS = ("announce", "addresses", "queues", "mode", "config", "status", "error", "announced")
NO_CAPTURES: Any = SimpleNamespace()
NO_METRICS: Any = SimpleNamespace(shown="")


@given(st.text(), st.text())
def test_escaped_text_is_printable_and_tells_texts_apart(one: str, other: str) -> None:
    assert escaped(one).isprintable() and (escaped(one) == escaped(other)) == (one == other)


def test_what_is_escaped_and_what_is_not() -> None:
    assert escaped("a\nb\x1b[m\u202e\ud800") == r"a\nb\x1b[m\u202e\ud800"
    assert escaped(r"a\nb") == r"a\\nb"
    assert escaped("für [bold] ☃") == "für [bold] ☃"


@settings(max_examples=100)
@given(
    TEXT, TEXT, TEXT, st.dictionaries(st.sampled_from(KEYS), TEXT, max_size=4), TEXT, st.booleans()
)
@example(EVIL, EVIL, EVIL, dict.fromkeys(KEYS, EVIL), EVIL, False)
@example("vhu0", "/a", EVIL, {}, "br0", False)
@example("vhu0", "/a", EVIL, dict.fromkeys(KEYS[:2], EVIL), "br0", True)
@example("vhu0", EVIL, EVIL, {}, "br0", False)
def test_any_row(
    name: str, path: str, mac: str, keys: dict[str, str], bridge: str, server: bool
) -> None:
    external_ids = {f"vhost-user-{key}": value for key, value in keys.items()}
    external_ids |= {"attached-mac": mac} | ({"vhost-user-mode": "server"} if server else {})
    options = {} if server else {"vhost-server-path": path}
    row = interface(name, options=options, external_ids=external_ids)
    found = tables(row, interface("other" + name))
    for one in found["Bridge"].rows.values():
        one.name = bridge
    for one in found["Open_vSwitch"].rows.values():
        one.other_config["vhost-sock-dir"] = path
    with TemporaryDirectory() as directory:
        said = _said_of(read_all(found, f"{directory}/ovs"), name, Path(directory))
    assert said
    assert not [line for line in said if not line.isprintable()]


def _said_of(snapshot: Snapshot | None, name: str, directory: Path) -> list[str]:
    """All that is logged and shown of a database, and published of its ports."""
    assert snapshot is not None
    logged: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        for level in ("info", "warn", "err", "dbg"):
            patched.setattr(ovs.vlog.Vlog, level, lambda _self, line: logged.append(line))
        world = World(directory)
        world.database.rows = snapshot
        for turn in range(3):
            world.loop.turn(NOW + turn)
        data = _overview(world)
        with pytest.raises(UsageError) as refused:
            Commands(world.loop, OPTIONS, NO_METRICS, NO_CAPTURES)._port(f"none{name}")
    shown = render.show(data)
    assert json.loads(render.as_json(data)) == data
    # Each port, and each wrong row, has a line of its own.
    lines = shown.split("\n")
    rows = len(data["ports"]) + len(data["wrong_rows"]) + len(data["faults"])
    rows += sum(port["error"] != "" for port in data["ports"])
    heads = 1 + 3 + ("sandbox" in shown)
    assert len([line for line in lines if line]) <= heads + rows
    published = [
        value
        for changes, *_ in world.database.written
        for todo in changes.values()
        for value in todo.values()
        if value is not None
    ]
    return [*logged, *lines, *published, str(refused.value)]


def _overview(world: World) -> dict[str, Any]:
    loop: Any = world.loop
    loop.announcing.counters = dict
    loop.ports.workers.sandbox, loop.ports.workers.stuck = "whole", []
    loop.forwarding.counters = {}
    for link in loop.ports.workers.links.values():
        link.stations = ()
        link.phase, link.version = Phase.STARTING, ""
    return Commands(loop, OPTIONS, NO_METRICS, NO_CAPTURES)._overview()


def test_a_port_whose_bridge_has_such_a_name_is_none() -> None:
    found = tables(interface("vhu0", options={"vhost-server-path": "/a"}))
    for one in found["Bridge"].rows.values():
        one.name = EVIL
    snapshot = read_all(found, "/run/ovs")
    assert snapshot is not None and not snapshot.ports
    assert snapshot.complaints["vhu0"].startswith("bridge-name-invalid: ")


@given(st.text())
def test_what_the_switch_says_against_a_question(text: str) -> None:
    data = json.dumps({"id": 1, "result": None, "error": text}).encode()
    answer = parse_answer(data, 1)
    assert isinstance(answer, NoAnswer) and answer.reason.isprintable()
