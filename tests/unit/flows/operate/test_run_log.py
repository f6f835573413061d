"""A deployed run's own lines get through to Prefect."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from flows.operate.run_log import let_rooms_speak


@pytest.fixture
def rooms() -> Iterator[tuple[logging.Logger, logging.Logger]]:
    """Two rooms' loggers, which the test may change."""
    loggers = logging.getLogger("flows"), logging.getLogger("tasks")
    levels = [logger.level for logger in loggers]
    yield loggers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def test_info_gets_through_unless_somebody_has_set_a_level(rooms: tuple[logging.Logger, logging.Logger]) -> None:
    flows, tasks = rooms
    flows.setLevel(logging.NOTSET)
    tasks.setLevel(logging.ERROR)
    let_rooms_speak()
    assert logging.getLogger("flows.download").isEnabledFor(logging.INFO)
    assert tasks.level == logging.ERROR
