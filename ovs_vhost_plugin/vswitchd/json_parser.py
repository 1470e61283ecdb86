# SPDX-License-Identifier: Apache-2.0
"""JSON for Open vSwitch's bindings, by the standard library's parser.

The bindings' own parser is in C where a distribution built it, and in Python elsewhere: then it
takes a second for the rows of a thousand ports, in which the daemon stands still, and ten for the
answer to `ovs-vhost stats`. Both are fed the stream as it comes and find the end of each message
themselves; so does this one.
"""

import json
import re
from typing import Any

import ovs.json

_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["{}\[\]]', re.DOTALL)
"""A whole string, the begin of one that is not whole yet, or a bracket outside of strings."""


class JsonParser:
    """One message: takes the place of `ovs.json.Parser`."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._string = ""  # the begin of a string that is not whole yet
        self._depth = 0
        self._done = False

    def feed(self, text: str) -> int:
        """Take characters of the stream; return how many belong to the message."""
        if not self._parts and not self._string and not text.lstrip(" \t\r\n").startswith("{"):
            self._done = bool(text.strip())  # no message, which `finish` says
            self._parts.append(text)
            return len(text)
        held, self._string = len(self._string), ""
        text = self._parts.pop() + text if held else text
        for token in _TOKEN.finditer(text):
            mark = token[0]
            if mark in "{[":
                self._depth += 1
            elif mark in "}]":
                self._depth -= 1
                if not self._depth:
                    self._done = True
                    self._parts.append(text[: token.end()])
                    return token.end() - held
            elif mark == '"':
                self._string = text[token.start() :]
                self._parts += [text[: token.start()], self._string]
                return len(text) - held
        self._parts.append(text)
        return len(text) - held

    def is_done(self) -> bool:
        """Whether the message is whole."""
        return self._done

    def finish(self) -> Any:
        """The message; a string says what is wrong with it."""
        try:
            return json.loads("".join(self._parts))
        except (ValueError, RecursionError) as error:
            return f"syntax error: {error}"


def install() -> None:
    """Let the bindings use it, unless they have their parser in C."""
    if ovs.json.PARSER != ovs.json.PARSER_C:
        ovs.json.Parser = JsonParser
