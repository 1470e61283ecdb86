# SPDX-License-Identifier: Apache-2.0
"""Messages of a stream, however it is cut, as the bindings' own parser finds them."""

import json
import random
from typing import Any

import ovs.json
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_vhost_plugin.vswitchd import json_parser
from ovs_vhost_plugin.vswitchd.json_parser import JsonParser

TEXT = st.text(alphabet='ab"\\{}[]\u00fc\U0001f600\n ')
VALUE = st.recursive(
    TEXT | st.integers(-9, 9) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
)
MESSAGE = st.dictionaries(TEXT, VALUE, max_size=4)


def messages(parts: list[str], parser: type[Any] = JsonParser) -> list[Any]:
    """The messages of a stream, read as `ovs.jsonrpc.Connection.recv` does."""
    found, current = [], None
    for part in parts:
        while part:
            current = current or parser()
            part = part[current.feed(part) :]
            if current.is_done():
                found.append(current.finish())
                current = None
    return found


@given(st.lists(MESSAGE, max_size=4), st.integers(0, 99), st.booleans())
def test_messages_are_found_however_the_stream_is_cut(
    said: list[Any], seed: int, ascii_only: bool
) -> None:
    stream = "".join(json.dumps(one, ensure_ascii=ascii_only) for one in said)
    cuts = sorted(random.Random(seed).choices(range(len(stream) + 1), k=5))
    parts = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert messages(parts) == said
    assert messages(list(stream)) == said


@pytest.mark.parametrize("text", ["xyz", "[1]", '"a"', "}", '{"a": nothing}', '{"a" 1}', "{]"])
def test_what_is_no_message_is_said(text: str) -> None:
    (found,) = messages([text])[:1]
    assert isinstance(found, str) or text == "[1]"


def test_the_bindings_parser_is_replaced_where_it_is_in_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ovs.json, "Parser", object())  # another test may have replaced it already
    monkeypatch.setattr(ovs.json, "PARSER", ovs.json.PARSER_C)
    json_parser.install()
    assert ovs.json.Parser is not JsonParser
    monkeypatch.setattr(ovs.json, "PARSER", ovs.json.PARSER_PY)
    json_parser.install()
    assert ovs.json.Parser is JsonParser
