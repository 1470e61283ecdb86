# SPDX-License-Identifier: Apache-2.0
"""What the daemon and the fork server say: each message survives the wire."""

import json
from typing import get_args

import pytest

from ovs_vhost_plugin.ipc import births
from ovs_vhost_plugin.ipc.births import (
    Born,
    Broken,
    Dispose,
    Exited,
    ForkWorker,
    News,
    Ready,
    Request,
    Stillborn,
)
from ovs_vhost_plugin.ipc.codec import MessageError
from ovs_vhost_plugin.ipc.spec import WorkerSpec

REQUESTS: tuple[Request, ...] = (
    ForkWorker(WorkerSpec("vhu0", "server", "/x", 2), listener=True),
    Dispose(),
)
NEWS: tuple[News, ...] = (
    Ready(("Landlock (no such system call)",), "0.1-00ff"),
    Broken("ImportError('numba')"),
    Born("vhu0", 7),
    Stillborn("vhu0", "Resource temporarily unavailable"),
    Exited(7, -9),
)


def test_each_message_is_tried_here() -> None:
    assert [type(one) for one in REQUESTS] == list(get_args(Request))
    assert [type(one) for one in NEWS] == list(get_args(News))


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_survives_the_wire(request_: Request) -> None:
    said = json.loads(json.dumps(births.encode_request(request_)))
    assert births.decode_request(said) == request_


@pytest.mark.parametrize("news", NEWS)
def test_news_survives_the_wire(news: News) -> None:
    said = json.loads(json.dumps(births.encode_news(news)))
    assert births.decode_news(said) == news
    for name in said:
        with pytest.raises(MessageError):
            births.decode_news({**said, name: {}})
