"""Threads of one shard do not outlive it into the next."""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tasks.config import DatasetConfig
from tasks.download.fetching import Session, fetch_rows
from tasks.download.journal import Journal
from tasks.download.web.attempt import FetchError
from tasks.download.web.fetch import Answer
from tasks.records import Outcome
from tasks.rows.manifest import ManifestRow
from tests.faults import CONFIG, JPEG

DATASET = DatasetConfig(name="tiny", splits={"train": "rows.tsv"})


class Slow:
    """A source that answers when told to, and counts how many ask at once."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.asking: Counter[str] = Counter()
        self.most = 0
        self._lock = threading.Lock()

    def attempt(self, url: str, seconds: float) -> Answer:
        with self._lock:
            self.asking[url] += 1
            self.most = max(self.most, self.asking.total())
        if not url.endswith("/quick"):
            assert self.go_on.wait(30)
        with self._lock:
            self.asking[url] -= 1
        return Answer(JPEG, 200)

    def close(self) -> None:
        pass


def rows(*urls: str) -> list[ManifestRow]:
    return [ManifestRow(f"{number:09d}", "a caption", url, f"{number:09d}", "") for number, url in enumerate(urls)]


def fetch(session: Session, path: Path, wanted: list[ManifestRow], progress: Any = None) -> Counter[str]:
    ended: Counter[str] = Counter()
    with Journal(path, "f", over_table=False) as journal:
        fetch_rows(wanted, session, journal, 1, True, ended, progress)
    return ended


def test_requests_of_a_broken_shard_end_before_the_next_shard_makes_its_own(tmp_path: Path) -> None:
    source = Slow()
    with Session(DATASET, "train", CONFIG.model_copy(update={"threads": 4, "per_host": 4})) as session:
        session.source.close()
        session.source = source
        slow = [f"http://a.example/{number}" for number in range(3)]

        def broken(ended: Counter[str]) -> None:
            if ended.total():
                raise KeyError("a bug")

        begun = time.monotonic()
        with pytest.raises(KeyError):
            fetch(session, tmp_path / "0.journal", rows(*slow, "http://a.example/quick"), broken)
        assert time.monotonic() - begun < 10  # the error does not wait for servers
        assert source.asking.total() == 3
        threading.Timer(0.1, source.go_on.set).start()
        ended = fetch(session, tmp_path / "1.journal", rows(*(f"{url}/next" for url in slow)))
        assert ended == {"ok": 3}
        assert source.most <= 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch-")]


def test_no_room_for_threads_is_an_error_and_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def starting(self: threading.Thread) -> None:
        if self.name == "fetch-2":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", starting)
    with Session(DATASET, "train", CONFIG) as session:
        session.source.close()
        session.source = source = Slow()
        source.go_on.set()
        wanted = rows(*(f"http://a.example/{number}" for number in range(500)))
        with pytest.raises(RuntimeError, match="can't start new thread"):
            fetch(session, tmp_path / "0.journal", wanted)
        session.join_threads()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch-")]


def test_row_is_in_the_journal_before_anybody_hears_of_it(tmp_path: Path) -> None:
    sizes: list[int] = []
    path = tmp_path / "0.journal"

    def grows(ended: Counter[str]) -> None:
        sizes.append(path.stat().st_size)

    with Session(DATASET, "train", CONFIG.model_copy(update={"threads": 1})) as session:
        session.source.close()
        session.source = source = Slow()
        source.go_on.set()
        fetch(session, path, rows(*(f"http://a.example/{number}" for number in range(5))), grows)
    assert len(sizes) == 6 and sizes == sorted(set(sizes)) and sizes[-1] == path.stat().st_size


def test_body_of_a_failed_attempt_is_let_go_before_the_next(tmp_path: Path) -> None:
    bodies: list[weakref.ref[Body]] = []

    class Body:
        """Half of twenty megabytes, say."""

    class Breaks(Slow):
        def attempt(self, url: str, seconds: float) -> Answer:
            if bodies:
                assert bodies[0]() is None
                return Answer(JPEG, 200)
            body = Body()
            bodies.append(weakref.ref(body))
            try:
                raise ConnectionResetError
            except ConnectionResetError as error:
                raise FetchError(Outcome.TRUNCATED, "broken off", 200, transient=True, alive=True) from error

    with Session(DATASET, "train", CONFIG.model_copy(update={"threads": 1})) as session:
        session.source.close()
        session.source = Breaks()
        assert fetch(session, tmp_path / "0.journal", rows("http://a.example/1")) == {"ok": 1}
    assert len(bodies) == 1
