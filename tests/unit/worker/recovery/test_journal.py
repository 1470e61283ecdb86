# SPDX-License-Identifier: Apache-2.0
"""A ring's journal names its ring only while what it says is of that ring."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ovs_vhost_plugin.ipc.spec import JOURNAL_BYTES
from ovs_vhost_plugin.worker.recovery import journal

ONE, ANOTHER = b"one ring of many", b"another of these"


class Watched(np.ndarray[Any, np.dtype[np.int64]]):
    """Words that note after each write whether the journal names ONE."""

    named: list[bool]

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if hasattr(self, "named"):
            self.named.append(journal.names(self.view(np.ndarray), ONE))


def begin(words: journal.Words, identity: bytes, position: int) -> None:
    state = {"packed": False, "next_used": position, "flushed": position}
    journal.begin(SimpleNamespace(journal=words, state=[state]), identity)  # type: ignore[arg-type]


def test_a_ring_that_cannot_be_told_has_no_journal() -> None:
    """Or that of the ring before it would be believed by the next worker."""
    words = journal.fresh()
    begin(words, ONE, 7)
    assert journal.names(words, ONE)
    begin(words, b"", 9)
    assert not journal.names(words, ONE) and not journal.names(words, b"")


def test_it_is_of_no_ring_while_it_becomes_anothers() -> None:
    """A worker may be killed between any two of its writes."""
    words = journal.fresh()
    begin(words, ONE, 7)
    watched = words.view(Watched)
    watched.named = []
    begin(watched, ANOTHER, 9)
    assert len(watched.named) > 2 and not any(watched.named)
    assert journal.names(words, ANOTHER)


def test_the_journal_of_a_ring_that_goes_on_is_left_as_it_is() -> None:
    words = journal.fresh()
    begin(words, ONE, 7)
    before = words.copy()
    begin(words, ONE, 9)
    assert words.tolist() == before.tolist()


def test_a_journal_without_room_is_found_out_and_not_written(tmp_path: Path) -> None:
    """A file that was cut is as good as a disk that is full: there is no page to be had."""
    file = tmp_path / "journal"
    file.write_bytes(bytes(2 * JOURNAL_BYTES))
    with file.open("r+b") as opened:
        there, gone = journal.open_file(opened.fileno(), 2)
        opened.truncate(JOURNAL_BYTES)
        assert journal.reserve(there)
        assert not journal.reserve(gone)
