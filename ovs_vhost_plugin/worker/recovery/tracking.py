# SPDX-License-Identifier: Apache-2.0
"""The common shape of split and packed rings whose chains in flight a front-end keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovs_vhost_plugin.jit import layout
from ovs_vhost_plugin.jit.faults import Fault

Bytes = NDArray[np.uint8]


class DamagedError(Exception):
    """The region does not fit the ring; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.kebab)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Tracking(ABC):
    """A ring whose chains in flight are tracked in its part of the front-end's region.

    Kernels that run the ring use `tracker` and `region` by their addresses: this must live as long.
    """

    ring: layout.Vring
    region: Bytes  # the ring's part: see common/inflight_layout.py
    memory: layout.Memory
    net: layout.Net
    tracker: Bytes  # a TRACKER of jit/recovery/inflight_split.py or inflight_packed.py
    heads: list[int]  # entries of the chains in flight when the ring began, oldest first

    @abstractmethod
    def hand_over(self, *, keep: bool) -> int:
        """Leave nothing in flight in the stopped ring; return its index or position.

        The region is then as if it had never been used, and the next back-end pops the chains that
        were in flight from the ring again. With `keep`, chains that the ring has no more may stay
        in flight (vhost-user VHOST_USER_GET_VRING_BASE with GET_VRING_BASE_INFLIGHT).
        """
