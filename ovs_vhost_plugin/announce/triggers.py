# SPDX-License-Identifier: Apache-2.0
"""The reasons for which a guest is announced, by the names that the log and the rows show."""

from enum import StrEnum


class Trigger(StrEnum):
    """Each is described in docs/announce.md, "When"."""

    SEND_RARP = "send-rarp"
    MOVED_IN = "moved-in"
    RECONNECT = "reconnect"
    RESUMED = "resumed"
    GUEST_SILENT = "guest-silent"
    PORT_MOVED = "port-moved"
    PORT_FORWARDS = "port-forwards"
    MANUAL = "manual"
