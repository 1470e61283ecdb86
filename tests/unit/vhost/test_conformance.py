# SPDX-License-Identifier: Apache-2.0
"""docs/conformance.md says what the code offers: no more, no less, and by which test."""

import re

import pytest
from support.checkout import TOP

from ovs_vhost_plugin.vhost.features import Nic, offer
from ovs_vhost_plugin.vhost.session import TABLE
from ovs_vhost_plugin.vhost.spec import BackendRequest, Feature, FrontendRequest, ProtocolFeature

OFFER = offer(queue_pairs=1, mtu=1500, nic=Nic(mac=bytes.fromhex("525400000001")))
WORKER = (path.read_text() for path in (TOP / "ovs_vhost_plugin/worker").rglob("*.py"))
SENT = set(re.findall(r"BackendRequest\.(\w+)", "".join(WORKER)))


def table(title):
    """The rows below a heading, as (number, name, since, remark, test)."""
    text = (TOP / "docs/conformance.md").read_text()
    section = text.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if re.match(r"\| \d", line)]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    assert all(re.fullmatch(r"no|\d+\.\d+\.\d+", since) for _, _, since, _, _ in rows)
    return [(int(number), *rest) for number, *rest in rows]


ALL = [
    row
    for t in (
        "Protocol features",
        "Messages from the front-end",
        "Messages to the front-end",
        "Features",
    )
    for row in table(t)
]


@pytest.mark.parametrize(
    ("title", "kind", "offered"),
    [
        ("Protocol features", ProtocolFeature, lambda bit: OFFER.protocol_features & bit.mask),
        ("Messages from the front-end", FrontendRequest, lambda request: request in TABLE),
        ("Messages to the front-end", BackendRequest, lambda request: request.name in SENT),
        ("Features", Feature, lambda bit: OFFER.features & bit.mask),
    ],
)
def test_the_table_and_the_code_agree(title, kind, offered):
    rows = table(title)
    assert [(number, name) for number, name, *_ in rows] == [(m.value, m.name) for m in kind]
    said = {name for _, name, since, *_ in rows if since != "no"}
    assert said == {member.name for member in kind if offered(member)}


@pytest.mark.parametrize("row", ALL, ids=lambda row: row[1])
def test_what_is_offered_names_a_test_that_there_is_and_what_is_not_a_reason(row):
    _, _, since, remark, test = row
    if since == "no":
        assert remark and not test
    elif remark != "pass":
        path, _, name = test.partition("::")
        source = (TOP / "tests" / path).read_text()
        assert not name or f"def {name}(" in source
