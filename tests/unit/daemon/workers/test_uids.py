# SPDX-License-Identifier: Apache-2.0
"""No two workers of a machine are ever the same user."""

import os
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from pathlib import Path

import pytest

from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.daemon.options import Options
from ovs_vhost_plugin.daemon.sockets.listener import Owner
from ovs_vhost_plugin.daemon.workers.uids import FIRST, LAST, Uids, beginning, following, worker_ids

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root has such directories")
OPTIONS = Options("unix:x", None, False, None, None, 0o660)
NAMESPACE = 0xF0000000  # the first that is given: PROC_DYNAMIC_FIRST, fs/proc/generic.c


def test_whom_workers_run_as(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = Uids(tmp_path / "last")
    given.path.write_text(f"{FIRST + 6:010d}\n")
    user = Options("unix:x", None, False, Owner(5, 6), None, 0o660)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert worker_ids(OPTIONS, given) == (FIRST + 7, FIRST + 7)
    assert worker_ids(user, given) == (5, 6)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert worker_ids(OPTIONS, given) == (0, 0)


def test_a_number_is_given_once_and_goes_round_the_range(tmp_path: Path) -> None:
    given = Uids(tmp_path / "last")
    first = given.allocate()
    assert [given.allocate() for _ in range(3)] == [following(first + i) for i in range(3)]
    given.path.write_text(f"{LAST - 1:010d}\n")
    assert [given.allocate() for _ in range(3)] == [LAST, FIRST, FIRST + 1]
    assert given.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", "0000000000\n", "many\n", "4294967295\n", "99"])
def test_a_file_that_says_nothing_is_begun_anew(tmp_path: Path, content: str) -> None:
    given = Uids(tmp_path / "last")
    given.path.write_text(content)
    first = given.allocate()
    assert FIRST <= first <= LAST and given.allocate() == following(first)


def test_daemons_that_count_at_once_share_no_number(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        parts = list(pool.map(_allocate, [tmp_path / "last"] * 4))
    numbers = [number for part in parts for number in part]
    assert len(set(numbers)) == len(numbers) == 400


def _allocate(path: Path) -> list[int]:
    given = Uids(path)
    return [given.allocate() for _ in range(100)]


def test_containers_without_a_file_in_common_begin_far_from_each_other() -> None:
    begun = [beginning(NAMESPACE + i, file=2) for i in range(200)]
    assert all(FIRST <= one <= LAST for one in begun)
    assert min(abs(a - b) for a, b in combinations(begun, 2)) > 100_000
    # Nor do two in one namespace, by their files.
    assert abs(beginning(NAMESPACE, file=2) - beginning(NAMESPACE, file=3)) > 100_000


def test_the_machine_s_file_is_used_where_its_directory_is_ours(tmp_path: Path) -> None:
    state = StateDir.create(tmp_path)
    machine = tmp_path / "machine"
    found = Uids.of_machine(state, machine)
    if os.geteuid() == 0:
        assert found.path.parent == machine and machine.stat().st_mode & 0o022 == 0
    else:
        assert found.path.parent == state.path


@AS_ROOT
def test_a_directory_that_others_may_write_counts_for_nothing(tmp_path: Path) -> None:
    state = StateDir.create(tmp_path)
    machine = tmp_path / "machine"
    machine.mkdir()
    machine.chmod(0o777)
    assert Uids.of_machine(state, machine).path.parent == state.path


@AS_ROOT
def test_a_link_in_the_file_s_place_is_not_followed(tmp_path: Path) -> None:
    given = Uids(tmp_path / "last")
    given.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        given.allocate()
    assert not (tmp_path / "elsewhere").exists()
