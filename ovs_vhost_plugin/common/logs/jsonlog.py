# SPDX-License-Identifier: Apache-2.0
"""The log as lines of JSON, for collectors: an object a message, in the file and on the console.

Open vSwitch's bindings make a line of text by a pattern. Here the pattern is one that can be taken
apart again, and a filter makes the object of it. Filters stay when the file is opened anew.
"""

import json
import logging
import os
import traceback
from datetime import UTC, datetime

import ovs.vlog

DESTINATIONS = ("console", "file")
"""Syslog has fields of its own."""

_SEPARATOR = "\x1f"  # no message has it: what others write is made printable before
_PATTERN = _SEPARATOR.join(("%c", "%p", "%m"))
_LEVELS = {
    logging.DEBUG: "dbg",
    logging.INFO: "info",
    logging.WARNING: "warn",
    logging.ERROR: "err",
    logging.CRITICAL: "emer",
}


class JsonLines(logging.Filter):
    """Makes a JSON object of each record's text; passes all of them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record's text."""
        text = record.getMessage()
        module, _, rest = text.partition(_SEPARATOR)
        _, separator, message = rest.partition(_SEPARATOR)
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told = {
            "time": at.replace("+00:00", "Z"),
            "level": _LEVELS.get(record.levelno, "info"),
            "module": module.strip() if separator else "",  # another pattern was set meanwhile
            "pid": os.getpid(),
            "message": message.strip(" ") if separator else text,
        }
        if record.exc_info:
            told["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        record.msg, record.args, record.exc_info = json.dumps(told), (), None
        return True


def install() -> None:
    """Let all further lines be JSON. To be called after the bindings have read their options."""
    for destination in DESTINATIONS:
        ovs.vlog.Vlog.set_pattern(destination, _PATTERN)
        logging.getLogger(destination).addFilter(JsonLines())
