# SPDX-License-Identifier: Apache-2.0
"""The log as JSON: one object a line, whatever is in a message."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from ovs_vhost_plugin.common.logs import jsonlog


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger as the bindings have one, and what it has written."""
    written = io.StringIO()
    logger = logging.Logger("file")
    logger.addHandler(logging.StreamHandler(written))
    logger.addFilter(jsonlog.JsonLines())
    yield logger, written


def line(module: str, level: str, message: str) -> str:
    """The text that the bindings make by the pattern: with blanks around short fields."""
    fields = {"%c": f" {module} ", "%p": f" {level} ", "%m": f" {message} "}
    text = jsonlog._PATTERN
    for field, value in fields.items():
        text = text.replace(field, value)
    return text.strip()


def told(written: io.StringIO) -> dict[str, Any]:
    (only,) = written.getvalue().splitlines()
    found: dict[str, Any] = json.loads(only)
    return found


def test_a_line_has_its_parts(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = log
    logger.warning(line("vhost_ports", "WARN", "vhu0: tap-held: 100 % of it"))
    found = told(written)
    assert found.keys() == {"time", "level", "module", "pid", "message"}
    assert found["level"] == "warn" and found["module"] == "vhost_ports"
    assert found["message"] == "vhu0: tap-held: 100 % of it"
    assert found["time"].endswith("Z") and "T" in found["time"]


@pytest.mark.parametrize(
    "message", ['"}\n{"', "\u2028é\x1b[2J", "a\x1fb", "%s %(x)s {}", "x" * 9999]
)
def test_any_message_is_one_line(log: tuple[logging.Logger, io.StringIO], message: str) -> None:
    logger, written = log
    logger.info(line("m", "INFO", message))
    assert told(written)["message"] == message and written.getvalue().isascii()


def test_a_traceback_is_in_the_line(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = log
    try:
        raise ValueError("why")
    except ValueError:
        logger.error(line("m", "ERR", "broken"), exc_info=True)
    found = told(written)
    assert found["level"] == "err" and found["message"] == "broken"
    assert found["traceback"].endswith("ValueError: why\n")


def test_a_pattern_that_was_set_otherwise_leaves_the_text_whole(
    log: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, written = log
    logger.info("2026-01-01|00001|m|INFO|text")
    assert told(written)["message"] == "2026-01-01|00001|m|INFO|text"
