# SPDX-License-Identifier: Apache-2.0
"""When the daemon is asked for further queues of the tap, and when nobody wakes for that."""

from support.worker.fake_outbox import FakeOutbox

from ovs_vhost_plugin.ipc.reports import AskQueues
from ovs_vhost_plugin.worker.tap.requests import QueueRequests

NOW = 100.0


def test_nothing_is_asked_for_that_nobody_wants() -> None:
    outbox = FakeOutbox()
    requests = QueueRequests(outbox)  # type: ignore[arg-type]
    requests.want(1)
    requests.handle_timer(NOW)
    assert outbox.told == [] and requests.get_timer() is None


def test_what_is_wanted_is_asked_for_until_it_has_come() -> None:
    outbox = FakeOutbox()
    requests = QueueRequests(outbox)  # type: ignore[arg-type]
    requests.want(3)
    assert requests.get_timer() == 0.0
    requests.handle_timer(NOW)
    requests.handle_timer(NOW + 0.5)
    assert outbox.told == [AskQueues(3)]
    requests.came()
    requests.handle_timer(requests.get_timer() or 0.0)
    assert outbox.told == [AskQueues(3)] * 2
    requests.came()
    assert requests.have == 3 and requests.get_timer() is None


def test_more_is_asked_for_at_once() -> None:
    outbox = FakeOutbox()
    requests = QueueRequests(outbox)  # type: ignore[arg-type]
    for queues in (2, 4, 3):
        requests.want(queues)
        requests.handle_timer(NOW)
    assert outbox.told == [AskQueues(2), AskQueues(4)]


def test_without_a_daemon_nobody_is_asked_and_the_next_one_is() -> None:
    outbox = FakeOutbox()
    outbox.is_open = False
    requests = QueueRequests(outbox)  # type: ignore[arg-type]
    requests.want(2)
    requests.handle_timer(NOW)
    assert outbox.told == [] and requests.get_timer() is None
    outbox.is_open = True
    assert requests.get_timer() is not None
    requests.handle_timer(NOW)
    assert outbox.told == [AskQueues(2)]
