# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.announce.policy import DEFAULT, Policy, PolicyError, parse
from ovs_vhost_plugin.openflow.wire import Output


def test_nothing_said_is_the_default():
    assert parse("") == parse("  ") == DEFAULT
    assert DEFAULT.enabled and DEFAULT.output is Output.TABLE


def test_every_key_is_read():
    text = "frames=na,evpn output=normal rounds=3 initial=10 max=70 step=20 guest-silent=500"
    assert parse(text, ["evpn"]) == Policy(
        frames=("na", "evpn"),
        output=Output.NORMAL,
        rounds=3,
        initial=10,
        max=70,
        step=20,
        guest_silent=500,
    )
    assert [parse(f"rounds={number}").rounds for number in (1, 1000)] == [1, 1000]
    assert parse("off") == Policy(enabled=False)
    assert parse("output=table", default=Policy(output=Output.NORMAL)).output is Output.TABLE


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("of", "announce-key-unknown"),
        ("frame=rarp", "announce-key-unknown"),
        ("off rounds=1", "announce-key-twice"),
        ("rounds=1 rounds=2", "announce-key-twice"),
        ("rounds=0", "announce-value-invalid"),
        ("rounds=1001", "announce-value-invalid"),
        ("rounds=-1", "announce-value-invalid"),
        ("rounds=٣", "announce-value-invalid"),
        ("initial=", "announce-value-invalid"),
        ("initial=1=1", "announce-value-invalid"),
        ("output=flood", "announce-value-invalid"),
        ("guest-silent=1.5", "announce-value-invalid"),
        ("frames=", "announce-frames-unknown"),
        ("frames=rarp,smoke", "announce-frames-unknown"),
    ],
)
def test_what_is_wrong_has_a_name_and_advice(text, name):
    with pytest.raises(PolicyError) as wrong:
        parse(text)
    assert wrong.value.name == name
    assert 10 < len(wrong.value.text) < 160


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("rounds=0", "set rounds to 1 to 1000"),
        ("frames=x", "set frames to of "),
        ("output=x", "set output to table or normal"),
        ("state=x", "set state to on or off"),
        ("x=1", "use 'off' or frames, output, "),
    ],
)
def test_the_advice_says_what_to_set(text, advice):
    with pytest.raises(PolicyError) as wrong:
        parse(text)
    assert advice in wrong.value.text


def test_the_rounds_are_qemus():
    delays = [DEFAULT.delay(done) for done in range(1, 6)]
    assert delays == [0.05, 0.15, 0.25, 0.35, None]


@given(st.integers(1, 30), st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 100))
def test_no_delay_is_longer_than_max_and_the_rounds_end(rounds, initial, most, step):
    policy = parse(f"rounds={rounds} initial={initial} max={most} step={step}")
    delays = [policy.delay(done) for done in range(1, rounds + 1)]
    assert delays[-1] is None
    assert all(0 < delay <= most / 1e3 for delay in delays[:-1])


@given(
    st.text() | st.lists(st.sampled_from(["off", "rounds", "=", "1", " ", "frames"])).map("".join)
)
def test_any_text_is_a_policy_or_a_named_error(text):
    try:
        assert isinstance(parse(text), Policy)
    except PolicyError as wrong:
        assert str(wrong).startswith(wrong.name)


def test_off_beside_anything_else_says_so():
    with pytest.raises(PolicyError) as wrong:
        parse("off rounds=2")
    assert str(wrong.value).endswith(": 'off' stands alone")


def test_frames_that_are_not_known_are_told_those_that_are():
    with pytest.raises(PolicyError) as wrong:
        parse("frames=odd")
    assert str(wrong.value).endswith(": set frames to of rarp,garp,na")


def test_hold_and_state_are_on_or_off():
    assert not DEFAULT.state and not parse("hold=off").state and parse("state=on").state
    assert DEFAULT.hold and parse("hold=on").hold and not parse("hold=off rounds=2").hold
    with pytest.raises(PolicyError, match="announce-value-invalid"):
        parse("hold=maybe")


@pytest.mark.parametrize(
    ("text", "state"),
    [("", True), ("off", True), ("hold=off", True), ("state=off", False), ("state=on", True)],
)
def test_what_a_policy_does_not_say_is_as_by_default(text, state):
    assert parse(text, default=Policy(state=True, rounds=7)).state is state
    assert parse(text, default=Policy(state=True, rounds=7)).rounds == 7
