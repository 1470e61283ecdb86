# SPDX-License-Identifier: Apache-2.0
"""The journals as files: a new one for each worker, with what the one before said."""

import os
from pathlib import Path

import pytest

from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.daemon.workers import journals
from ovs_vhost_plugin.ipc.spec import JOURNAL_BYTES


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir.create(tmp_path)


def test_the_next_worker_gets_a_copy_that_the_one_before_cannot_change(state: StateDir) -> None:
    path = state.journal("/run/vm0.sock")
    first = journals.renew(path, 4)
    assert os.fstat(first).st_size == 4 * JOURNAL_BYTES
    os.pwrite(first, b"here", JOURNAL_BYTES)
    second = journals.renew(path, 4)
    os.pwrite(first, b"late", JOURNAL_BYTES)
    os.ftruncate(first, 0)
    assert os.pread(second, 4, JOURNAL_BYTES) == b"here"
    assert os.fstat(second).st_blocks * 512 < JOURNAL_BYTES  # what is zero takes no memory
    third = journals.renew(path, 4)
    assert os.pread(third, 4, JOURNAL_BYTES) == b"here"
    for fd in (first, second, third):
        os.close(fd)
    assert [path.name for path in state.journals.iterdir()] == [state.journal("/run/vm0.sock").name]


def test_a_journal_cut_short_by_the_worker_before_is_whole_for_the_next(state: StateDir) -> None:
    path = state.journal("vhu0")
    fd = journals.renew(path, 2)
    os.ftruncate(fd, 100)
    os.close(fd)
    fd = journals.renew(path, 2)
    assert os.fstat(fd).st_size == 2 * JOURNAL_BYTES
    os.close(fd)


def test_journals_of_guests_whose_ports_are_gone_are_kept_within_bounds(state: StateDir) -> None:
    for i in range(100):
        os.close(journals.renew(state.journal(f"/gone{i}"), 2))
        os.utime(state.journal(f"/gone{i}"), (i, i))
    os.close(journals.renew(state.journal("/here"), 2))
    os.utime(state.journal("/here"), (0, 0))
    journals.tidy(state, {"/here"})
    kept = {state.journal(socket) for socket in ("/here", *(f"/gone{i}" for i in range(36, 100)))}
    assert set(state.journals.iterdir()) == kept


def test_the_directory_is_tidied_once_for_many_ports(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    tidied: list[set[str]] = []
    monkeypatch.setattr(journals, "tidy", lambda _, sockets: tidied.append(set(sockets)))
    used = journals.Journals(state)
    used.uses("here", "/here")
    for number in range(640):
        used.uses(f"gone{number}", f"/gone{number}")
        used.forget(f"gone{number}", {"here"})
    assert tidied == [{"/here"}] * 10


def test_nothing_is_tidied_while_a_workers_socket_is_unknown(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    tidied: list[object] = []
    monkeypatch.setattr(journals, "tidy", lambda *_: tidied.append(_))
    used = journals.Journals(state)
    for number in range(200):
        used.forget(f"gone{number}", {"adopted"})
    assert not tidied
    used.uses("adopted", "/adopted")
    used.forget("gone", {"adopted"})
    assert len(tidied) == 1
