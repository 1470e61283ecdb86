# SPDX-License-Identifier: Apache-2.0
"""What the demo says and returns, with a stage on which nothing is played."""

import json
import os
import signal
import tempfile
from typing import ClassVar

import pytest

from ovs_vhost_plugin import demo
from ovs_vhost_plugin.lab.hosts import namespace
from ovs_vhost_plugin.lab.interruption import hear
from ovs_vhost_plugin.lab.measure.timeline import Mark, Report
from ovs_vhost_plugin.lab.platform import packages
from ovs_vhost_plugin.lab.process import LabError

REPORT = Report(
    guest="soft",
    announce="rarp",
    stopped=5.0,
    resumed=5.009,
    marks=(Mark(5.010, "SEND_RARP received", "host b"),),
    sent=100,
    lost=3,
    damaged=0,
    duplicated=0,
    reordered=0,
    unseen=0,
    outage_ms=20.0,
    delay_ms=21.0,
    downtime_ms=8.0,
    found=True,
)


@pytest.fixture
def stage(monkeypatch, tmp_path):
    """A stage whose migration does what the test says; notes how it was set up and taken down."""

    class Stage:
        played: ClassVar[list] = []
        migrate = staticmethod(lambda: REPORT)

        def __init__(self, kind, *, announces, progress):
            self.played.append((kind, announces))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.played.append("down")

    monkeypatch.setattr(demo, "Stage", Stage)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(packages, "missing", lambda programs: None)
    monkeypatch.setattr(namespace, "sweep", lambda pid=None: Stage.played.append(("sweep", pid)))
    return Stage


def test_the_table_is_for_a_person(stage, capsys):
    assert demo.main(["--guest", "soft"]) == 0
    text = capsys.readouterr().out
    assert "+10.0" in text
    assert "SEND_RARP received" in text
    assert "100 sent, 3 lost, 0 damaged" in text
    assert "20.0 ms, of which 8.0 ms" in text
    sweeps = [("sweep", None), ("sweep", os.getpid())]
    assert stage.played == [sweeps[0], ("soft", False), "down", sweeps[1]]


def test_json_is_for_a_program(stage, capsys):
    assert demo.main(["--announce", "guest", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == REPORT.as_dict()
    assert ("qemu", True) in stage.played


def test_the_timeline_is_drawn_where_it_says(stage, tmp_path, capsys):
    assert demo.main(["--guest", "soft"]) == 0
    (made,) = tmp_path.iterdir()
    assert made.name.startswith("ovs-vhost-demo-") and "SEND_RARP received" in made.read_text()
    said = capsys.readouterr()
    assert f"timeline   {made}" in said.err and str(made) not in said.out

    chosen = tmp_path / "chosen.svg"
    assert demo.main(["--format", "json", "--svg", str(chosen)]) == 0
    assert chosen.read_text() == made.read_text()
    assert demo.main(["--format", "json"]) == 0
    assert set(tmp_path.iterdir()) == {made, chosen}


def test_a_timeline_that_cannot_be_written_is_an_error_in_a_line(stage, tmp_path, capsys):
    assert demo.main(["--svg", str(tmp_path / "none" / "x.svg")]) == 1
    assert "the timeline was not written: " in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"found": False}, {"damaged": 1}])
def test_a_bad_end_is_on_the_exit_status(stage, change):
    values = {name: getattr(REPORT, name) for name in Report.__slots__}
    stage.migrate = staticmethod(lambda: Report(**{**values, **change}))
    assert demo.main(["--guest", "soft"]) == 1


def test_what_is_missing_is_said_in_one_line(stage, monkeypatch, capsys):
    monkeypatch.setattr(packages, "missing", lambda programs: "missing: something")
    assert demo.main([]) == 1
    assert capsys.readouterr().err == "ovs-vhost demo: missing: something\n"
    assert stage.played == []


def test_an_error_is_said_and_all_is_taken_down(stage, capsys):
    def fail():
        raise LabError("the guest is gone")

    stage.migrate = staticmethod(fail)
    assert demo.main([]) == 1
    assert "ovs-vhost demo: the guest is gone" in capsys.readouterr().err
    assert stage.played[-2:] == ["down", ("sweep", os.getpid())]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_order_and_the_handlers_are_put_back(stage, capsys, number):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    stage.migrate = staticmethod(lambda: (os.kill(os.getpid(), number), hear()))
    assert demo.main([]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert stage.played[-2:] == ["down", ("sweep", os.getpid())]
    assert handlers == [
        signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ]
