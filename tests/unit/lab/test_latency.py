# SPDX-License-Identifier: Apache-2.0
"""Request and response: what the client measures."""

import socket
import threading

import pytest

from ovs_vhost_plugin.lab.measure import latency


def test_the_nearest_rank_is_a_percentile():
    ordered = list(range(1, 201))
    assert latency.percentile(ordered, 0.5) == 100
    assert latency.percentile(ordered, 0.99) == 198
    assert latency.percentile([7], 0.99) == 7


class Echo(threading.Thread):
    """Answers one connection's bytes, up to `most` of them, and counts them."""

    def __init__(self, most):
        super().__init__()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.answered = 0
        self._most = most

    def run(self):
        stream, _ = self._listener.accept()
        with self._listener, stream:
            while self.answered < self._most and (data := stream.recv(1)):
                stream.sendall(data)
                self.answered += 1


def test_each_exchange_but_the_first_ones_is_measured():
    echo = Echo(most=10**9)
    echo.start()
    taken = latency.exchange("127.0.0.1", echo.port, 0.05)
    echo.join()
    assert taken and min(taken) > 0
    assert echo.answered == latency.WARM + len(taken)


def test_a_server_that_leaves_is_an_error():
    echo = Echo(most=latency.WARM - 1)
    echo.start()
    with pytest.raises(ConnectionError):
        latency.exchange("127.0.0.1", echo.port, 60.0)
    echo.join()
