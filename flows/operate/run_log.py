"""Log lines of a deployed run, which a worker starts without the command line."""

from __future__ import annotations

import logging

from flows.views.terminal import ROOMS


def let_rooms_speak() -> None:
    """Pass the rooms' lines to Prefect: one per shard, and progress now and then.

    PREFECT_LOGGING_EXTRA_LOGGERS gives their loggers Prefect's handler, but not the level INFO. A level that somebody
    has set stays.
    """
    for room in ROOMS:
        logger = logging.getLogger(room)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
