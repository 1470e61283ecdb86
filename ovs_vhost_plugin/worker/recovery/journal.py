# SPDX-License-Identifier: Apache-2.0
"""The journal: a file in which a port's rings outlive their worker, with a part for each ring.

The daemon gives every worker a file of its own, which begins as a copy of the previous worker's
(`daemon/workers/journals.py`), so nobody else writes the file. `jit/recovery/resume.py` checks the
previous worker's words. A part that names a ring is valid until GET_VRING_BASE hands that ring
over; then the part names no ring.
"""

from __future__ import annotations

import numpy as np

from ovs_vhost_plugin.ipc.spec import JOURNAL_BYTES
from ovs_vhost_plugin.jit import layout
from ovs_vhost_plugin.jit.recovery.journal import (
    BEGUN,
    DEVICE_EVENT,
    DEVICE_EVENT_BEFORE,
    FLUSHED,
    IDENTITY,
    WORDS,
)
from ovs_vhost_plugin.jit.ring.offsets import EVENT_FLAGS, EVENT_OFF_WRAP
from ovs_vhost_plugin.vhost.memory import mapping
from ovs_vhost_plugin.worker.device.vringconfig import Words

FORMAT = 1
"""Part of every identity. A release that changes the meaning of the words counts it up."""
IDENTITY_BYTES = 16

assert JOURNAL_BYTES == 8 * WORDS

_NAME = slice(IDENTITY, IDENTITY + IDENTITY_BYTES // 8)


def fresh() -> Words:
    """A ring's journal in this process's memory."""
    return np.zeros(WORDS, np.int64)


def open_file(fd: int, vrings: int) -> list[Words]:
    """The journals of `vrings` vrings in the file `fd`, which stays the caller's."""
    words = mapping.map_shared(fd, 0, vrings * JOURNAL_BYTES).view(np.int64)
    return [words[WORDS * i : WORDS * (i + 1)] for i in range(vrings)]


def reserve(words: Words) -> bool:
    """Allocate a journal's pages; False: the run directory's disk is full.

    A write into a page that cannot be allocated would end this process (SIGBUS). Such a page has
    nothing in it, so the ring loses nothing by another journal.
    """
    return mapping.populate(words.view(np.uint8))


def names(words: Words, identity: bytes) -> bool:
    """Whether `words` are the journal of the ring `identity`."""
    return len(identity) == IDENTITY_BYTES and words[_NAME].tobytes() == identity


def begin(ring: layout.Vring, identity: bytes) -> None:
    """Make the ring's journal name this ring, at its place, unless the journal names it already."""
    words, state = ring.journal, ring.state[0]
    if names(words, identity) and not (state["packed"] and words[FLUSHED] != state["flushed"]):
        return
    end(words)
    words[FLUSHED] = words[BEGUN] = state["next_used"]
    if not identity:
        return  # in postcopy the ring must not even be read
    if state["packed"]:
        words[DEVICE_EVENT] = words[DEVICE_EVENT_BEFORE] = (
            int(ring.used[EVENT_OFF_WRAP]) | int(ring.used[EVENT_FLAGS]) << 16
        )
    words[_NAME] = np.frombuffer(identity, np.int64)


def end(words: Words) -> None:
    """Make the journal name no ring."""
    words[_NAME] = 0
