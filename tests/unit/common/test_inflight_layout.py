# SPDX-License-Identifier: Apache-2.0
"""The declared structs of in-flight regions are the specification's, as the references spell it."""

import struct

import numpy as np
import pytest
from support.jit import inflight_packed_reference as packed
from support.jit import inflight_reference as split

from ovs_vhost_plugin.common.inflight_layout import PACKED, SPLIT, layout_of

SPLIT_HEADER = ("features", "version", "desc_num", "last_batch_head", "used_idx")
SPLIT_ENTRY = ("inflight", "next", "counter")


@pytest.mark.parametrize(
    ("record", "reference", "names"),
    [
        (SPLIT.header, split.HEADER, SPLIT_HEADER),
        (SPLIT.entry, split.ENTRY, SPLIT_ENTRY),
        (PACKED.header, packed.HEADER, packed.HEADER_FIELDS),
        (PACKED.entry, packed.ENTRY, packed.ENTRY_FIELDS),
    ],
    ids=["split header", "split entry", "packed header", "packed entry"],
)
def test_each_field_is_where_the_specification_has_it(
    record: np.dtype, reference: struct.Struct, names: tuple[str, ...]
) -> None:
    assert record.names is not None
    assert tuple(name for name in record.names if name != "padding") == names
    assert record.itemsize == reference.size
    values = tuple(range(1, len(names) + 1))
    read = np.frombuffer(reference.pack(*values), record)[0]
    assert tuple(int(read[name]) for name in names) == values


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_part_is_a_header_and_entries(is_packed: bool) -> None:
    layout = layout_of(packed=is_packed)
    assert layout is (PACKED if is_packed else SPLIT)
    part = np.zeros(layout.length(3), np.uint8)
    layout.header_of(part)["version"] = 7
    entries = layout.entries_of(part)
    assert len(entries) == 3
    entries[2]["counter"] = 9
    assert int(layout.header_of(part)["version"]) == 7
    assert part.tobytes().count(b"\0") == len(part) - 2
