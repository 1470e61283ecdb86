# SPDX-License-Identifier: Apache-2.0
"""Escapes foreign text for a line of a log, a table or a terminal.

Names in the database, words of a command, answers of the switch or of a user's format may hold
line feeds, a terminal's escapes or characters that reverse the line. Such text is escaped once,
where it is read. (Reports of workers are shortened as well: `ipc/codec.py`.)
"""


def escaped(text: str) -> str:
    r"""`text` with backslashes and characters that are not printable as in Python: `\\`, `\n`.

    Different texts stay different.
    """
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(c if c.isprintable() and c != "\\" else repr(c)[1:-1] for c in text)
