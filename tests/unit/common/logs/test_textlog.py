# SPDX-License-Identifier: Apache-2.0
"""The log as text: its times."""

from datetime import datetime
from types import SimpleNamespace

import ovs.vlog
import pytest

from ovs_vhost_plugin.common.logs import textlog

log = ovs.vlog.Vlog("vhost_test_textlog")


@pytest.mark.parametrize("micros", [0, 5_300, 54_321, 999_999])
def test_a_time_has_all_its_digits(monkeypatch: pytest.MonkeyPatch, micros: int) -> None:
    class Clock(datetime):
        @classmethod
        def utcnow(cls) -> datetime:
            return datetime(2026, 12, 1, 3, 27, 47, micros)

    patterns = ovs.vlog.PATTERNS.copy()
    monkeypatch.setattr(ovs.vlog.Vlog, "_Vlog__log_patterns", patterns)
    monkeypatch.setattr(ovs.vlog, "datetime", SimpleNamespace(datetime=Clock, date=datetime))
    textlog.install()
    line = log._build_message("vm0: running", "file", "INFO", 7)
    shown, _, rest = line.partition("|")
    assert shown.strip() == f"2026-12-01T03:27:47.{micros:06d}Z"
    assert rest.split() == ["7", "|", "vhost_test_textlog", "|", "INFO", "|", "vm0:", "running"]
