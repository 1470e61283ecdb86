# SPDX-License-Identifier: Apache-2.0
"""Kernels are stepped through between two signals, which mean nothing to these tests."""

import signal
from collections.abc import Iterator

import pytest

from bench import singlestep


@pytest.fixture(autouse=True)
def _marker_means_nothing() -> Iterator[None]:
    before = signal.signal(singlestep.MARKER, signal.SIG_IGN)
    yield
    signal.signal(singlestep.MARKER, before)
