# SPDX-License-Identifier: Apache-2.0
"""docs/metrics.md has each metric, with its type and labels, and no other."""

import re

from support.checkout import TOP
from support.metrics_page import daemon, port

from ovs_vhost_plugin.metrics import families

_SUFFIX = {"counter": "_total", "info": "_info"}


def test_the_page_has_what_there_is() -> None:
    page = (TOP / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(ovs_vhost_\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \|$", page, re.M)
    told = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)), text) for name, kind, labels, text in rows
    }
    made = {
        family.name + _SUFFIX.get(family.type, ""): (
            family.type,
            {label for one in family.samples for label in one.labels} - {"le"},
            family.documentation.rstrip("."),
        )
        for family in families.families(daemon(), {"vhu0": port()})
    }
    assert told == made


def test_the_port_of_the_examples_is_one() -> None:
    texts = [
        (TOP / name).read_text() for name in ("docs/metrics.md", "etc/prometheus/ovs-vhost.yml")
    ]
    assert [set(re.findall(r"\b(?:tcp|127\.0\.0\.1):(\d+)", text)) for text in texts] == [
        {"9478"}
    ] * 2
