# SPDX-License-Identifier: Apache-2.0
"""Text of others, fit for a line of a log, a table or a terminal.

Names in the database, words of a command, what the switch or a user's format answers: any may
hold line feeds, a terminal's escapes or characters that turn the line round. It is escaped once,
where it is read. (What workers report is cut as well: `ipc/codec.py`.)
"""


def escaped(text: str) -> str:
    r"""`text` with what is not printable, and the backslash, written as in Python: `\n`, `\\`.

    Different texts stay different.
    """
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(c if c.isprintable() and c != "\\" else repr(c)[1:-1] for c in text)
