# SPDX-License-Identifier: Apache-2.0
"""Commands and specs as JSON: what is written is read again, and nothing else is."""

import json
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.ipc import commands
from ovs_vhost_plugin.ipc.codec import Count, MessageError, Text, codec_of
from ovs_vhost_plugin.ipc.commands import HELLO, Command
from ovs_vhost_plugin.ipc.spec import PortSettings, WorkerSpec
from ovs_vhost_plugin.net.station import StationKey

MAC = bytes.fromhex("525400000001")


def other(default: object) -> object:
    """Another value of a setting."""
    match default:
        case bool():
            return not default
        case int():
            return default + 1
        case bytes():
            return MAC
    return 9000


OTHER = PortSettings(**{one.name: other(one.default) for one in fields(PortSettings)})  # type: ignore[arg-type]
SPEC = WorkerSpec("vhu0", "client", "/run/vm.sock", 4, OTHER, 0x70000007, 0x70000007)
JSON: dict[str, Any] = codec_of(WorkerSpec).encode(SPEC)
COMMANDS: tuple[Command, ...] = (
    commands.DaemonHello("0.1"),
    commands.Configure(OTHER),
    commands.GetStats(-3),
    commands.Connected(),
    commands.GiveQueue(3),
    commands.Inject((b"\0\1", b"")),
    commands.Release(7, (StationKey(MAC, 0), StationKey(MAC, 4094))),
    commands.ForgetStations((StationKey(MAC, 7),)),
    commands.GiveUserfaultfd(),
    commands.RefuseUserfaultfd("asked for too often"),
    commands.HandOver(11),
    commands.CaptureFrames(3, 96),
    commands.EndCapture(),
    commands.Quit(),
)


def test_a_worker_spec_survives_the_wire() -> None:
    assert codec_of(WorkerSpec).decode(json.loads(json.dumps(JSON))) == SPEC


@pytest.mark.parametrize("field", [f.name for f in fields(PortSettings)])
@pytest.mark.parametrize("value", [[], {}, 0.5, "no such", -1, 1 << 64, "0" * 99])
def test_a_setting_of_a_wrong_type_or_size_is_refused(field: str, value: object) -> None:
    wrong = {**JSON, "settings": {**JSON["settings"], field: value}}
    with pytest.raises(MessageError, match=f"^settings: {field}: "):
        codec_of(WorkerSpec).decode(wrong)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 1),
        ("name", "x" * 65),
        ("mode", "both"),
        ("path", "/" * 4097),
        ("queues", "4"),
        ("queues", True),
        ("queues", 0),
        ("queues", 129),
        ("settings", None),
        ("uid", None),
        ("gid", -1),
    ],
)
def test_a_worker_spec_of_wrong_types_is_refused(field: str, value: object) -> None:
    with pytest.raises(MessageError, match=f"^{field}: "):
        codec_of(WorkerSpec).decode({**JSON, field: value})


@pytest.mark.parametrize("value", [None, [], {}, {**JSON, "name": 5}])
def test_what_is_no_worker_spec_is_refused(value: object) -> None:
    with pytest.raises(MessageError, match=r"no object|fields|name"):
        codec_of(WorkerSpec).decode(value)


def test_every_command_is_tried_here() -> None:
    assert [type(command) for command in COMMANDS] == list(get_args(Command))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_survives_the_wire(command: Command) -> None:
    said = json.loads(json.dumps(commands.encode(command)))
    assert commands.decode(said, range(command.FDS)) == command


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_with_other_fds_is_none_and_other_fields_do_not_count(command: Command) -> None:
    said = commands.encode(command)
    with pytest.raises(MessageError, match=f"{command.FDS + 1} fds"):
        commands.decode(said, range(command.FDS + 1))
    assert commands.decode({**said, "more": 1}, range(command.FDS)) == command


@pytest.mark.parametrize("said", [{}, {"op": None}, {"op": ["quit"]}, {"op": "started"}])
def test_what_is_no_command(said: dict[str, Any]) -> None:
    with pytest.raises(MessageError, match=r"no (such )?op"):
        commands.decode(said, ())


def test_a_hello_of_another_form_is_refused() -> None:
    said = commands.encode(commands.DaemonHello("9.9"))
    with pytest.raises(MessageError, match="protocol"):
        commands.decode({**said, "protocol": HELLO + 1}, range(3))


def test_workers_of_protocol_2_get_the_hello_that_they_take() -> None:
    said = commands.encode(commands.DaemonHello("9.9"))
    assert said == {"op": "hello", "version": "9.9", "protocol": 2}


def test_the_commands_of_protocol_2_are_still_known() -> None:
    assert set(commands.KNOWN_AT_FIRST) <= set(commands.KNOWN)
    assert set(commands.KNOWN) == {command.WIRE_NAME for command in COMMANDS}


@given(
    st.fixed_dictionaries(
        {name: st.none() | st.booleans() | st.integers() | st.text() for name in JSON["settings"]}
    )
)
def test_any_settings_are_settings_or_refused(values: dict[str, object]) -> None:
    try:
        settings = codec_of(PortSettings).decode(values)
    except MessageError:
        return
    assert codec_of(PortSettings).encode(settings) == values
    assert replace(settings) == settings


def test_a_field_without_bounds_is_seen_when_its_message_is_declared() -> None:
    @dataclass
    class Bare:
        text: str

    @dataclass
    class Bounded:
        text: Annotated[str, Text(3)]
        count: Annotated[int, Count(3)] | None

    with pytest.raises(TypeError, match="declare its bounds"):
        codec_of(Bare)
    assert codec_of(Bounded).decode({"text": "abc", "count": None}) == Bounded("abc", None)
