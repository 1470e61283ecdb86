# SPDX-License-Identifier: Apache-2.0
"""What ended last, bounded for each port by what others have."""

from dataclasses import dataclass

from ovs_vhost_plugin.common.history import History


@dataclass(frozen=True)
class Entry:
    port: str
    number: int


def test_a_port_that_never_stops_loses_its_own_entries_and_no_others() -> None:
    history: History[Entry] = History(8)
    kept = [Entry("vhu0", 1), Entry("vhu1", 2)]
    for entry in (*kept, *(Entry("evil", n) for n in range(100)), Entry("vhu0", 3)):
        history.append(entry)
    expected = [*kept, *(Entry("evil", n) for n in range(95, 100)), Entry("vhu0", 3)]
    assert list(history) == expected and len(history) == 8


def test_of_one_port_the_newest_are_kept_in_order() -> None:
    history: History[Entry] = History(3)
    for n in range(5):
        history.append(Entry("vhu0", n))
    assert [one.number for one in history] == [2, 3, 4]
