# SPDX-License-Identifier: Apache-2.0
"""What a name means is said in one place: the page's tables, which the doctor has as data."""

import json
from dataclasses import asdict

from support.checkout import TOP

from ovs_vhost_plugin.doctor import names
from ovs_vhost_plugin.doctor.names import NameEntry, entries, entry_of, read_page

PAGE = (TOP / "docs" / "troubleshooting.md").read_text()


def test_the_data_are_those_that_make_names_writes() -> None:
    made = {name: asdict(entry) for name, entry in read_page(PAGE).items()}
    installed = json.loads((TOP / "ovs_vhost_plugin" / "doctor" / names._FILE).read_text())
    assert installed == made, "make names"
    assert {name: asdict(entry) for name, entry in entries().items()} == made


def test_each_entry_says_what_it_means_and_what_to_do() -> None:
    for name, entry in entries().items():
        assert entry.means and entry.do and entry.section, name
        assert "](" not in entry.means + entry.do and "\n" not in entry.means + entry.do
        assert not entry.do.startswith("the same"), name


def test_an_error_is_found_by_the_name_that_it_begins_with() -> None:
    found = entry_of("queues-invalid: set external_ids:vhost-user-queues to 1 to 128")
    assert found is not None and found.section == "The row"
    assert entry_of("no such name") is None


TABLES = """
## The row

| name | what it means | what to do |
|---|---|---|
| `a-one`, `a-two` | it is `wrong` | [the page](sockets.md#y), `do this` |

## Messages

Something is wrong. Some say so, others do not: report it with its version. More.

| part | names |
|---|---|
| net | `b-one`, `b-two`; `b-three`: set `mtu` or; do not; `b-four` |

## Rings

| what ends | names | what to do |
|---|---|---|
| the ring | `c-one` | reset it |
| | `c-two`: nobody knows | the same: it helps |
"""


def test_tables_of_every_form_are_read() -> None:
    assert read_page(TABLES) == {
        "a-one": NameEntry("it is `wrong`", "docs/sockets.md#y, `do this`", "The row"),
        "a-two": NameEntry("it is `wrong`", "docs/sockets.md#y, `do this`", "The row"),
        "b-one": NameEntry(
            "Messages: net",
            "Some say so, others do not: report it with its version.",
            "Messages",
        ),
        "b-two": NameEntry(
            "Messages: net",
            "Some say so, others do not: report it with its version.",
            "Messages",
        ),
        "b-three": NameEntry("Messages: net", "set `mtu` or; do not", "Messages"),
        "b-four": NameEntry(
            "Messages: net",
            "Some say so, others do not: report it with its version.",
            "Messages",
        ),
        "c-one": NameEntry("a fault that ends the ring", "reset it", "Rings"),
        "c-two": NameEntry("nobody knows", "reset it", "Rings"),
    }
