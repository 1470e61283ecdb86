# SPDX-License-Identifier: Apache-2.0
"""What a worker may send: answers to what it was asked, one hello, and the rest at its rates."""

import pytest

from ovs_vhost_plugin.daemon.workers.report_rates import BYTES_AT_ONCE, ReportRates
from ovs_vhost_plugin.ipc.channel import MAX_PACKET
from ovs_vhost_plugin.ipc.codec import MessageError
from ovs_vhost_plugin.ipc.reports import ANSWERS, OTHERS, RATES, WorkerHello

ANSWER, COMMAND = next(iter(ANSWERS.items()))
KIND = next(iter(RATES))


@pytest.fixture
def rates() -> ReportRates:
    return ReportRates(0.0)


def test_each_question_has_one_answer(rates: ReportRates) -> None:
    for _ in range(3):
        rates.told(COMMAND)
    for _ in range(3):
        rates.require(ANSWER, 100, 0.0)
    with pytest.raises(MessageError, match=f"^{ANSWER.WIRE_NAME}: nobody asked$"):
        rates.require(ANSWER, 100, 0.0)


def test_a_worker_greets_once(rates: ReportRates) -> None:
    rates.require(WorkerHello, 100, 0.0)
    with pytest.raises(MessageError, match=r"^a second hello$"):
        rates.require(WorkerHello, 100, 0.0)


def test_a_kind_has_its_rate(rates: ReportRates) -> None:
    _per_second, at_once = RATES[KIND]
    for _ in range(int(at_once)):
        rates.require(KIND, 1, 0.0)
    with pytest.raises(MessageError, match=f"^a flood of reports: {KIND.WIRE_NAME}$"):
        rates.require(KIND, 1, 0.0)


def test_kinds_that_are_not_known_have_one_rate_together(rates: ReportRates) -> None:
    _per_second, at_once = OTHERS
    for _ in range(int(at_once)):
        rates.require_other(1, 0.0)
    with pytest.raises(MessageError, match=r"^a flood of reports: of unknown kinds$"):
        rates.require_other(1, 0.0)


def test_all_together_have_a_rate_of_bytes_and_no_report_counts_as_more_than_a_packet() -> None:
    rates = ReportRates(0.0)
    for _ in range(BYTES_AT_ONCE // MAX_PACKET):
        rates.require_other(10 * MAX_PACKET, 0.0)
    with pytest.raises(MessageError, match=r"^a flood of reports: bytes$"):
        rates.require_other(MAX_PACKET, 0.0)
