"""Progress lines come at most every few seconds and say rate and remaining time."""

from __future__ import annotations

import logging

import pytest

from flows.progress import ProgressLog, counts_text, duration, log_to_stderr
from model.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def logger(caplog: pytest.LogCaptureFixture) -> logging.Logger:
    caplog.set_level(logging.INFO)
    return logging.getLogger("test_progress")


def test_lines_are_at_least_three_seconds_apart(logger: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = ProgressLog(logger, "web/train 00003", "rows", clock=clock)
    for clock.now in (0.5, 2.9, 4.0, 5.0, 6.9, 8.0):
        progress(int(100 * clock.now), 1000)
    assert caplog.messages == [
        "web/train 00003: 400 of 1,000 rows, 100.0 a second, 6.0 s left",
        "web/train 00003: 800 of 1,000 rows, 100.0 a second, 2.0 s left",
    ]


def test_a_subprocess_brings_its_own_rate_and_metrics(logger: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = ProgressLog(logger, "pretrain-1", "steps", clock=clock)
    clock.now = 10
    report = Progress(stage="pretrain", done=100, total=700, unit="steps", per_second=4, metrics={"mlm": 2.5})
    progress.follow(report)
    assert caplog.messages == ["pretrain-1: 100 of 700 steps, 4.0 a second, 2 min 30 s left, mlm 2.5"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (59.94, "59.9 s"), (200, "3 min 20 s"), (18_720, "5 h 12 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts_put_ok_first_and_leave_zeros_out() -> None:
    assert counts_text({"dns": 0, "not_found": 12, "ok": 3, "tls": 1000}) == "3 ok, 1,000 tls, 12 not_found"
    assert counts_text({"ok": 0}) == "nothing"


def test_rooms_log_to_stderr_with_clock_and_stage(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    logging.getLogger("flows.download").info("web/train 00003: %d ok", 7)
    logging.getLogger("flows.download").warning("slow")
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = captured.err.splitlines()
    assert first[2] == first[5] == ":" and first[8:] == " download  web/train 00003: 7 ok"
    assert second.endswith("WARNING: slow")
