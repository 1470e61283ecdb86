# SPDX-License-Identifier: Apache-2.0
"""Rows → what the workers of ports are told, as they run too."""

import pytest
from support.daemon.rows import bridge, interface, parse, switch

from ovs_vhost_plugin.vhost.spec import Feature, ProtocolFeature


@pytest.mark.parametrize(
    ("datapath", "tso", "finish"),
    [
        ("netdev", {}, True),
        ("netdev", {"userspace_tso_enable": "false"}, True),
        ("netdev", {"userspace_tso_enable": "true"}, False),
        ("netdev", {"userspace_tso_enable": "True"}, False),
        ("system", {}, False),
        ("", {}, False),
    ],
)
def test_who_finishes_offloads(datapath: str, tso: dict[str, str], finish: bool) -> None:
    spec = parse(interface(), bridge=bridge(datapath), switch=switch(**tso))
    assert spec.settings.finish_offloads is finish
    assert spec.settings.finish_udp is (datapath == "netdev")


@pytest.mark.parametrize(
    ("key", "tunnel", "tso", "datapath", "finish"),
    [
        ("auto", "vxlan", "true", "netdev", True),
        ("auto", "internal", "true", "netdev", False),
        ("finish", "internal", "true", "netdev", True),
        ("finish", "internal", "false", "system", True),
        ("pass", "vxlan", "true", "netdev", False),
        ("pass", "internal", "false", "netdev", True),  # they would be damaged
        ("auto", "vxlan", "true", "system", False),
        ("some", "vxlan", "true", "netdev", True),
    ],
)
def test_a_key_says_who_finishes_offloads(
    key: str, tunnel: str, tso: str, datapath: str, finish: bool
) -> None:
    row = interface(external_ids={"vhost-user-offloads": key})
    found = switch(tunnel, userspace_tso_enable=tso)
    spec = parse(row, bridge=bridge(datapath), switch=found)
    assert spec.settings.finish_offloads is finish
    wrong = "offloads-unknown: external_ids:vhost-user-offloads: one of auto, finish, pass"
    assert spec.warning == (wrong if key == "some" else "")


def test_the_configuration_is_offered_where_that_is_asked_for() -> None:
    assert not parse(interface()).settings.config
    assert parse(interface(external_ids={"vhost-user-config": "true"})).settings.config


@pytest.mark.parametrize(("state", "up"), [([], True), (["up"], True), (["down"], False)])
def test_a_port_is_down_when_somebody_took_it_down(state: list[str], up: bool) -> None:
    keys = {"vhost-user-config": "true"}
    assert parse(interface(external_ids=keys, admin_state=state)).settings.link_up == up


def test_only_a_worker_that_offers_the_configuration_is_told_of_mac_and_link() -> None:
    """The others have nothing to do with a change."""
    keys = {"attached-mac": "52:54:00:00:00:01"}
    told = parse(interface(external_ids=keys, admin_state=["down"])).settings
    assert told == parse(interface()).settings
    keys["vhost-user-config"] = "true"
    told = parse(interface(external_ids=keys, admin_state=["down"])).settings
    assert (told.mac, told.link_up) == (bytes.fromhex("525400000001"), False)


@pytest.mark.parametrize("mac", ["", "nonsense", "00:00:00:00:00:00", "01:00:5e:00:00:01"])
def test_a_mac_that_no_nic_has_is_not_told(mac: str) -> None:
    keys = {"attached-mac": mac, "vhost-user-config": "true"}
    assert parse(interface(external_ids=keys)).settings.mac == b""


def test_a_front_end_is_trusted_with_more_only_where_the_row_says_so() -> None:
    settings = parse(interface()).settings
    assert not settings.postcopy and not settings.any_memory
    assert parse(interface(external_ids={"vhost-user-postcopy": "true"})).settings.postcopy
    assert not parse(interface(external_ids={"vhost-user-postcopy": "yes"})).settings.postcopy
    assert parse(interface(external_ids={"vhost-user-memory-files": "any"})).settings.any_memory
    spec = parse(interface(external_ids={"vhost-user-memory-files": "all"}))
    assert not spec.settings.any_memory
    assert spec.warning.startswith("memory-files-unknown: external_ids:vhost-user-memory-files: ")


def test_features_that_are_not_offered_by_name() -> None:
    settings = parse(interface()).settings
    assert settings.features_off == settings.protocol_features_off == 0
    text = "VIRTIO_NET_F_CTRL_VQ,RARP,NONSENSE"
    spec = parse(interface(external_ids={"vhost-user-features-off": text}))
    assert spec.settings.features_off == Feature.CTRL_VQ.mask
    assert spec.settings.protocol_features_off == ProtocolFeature.RARP.mask
    assert spec.warning.startswith(
        "feature-unknown: external_ids:vhost-user-features-off: NONSENSE "
    )
