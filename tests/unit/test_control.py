# SPDX-License-Identifier: Apache-2.0
"""Questions to the daemon; the socket is a stand-in."""

import ovs.json
import pytest

from ovs_vhost_plugin import control
from ovs_vhost_plugin.vswitchd.json_parser import JsonParser


def test_long_answers_are_not_read_by_the_parser_in_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ovs.json, "Parser", ovs.json.Parser)  # put back afterwards
    monkeypatch.setattr(ovs.json, "PARSER", ovs.json.PARSER_PY)

    def transact(_path: str, _command: str, words: list[str]) -> tuple[None, str]:
        assert ovs.json.Parser is JsonParser
        return None, f'{{"asked": "{words[0]}"}}'

    monkeypatch.setattr(control, "_control_socket", lambda target: target)
    monkeypatch.setattr(control, "_transact", transact)
    assert control.ask("ovs-vhost", "vhost/top", ["vhu0", None]) == {"asked": "vhu0"}
