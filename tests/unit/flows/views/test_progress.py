"""Progress lines come at most every few seconds and say rate and remaining time."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from itertools import pairwise

import pytest

from flows.views.progress import ProgressLog, StageProgress, counts_text, duration, shares_text
from flows.views.terminal import TerminalHandler, log_to_stderr
from model.progress import Progress
from tasks.records import ShardRef


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
        "web/train 00003: 400 of 1,000 rows, 100 a second, 6.0 s left",
        "web/train 00003: 800 of 1,000 rows, 100 a second, 2.0 s left",
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


def test_nothing_is_said_where_stderr_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    log_to_stderr()
    with StageProgress(logging.getLogger("flows.download"), "download", "rows", 10) as progress:
        progress.note("paused")


def test_rooms_log_to_stderr_with_clock_and_stage(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    logging.getLogger("flows.download").info("web/train 00003: %d ok", 7)
    logging.getLogger("flows.download").warning("slow")
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = captured.err.splitlines()
    assert first[2] == first[5] == ":" and first[8:] == " download  web/train 00003: 7 ok"
    assert second.endswith("WARNING: slow")


# --- download -------------------------------------------------------------------------------------------------------


def shard(number: int) -> ShardRef:
    return ShardRef(dataset="web", split="train", shard=number)


def test_download_line_sums_the_shards_of_all_workers(logger: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = StageProgress(logger, "download", "rows", total=100_000, clock=clock)
    progress.begin(shard(9), 50_000)
    clock.now = 1
    progress.finish(shard(0), {"ok": 1000})
    progress.update(shard(1), 300, {"ok": 200, "dns": 100})
    clock.now = 4
    progress.update(shard(2), 700, {"ok": 400, "dns": 200, "not_found": 100})
    # 2,000 of this run in 4 seconds; 48,000 to go.
    assert caplog.messages == [
        "download: 52,000 of 100,000 rows (52.0%), 500 a second, 1 min 36 s left; 80.0% ok, 15.0% dns, 5.0% not_found"
    ]


def test_later_numbers_of_a_shard_replace_its_earlier_ones(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    progress = StageProgress(logger, "download", "rows", total=100, clock=clock)
    for clock.now, done in ((0.1, 10), (0.2, 20), (0.3, 30)):
        progress.update(shard(0), done, {"ok": done})
    clock.now = 4
    progress.finish(shard(0), {"ok": 39, "tls": 1})
    assert caplog.messages == ["download: 40 of 100 rows (40.0%), 10 a second, 6.0 s left; 97.5% ok, 2.5% tls"]


def test_download_rate_is_that_of_the_last_minute(logger: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = StageProgress(logger, "download", "rows", total=100_000, clock=clock)
    done = 0
    for second in range(1, 301):
        clock.now = second
        done += 100 if second <= 200 else 2
        progress.update(shard(0), done, {"ok": done})
    # 100 a second for 200 seconds, then 2: the last line comes at 297 seconds, with 20,194 of 100,000 done.
    assert "(20.1%), 2.0 a second, 11 h 5 min left" in caplog.messages[-1]


def test_urls_of_an_earlier_run_are_done_but_not_in_the_rate(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    progress = StageProgress(logger, "download", "rows", total=1000, clock=clock)
    progress.begin(shard(0), 600)
    clock.now = 5
    progress.update(shard(0), 610, {"ok": 610})
    progress.begin(shard(0), 610)  # Its worker died; the next one goes on.
    clock.now = 10
    progress.update(shard(0), 620, {"ok": 620})
    assert [re.findall(r"download: (\d+) .* ([\d.]+) a second", line) for line in caplog.messages] == [
        [("610", "2.0")],
        [("620", "2.0")],
    ]


def test_time_left_is_unknown_while_nothing_ends(logger: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = StageProgress(logger, "download", "rows", total=10, clock=clock)
    clock.now = 5
    progress.update(shard(0), 0, {})
    assert caplog.messages == ["download: 0 of 10 rows (0.0%), 0.0 a second, time left unknown"]


def test_everything_is_done_only_when_everything_is_done(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    progress = StageProgress(logger, "download", "rows", total=100_000, clock=clock)
    for clock.now, done in ((5, 99_999), (10, 100_000)):
        progress.update(shard(0), done, {"ok": done})
    assert [re.findall(r"\(.*?%\)", line) for line in caplog.messages] == [["(99.9%)"], ["(100.0%)"]]


def test_long_downloads_write_few_lines(logger: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = StageProgress(logger, "download", "rows", total=10**6, clock=clock)
    spoken_at = []
    for second in range(1, 5 * 3600 + 1):
        clock.now = second
        before = len(caplog.messages)
        progress.update(shard(0), second, {"ok": second})
        spoken_at += [second] * (len(caplog.messages) - before)
    assert spoken_at[:3] == [3, 6, 9]
    assert 200 < len(spoken_at) < 500
    assert max(later - earlier for earlier, later in pairwise(spoken_at)) == 60


def test_notes_are_logged_at_once(logger: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    StageProgress(logger, "download", "rows", total=10, clock=Clock()).note("paused: no host of 32 answers")
    assert caplog.messages == ["download: paused: no host of 32 answers"]


def test_at_most_five_outcomes_are_named() -> None:
    counts = {"ok": 1, "a": 50, "b": 20, "c": 10, "d": 9, "e": 6, "f": 4, "g": 0}
    assert shares_text(counts) == "1.0% ok, 50.0% a, 20.0% b, 10.0% c, 9.0% d, 10.0% other"
    assert shares_text({"ok": 3, "dns": 1, "tls": 0}) == "75.0% ok, 25.0% dns"


class Terminal(io.StringIO):
    """Remembers what is written; `screen` is what a terminal would show of it."""

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        # Each erasure empties the line that the cursor is in.
        return [line.rsplit("\r\x1b[K", 1)[-1] for line in self.getvalue().split("\n")]


@pytest.fixture
def terminal_logger(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Terminal, logging.Logger]]:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    logger = logging.getLogger("test_progress.terminal")
    handler = TerminalHandler(terminal)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield terminal, logger
    logger.removeHandler(handler)


def test_terminal_shows_one_line_below_whole_log_lines(terminal_logger: tuple[Terminal, logging.Logger]) -> None:
    terminal, logger = terminal_logger
    clock = Clock()
    with StageProgress(logger, "download", "rows", total=100, clock=clock) as progress:
        for clock.now in (0.25, 0.5, 0.75, 1.0):
            progress.update(shard(0), int(20 * clock.now), {"ok": int(20 * clock.now)})
        live = "download: 20 of 100 rows (20.0%), 20 a second, 4.0 s left; 100.0% ok"
        assert terminal.screen == [live]
        logger.info("web/train 00000: 20 ok")
        progress.note("paused")
        assert terminal.screen == ["web/train 00000: 20 ok", "download: paused", live]
    assert terminal.screen == ["web/train 00000: 20 ok", "download: paused", ""]


def test_terminal_line_never_wraps(terminal_logger: tuple[Terminal, logging.Logger]) -> None:
    terminal, logger = terminal_logger
    progress = StageProgress(logger, "download", "rows", total=10**9, clock=(clock := Clock()))
    clock.now = 1
    progress.update(shard(0), 10, {"ok": 5, "not_found": 2, "too_many_redirects": 2, "blocked_address": 1})
    assert len(terminal.screen[-1]) == 79  # A stream that tells no width counts as 80 columns wide.


@pytest.mark.parametrize("reason", ["no terminal", "dumb terminal"])
def test_no_line_is_rewritten_where_that_is_impossible(
    terminal_logger: tuple[Terminal, logging.Logger], monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    terminal, logger = terminal_logger
    if reason == "no terminal":
        monkeypatch.setattr(terminal, "isatty", lambda: False)
    else:
        monkeypatch.setenv("TERM", "dumb")
    clock = Clock()
    with StageProgress(logger, "download", "rows", total=100, clock=clock) as progress:
        for clock.now in (1.0, 2.0, 3.0):
            progress.update(shard(0), int(10 * clock.now), {"ok": int(10 * clock.now)})
    assert terminal.getvalue() == "download: 30 of 100 rows (30.0%), 10 a second, 7.0 s left; 100.0% ok\n"


def test_slow_work_is_counted_by_the_minute(logger: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = StageProgress(logger, "extract", "images", total=10, clock=clock)
    clock.now = 100
    progress.update(shard(0), 5, {"ok": 5})
    assert caplog.messages == ["extract: 5 of 10 images (50.0%), 3.0 a minute, 1 min 40 s left; 100.0% ok"]


def test_time_left_is_not_guessed_from_the_first_of_many(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    progress = StageProgress(logger, "extract", "images", total=10_000, clock=clock)
    clock.now = 60
    progress.update(shard(0), 9, {"ok": 9})
    clock.now = 80
    progress.update(shard(0), 10, {"ok": 10})
    first, second = caplog.messages
    assert first.startswith("extract: 9 of 10,000 images (0.0%), 0.1 a second, time left unknown")
    assert "left unknown" not in second


def test_a_short_list_waits_for_a_tenth_of_it(logger: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = StageProgress(logger, "extract", "images", total=100, clock=clock)
    clock.now = 12
    progress.update(shard(0), 1, {"ok": 1})
    clock.now = 20
    progress.update(shard(0), 10, {"ok": 10})
    first, second = caplog.messages
    assert "left unknown" in first
    assert "left unknown" not in second


def test_a_note_is_told_at_once(logger: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    progress = ProgressLog(logger, "evaluate", "pairs", clock=Clock())
    report = Progress(stage="score", done=0, total=9, unit="pairs", per_second=1.5, note="9 pairs to score in fp32")
    progress.follow(report)
    progress.follow(report.model_copy(update={"note": ""}))
    assert caplog.messages == ["evaluate: 9 pairs to score in fp32"]
