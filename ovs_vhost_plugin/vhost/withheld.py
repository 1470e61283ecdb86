# SPDX-License-Identifier: Apache-2.0
"""Features that a port does not offer its front-end, by their names in the specifications.

Some guests acknowledge features that they cannot use, and a front-end offers its guest every
feature that its back-end offers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from ovs_vhost_plugin.common.named import NamedError
from ovs_vhost_plugin.common.text import escaped
from ovs_vhost_plugin.vhost.spec import Feature, ProtocolFeature


class WithheldErrorName(StrEnum):
    """Errors of a feature's name."""

    UNKNOWN = "feature-unknown"
    AMBIGUOUS = "feature-ambiguous"
    NEEDED = "feature-needed"


class WithheldError(NamedError):
    """A name that withholds nothing; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Withheld:
    """Two bit masks: virtio's features and vhost-user's protocol features."""

    features: int = 0
    protocol_features: int = 0

    def __or__(self, other: Withheld) -> Withheld:
        return Withheld(
            self.features | other.features, self.protocol_features | other.protocol_features
        )


NOTHING = Withheld()

# virtio 1.2, 6 "Reserved Feature Bits", and <linux/virtio_ring.h>'s names of two of them
_TRANSPORT = {
    Feature.NOTIFY_ON_EMPTY: ("VIRTIO_F_NOTIFY_ON_EMPTY",),
    Feature.ANY_LAYOUT: ("VIRTIO_F_ANY_LAYOUT",),
    Feature.RING_INDIRECT_DESC: ("VIRTIO_F_INDIRECT_DESC", "VIRTIO_RING_F_INDIRECT_DESC"),
    Feature.RING_EVENT_IDX: ("VIRTIO_F_EVENT_IDX", "VIRTIO_RING_F_EVENT_IDX"),
    # vhost-user "Migration" and "Communication"
    Feature.LOG_ALL: ("VHOST_F_LOG_ALL",),
    Feature.PROTOCOL_FEATURES: ("VHOST_USER_F_PROTOCOL_FEATURES",),
}
_FIRST_TRANSPORT, _LAST_TRANSPORT = 32, 41
_PREFIX = re.compile(
    r"(VIRTIO_NET_F_|VIRTIO_RING_F_|VIRTIO_F_|VHOST_USER_PROTOCOL_F_|VHOST_\w*?F_)"
)
_SHOWN = 40  # characters of a word that is no name

_NEEDED = Feature.PROTOCOL_FEATURES
"""Not to be withheld: without it there are no refusals, no second queue pair, no migration."""


def _full_names() -> dict[str, Withheld]:
    named = {}
    for feature in Feature:
        prefix = "VIRTIO_F_" if _FIRST_TRANSPORT <= feature <= _LAST_TRANSPORT else "VIRTIO_NET_F_"
        for name in _TRANSPORT.get(feature, (prefix + feature.name,)):
            named[name] = Withheld(features=feature.mask)
    for protocol in ProtocolFeature:
        name = f"VHOST_USER_PROTOCOL_F_{protocol.name}"
        named[name] = Withheld(protocol_features=protocol.mask)
    return named


_FULL = _full_names()


def parse(text: str) -> tuple[Withheld, list[WithheldError]]:
    """The features named in `text`, separated by commas or spaces, and the errors of wrong names.

    A name may lack its prefix where only one feature matches.
    """
    found, wrong = NOTHING, list[WithheldError]()
    for word in filter(None, re.split(r"[,\s]+", text)):
        names = [word] if word in _FULL else [n for n in _FULL if _PREFIX.sub("", n, 1) == word]
        features = {_FULL[name] for name in names}
        if len(features) != 1:
            wrong.append(_not_one(word, names))
        elif (feature := features.pop()).features == _NEEDED.mask:
            wrong.append(WithheldError(WithheldErrorName.NEEDED, f"leave out {word}"))
        else:
            found |= feature
    return found, wrong


def _not_one(word: str, names: list[str]) -> WithheldError:
    if names:
        return WithheldError(WithheldErrorName.AMBIGUOUS, f"write {' or '.join(names)}")
    text = f"{escaped(word[:_SHOWN])} is no feature of virtio-net's or vhost-user's specification"
    return WithheldError(WithheldErrorName.UNKNOWN, text)
