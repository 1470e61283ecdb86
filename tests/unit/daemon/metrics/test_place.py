# SPDX-License-Identifier: Apache-2.0
"""Where metrics are served, and who may come there."""

import socket
import stat
from pathlib import Path

import pytest

from ovs_vhost_plugin.daemon.metrics.place import (
    NAME,
    MetricsError,
    MetricsErrorName,
    MetricsPlace,
    listen,
    parse_place,
    remove,
)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", None),
        ("off", None),
        ("unix", MetricsPlace(Path("/run/ovs") / NAME)),
        ("tcp:9478", MetricsPlace(port=9478)),
        ("tcp:65535", MetricsPlace(port=65535)),
    ],
)
def test_places(text: str, place: MetricsPlace | None) -> None:
    assert parse_place(text, Path("/run/ovs")) == place


@pytest.mark.parametrize(
    "text", ["tcp:0", "tcp:65536", "tcp:", "tcp:0.0.0.0:80", "unix:/etc/x", "true", "tcp:٣", "9478"]
)
def test_what_is_no_place_says_what_is(text: str) -> None:
    with pytest.raises(MetricsError, match="to unix, tcp:PORT or off") as caught:
        parse_place(text, Path("/run/ovs"))
    assert caught.value.name is MetricsErrorName.PLACE_INVALID


def test_a_socket_is_for_user_and_group_and_takes_the_place_of_one_before(tmp_path: Path) -> None:
    place = MetricsPlace(tmp_path / NAME)
    listen(place).close()
    with listen(place), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(place.path))
        assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o660
    remove(place)
    remove(place)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_its_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("mine")
    with pytest.raises(MetricsError) as caught:
        listen(MetricsPlace(tmp_path / NAME))
    assert caught.value.name is MetricsErrorName.NOT_SERVED and NAME in str(caught.value)
    remove(MetricsPlace(tmp_path / NAME))
    assert (tmp_path / NAME).read_text() == "mine"


def test_a_port_is_on_loopback_and_one_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MetricsError, match=f"http://127.0.0.1:{port}/metrics") as caught:
            listen(MetricsPlace(port=port))
        assert caught.value.name is MetricsErrorName.NOT_SERVED
    with listen(MetricsPlace(port=port)) as made:
        assert made.getsockname() == ("127.0.0.1", port)
