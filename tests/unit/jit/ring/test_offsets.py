# SPDX-License-Identifier: Apache-2.0
"""The offsets are those of the specification's structs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ovs_vhost_plugin.jit.ring import offsets


def at(area: np.dtype[Any], field: str) -> int:
    assert area.fields is not None
    return int(area.fields[field][1])


@pytest.mark.parametrize("size", [1, 8, 256, 32768])
def test_the_areas_of_a_split_ring(size: int) -> None:
    """virtio 1.2, 2.7.6 and 2.7.8."""
    avail = np.dtype(
        [("flags", "<u2"), ("idx", "<u2"), ("ring", "<u2", size), ("used_event", "<u2")]
    )
    element = np.dtype([("id", "<u4"), ("len", "<u4")])
    used = np.dtype(
        [("flags", "<u2"), ("idx", "<u2"), ("ring", element, size), ("avail_event", "<u2")]
    )
    le16 = offsets.LE16
    assert le16 * offsets.AVAIL_FLAGS == at(avail, "flags")
    assert le16 * offsets.AVAIL_IDX == at(avail, "idx")
    assert le16 * offsets.AVAIL_RING == at(avail, "ring")
    assert le16 * offsets.avail_ring(size, 3 * size + size // 2) == at(avail, "ring") + (
        size // 2 * 2
    )
    assert le16 * offsets.used_event(size) == at(avail, "used_event")
    assert le16 * offsets.USED_FLAGS == at(used, "flags")
    assert le16 * offsets.USED_IDX == at(used, "idx")
    assert le16 * offsets.USED_RING == at(used, "ring") == offsets.element_byte(0)
    assert le16 * offsets.avail_event(size) == at(used, "avail_event")
    assert element.itemsize == offsets.USED_ELEMENT_BYTES
    last = size - 1
    assert offsets.element_byte(last) == at(used, "ring") + element.itemsize * last
    assert 4 * offsets.element_id(last) == element.itemsize * last + at(element, "id")
    assert 4 * offsets.element_len(last) == element.itemsize * last + at(element, "len")


def test_the_event_areas_of_a_packed_ring() -> None:
    """2.8.14."""
    area = np.dtype([("off_wrap", "<u2"), ("flags", "<u2")])
    assert at(area, "off_wrap") == offsets.LE16 * offsets.EVENT_OFF_WRAP
    assert at(area, "flags") == offsets.LE16 * offsets.EVENT_FLAGS
    assert area.itemsize == offsets.EVENT_BYTES
