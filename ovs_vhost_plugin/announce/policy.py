# SPDX-License-Identifier: Apache-2.0
"""How a port is announced: `external_ids:vhost-user-announce`, read and checked. Pure.

The value is a list of words, `KEY=VALUE` or the one word `off`; each key is a row of one table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

from ovs_vhost_plugin.common.named import NamedError
from ovs_vhost_plugin.openflow.wire import Output

BUILT_IN = ("rarp", "garp", "na")
"""Frames made here: reverse ARP, gratuitous ARP, unsolicited neighbour advertisement."""


class PolicyErrorName(StrEnum):
    """The faults of a policy."""

    KEY_UNKNOWN = "announce-key-unknown"
    KEY_TWICE = "announce-key-twice"
    VALUE_INVALID = "announce-value-invalid"
    FRAMES_UNKNOWN = "announce-frames-unknown"


class PolicyError(NamedError):
    """A text is no policy; the error's text says what to do."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How a guest is announced: by which frames, where to, how often.

    enabled  whether anything but `vhost/announce` announces
    frames   names of frames, built in or of entry points, in the order they are sent in
    output   where the bridge takes them: through its flow table, or past it (NORMAL)
    rounds, initial, max, step  as QEMU's announce parameters; times in ms
    guest_silent  ms after which a guest that was to announce itself is announced; None: never
    hold     whether frames for a guest that migrates away are held and forwarded
    state    whether what a guest is known to use moves with it, as device state: between hosts that
             all do so, and front-ends that all know of it
    """

    enabled: bool = True
    frames: tuple[str, ...] = BUILT_IN
    output: Output = Output.TABLE
    rounds: int = 5
    initial: int = 50
    max: int = 550
    step: int = 100
    guest_silent: int | None = None
    hold: bool = True
    state: bool = False

    def delay(self, done: int) -> float | None:
        """Seconds to the next round after `done` rounds, None if there is none.

        As QEMU counts it (qemu_announce_timer_step): by default 50, 150, 250 and 350 ms.
        """
        if done >= self.rounds:
            return None
        return min(self.initial + (done - 1) * self.step, self.max) / 1e3


DEFAULT = Policy()


def parse(text: str, formats: Collection[str] = (), default: Policy = DEFAULT) -> Policy:
    """Read a policy; `default` says what it does not. Raises PolicyError.

    `formats` are the names of the entry points there are.
    """
    words = text.split()
    if "off" in words:
        if len(words) > 1:
            raise PolicyError(PolicyErrorName.KEY_TWICE, "'off' stands alone")
        return replace(default, enabled=False)
    found: dict[str, object] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in _KEYS:
            known = ", ".join(_KEYS)
            raise PolicyError(PolicyErrorName.KEY_UNKNOWN, f"{key!r:.40}: use 'off' or {known}")
        field, read = _KEYS[key]
        if field in found:
            raise PolicyError(PolicyErrorName.KEY_TWICE, f"give {key} once")
        found[field] = read(key, value, formats)
    return replace(default, **found)  # type: ignore[arg-type]


def _number(least: int, most: int, key: str, value: str, _formats: Collection[str]) -> int:
    if not re.fullmatch("[0-9]{1,6}", value) or not least <= int(value) <= most:
        raise PolicyError(PolicyErrorName.VALUE_INVALID, f"set {key} to {least} to {most}")
    return int(value)


def _frames(key: str, value: str, formats: Collection[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(value.split(",")))
    known = [*BUILT_IN, *sorted(formats)]
    for name in names:
        if name not in known:
            raise PolicyError(
                PolicyErrorName.FRAMES_UNKNOWN, f"{name!r:.40}: set {key} to of {','.join(known)}"
            )
    return names


def _output(key: str, value: str, _formats: Collection[str]) -> Output:
    if value not in ("table", "normal"):
        raise PolicyError(PolicyErrorName.VALUE_INVALID, f"set {key} to table or normal")
    return Output[value.upper()]


def _switch(key: str, value: str, _formats: Collection[str]) -> bool:
    if value not in ("on", "off"):
        raise PolicyError(PolicyErrorName.VALUE_INVALID, f"set {key} to on or off")
    return value == "on"


# The bounds of rounds, initial, max and step are QEMU's own (migration/options.c).
_KEYS: Mapping[str, tuple[str, Callable[[str, str, Collection[str]], object]]] = {
    "frames": ("frames", _frames),
    "output": ("output", _output),
    "rounds": ("rounds", partial(_number, 1, 1000)),
    "initial": ("initial", partial(_number, 1, 100_000)),
    "max": ("max", partial(_number, 1, 100_000)),
    "step": ("step", partial(_number, 1, 10_000)),
    "guest-silent": ("guest_silent", partial(_number, 1, 600_000)),
    "hold": ("hold", _switch),
    "state": ("state", _switch),
}
