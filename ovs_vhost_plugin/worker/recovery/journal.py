# SPDX-License-Identifier: Apache-2.0
"""The file in which a port's rings outlive their worker, and whose ring each part of it is.

The daemon gives every worker a file of its own that begins as a copy of the one before
(`daemon/workers/journals.py`), so nobody else writes it; what the one before wrote is checked by
`jit/recovery/resume.py`. A part that names a ring is about that ring as it is left alone by its
front-end: GET_VRING_BASE hands it over, and its part then names none.
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
"""Part of every identity: a later release that means other things by these words counts it up."""
IDENTITY_BYTES = 16

assert JOURNAL_BYTES == 8 * WORDS

_NAME = slice(IDENTITY, IDENTITY + IDENTITY_BYTES // 8)


def fresh() -> Words:
    """A ring's journal in memory of this process."""
    return np.zeros(WORDS, np.int64)


def open_file(fd: int, vrings: int) -> list[Words]:
    """The journals of that many vrings in the file `fd`, which stays the caller's."""
    words = mapping.map_shared(fd, 0, vrings * JOURNAL_BYTES).view(np.int64)
    return [words[WORDS * i : WORDS * (i + 1)] for i in range(vrings)]


def names(words: Words, identity: bytes) -> bool:
    """Whether this is the journal of that ring."""
    return len(identity) == IDENTITY_BYTES and words[_NAME].tobytes() == identity


def begin(ring: layout.Vring, identity: bytes) -> None:
    """Have a ring's journal be of this ring, where it stands, unless it is already."""
    words, state = ring.journal, ring.state[0]
    if names(words, identity) and not (state["packed"] and words[FLUSHED] != state["flushed"]):
        return
    end(words)
    words[FLUSHED] = words[BEGUN] = state["next_used"]
    if not identity:
        return  # in postcopy the ring may not even be read
    if state["packed"]:
        words[DEVICE_EVENT] = words[DEVICE_EVENT_BEFORE] = (
            int(ring.used[EVENT_OFF_WRAP]) | int(ring.used[EVENT_FLAGS]) << 16
        )
    words[_NAME] = np.frombuffer(identity, np.int64)


def end(words: Words) -> None:
    """Have it be of no ring."""
    words[_NAME] = 0
