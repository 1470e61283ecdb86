# SPDX-License-Identifier: Apache-2.0
"""Objects that are made after `fill` lie together."""

import subprocess
import sys

import pytest

PAGE = 4096
COUNT = 100

SPARSE = """
from ovs_vhost_plugin.worker.birth import holes
size = {size}
objects = [bytes(size - bytes().__sizeof__()) for _ in range(128 * 120)]
gap = max(1, 2 * {page} // size)
del objects[::gap]  # a hole on every second page, at most
{fill}
new = [bytes(size - bytes().__sizeof__()) for _ in range({count})]
print(len({{id(one) // {page} for one in new}}))
"""


def pages(size, fill):
    """How many pages the first bytes of `COUNT` new objects of `size` bytes are on."""
    code = SPARSE.format(size=size, page=PAGE, count=COUNT, fill=fill)
    return int(subprocess.check_output([sys.executable, "-c", code], text=True))


@pytest.mark.parametrize("size", [64, 208, 512, 672])
def test_new_objects_lie_together(size):
    needed = COUNT * size // PAGE + 1
    assert pages(size, "pass") > 1.8 * needed, "the memory has holes"
    assert pages(size, "holes.fill()") <= needed + 3
