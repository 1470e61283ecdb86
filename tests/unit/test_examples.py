# SPDX-License-Identifier: Apache-2.0
"""The examples that need no switch do what their README says; it names them all."""

import json
import subprocess
import sys
from dataclasses import asdict

from support.checkout import TOP

from examples import replay_ring

EXAMPLES = TOP / "examples"
RING = EXAMPLES / "ring.json"


def test_the_readme_names_each_example() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.suffix in (".py", ".json", ".sh", ".yml"):
            assert f"]({path.name})" in readme


def test_the_recorded_ring_is_served_until_it_breaks() -> None:
    argv = [sys.executable, str(EXAMPLES / "replay_ring.py"), str(RING)]
    done = subprocess.run(argv, cwd=TOP, check=True, capture_output=True, text=True)
    first, second, end = done.stdout.splitlines()
    assert b"in one piece".hex() in first and b"in pieces".hex() in second
    assert end == "then the ring broke: address-outside-memory"


def test_the_recording_is_what_the_recorder_makes(tmp_path) -> None:
    replay_ring.main("record", str(tmp_path / "ring.json"))
    assert json.loads((tmp_path / "ring.json").read_text()) == json.loads(RING.read_text())


def test_a_ring_that_was_served_is_recorded_as_that() -> None:
    """What is not offered any more is not sent again."""
    recording = replay_ring.Recording(**json.loads(RING.read_text()) | {"next_avail": 2})
    assert replay_ring.replay(recording) == ([], "address-outside-memory")


def test_a_recording_has_all_of_the_memory() -> None:
    recording = replay_ring.example()
    memory = recording.memory()
    (region,) = memory.regions
    again = replay_ring.Recording(**asdict(recording)).memory()
    where = (region.guest_address, region.size)
    assert memory.read(*where) == again.read(*where)
    assert sum(map(bool, memory.read(*where))) == sum(
        map(bool, bytes.fromhex("".join(recording.rows.values())))
    )
