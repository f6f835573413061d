"""A journal gives back all that was appended, whole, whatever was cut off at its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.download.journal import Journal, is_locked, journal_file, journaled_shards
from tasks.download.outcomes import RowOutcome
from tasks.errors import StageError
from tasks.records import Outcome, ShardRef
from tasks.storage.root import Root

REPOSITORY = Path(__file__).parents[4]


def ok(number: int, jpeg: bytes) -> RowOutcome:
    return RowOutcome(
        f"{number:09d}", f"http://a.example/{number}", f"{number:09d}", Outcome.OK,
        attempts=2, tried_at=1_800_000_000, seconds=0.125, http_status=200, width=3, height=4,
        bytes=len(jpeg), sha256="ab",
    )  # fmt: skip


def lost(number: int) -> RowOutcome:
    return RowOutcome(f"{number:09d}", "http://ü.example/", f"{number:09d}", Outcome.DNS, "no such name", attempts=1)


def test_what_was_appended_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "deep/00000.journal"
    with Journal(path, "f", over_table=False) as journal:
        journal.append(ok(1, b"one"), b"one")
        journal.append(lost(2), None)
        assert journal.jpeg("000000001") == b"one"
    with Journal(path, "f", over_table=True) as journal:
        assert journal.outcomes == {"000000001": ok(1, b"one"), "000000002": lost(2)}
        assert journal.jpeg("000000001") == b"one"
        assert not journal.over_table  # it goes on as it was begun
        journal.append(ok(3, b"three"), b"three")
    with Journal(path, "f", over_table=False) as journal:
        assert (journal.jpeg("000000001"), journal.jpeg("000000003")) == (b"one", b"three")


def test_a_journal_is_as_open_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        Journal(tmp_path / "00000.journal", "f", over_table=False).__exit__()
    finally:
        os.umask(before)
    assert (tmp_path / "00000.journal").stat().st_mode & 0o777 == 0o664


def test_journal_of_other_rows_or_settings_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "00000.journal"
    with Journal(path, "f", over_table=False) as journal:
        journal.append(ok(1, b"one"), b"one")
    with Journal(path, "g", over_table=True) as journal:
        assert journal.outcomes == {} and journal.over_table
    with Journal(path, "g", over_table=False) as journal:
        assert journal.outcomes == {} and journal.over_table


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_cut_anywhere_it_keeps_every_whole_entry(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("journal") / "00000.journal"
    ends = []
    with Journal(path, "f", over_table=False) as journal:
        for number in range(4):
            jpeg = bytes([number]) * 50
            journal.append(*((ok(number, jpeg), jpeg) if number % 2 else (lost(number), None)))
            ends.append(path.stat().st_size)
    cut = data.draw(st.integers(0, ends[-1]))
    os.truncate(path, cut)
    with Journal(path, "f", over_table=False) as journal:
        kept = sum(end <= cut for end in ends)
        assert len(journal.outcomes) == kept
        journal.append(ok(9, b"nine"), b"nine")
    with Journal(path, "f", over_table=False) as journal:
        assert len(journal.outcomes) == kept + 1
        assert journal.jpeg("000000009") == b"nine"


def test_damaged_entry_and_what_follows_are_fetched_again(tmp_path: Path) -> None:
    path = tmp_path / "00000.journal"
    with Journal(path, "f", over_table=False) as journal:
        journal.append(ok(1, b"one"), b"one")
        first = path.stat().st_size
        journal.append(ok(2, b"two"), b"two")
        journal.append(ok(3, b"three"), b"three")
    content = bytearray(path.read_bytes())
    content[first + 40] ^= 1
    path.write_bytes(content)
    with Journal(path, "f", over_table=False) as journal:
        assert list(journal.outcomes) == ["000000001"]
    assert path.stat().st_size == first


@pytest.mark.parametrize("rubbish", [bytes(4096), b"\xff" * 4096], ids=["zeros", "lengths of gigabytes"])
def test_rubbish_that_a_power_cut_leaves_is_cut_off(tmp_path: Path, rubbish: bytes) -> None:
    path = tmp_path / "00000.journal"
    with Journal(path, "f", over_table=False) as journal:
        journal.append(ok(1, b"one"), b"one")
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(rubbish)
    with Journal(path, "f", over_table=False) as journal:
        assert list(journal.outcomes) == ["000000001"]
    assert path.stat().st_size == whole


def test_entries_reach_the_disk_every_few_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    path = tmp_path / "00000.journal"
    with Journal(path, "f", over_table=False) as journal:
        journal.append(lost(1), None)
        assert synced == []
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 60)
        journal.append(lost(2), None)
        assert synced == [path.stat().st_size]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "00000.journal"
    with (
        Journal(path, "f", over_table=False),
        pytest.raises(StageError, match="another process is downloading this shard"),
    ):
        Journal(path, "f", over_table=False)
    Journal(path, "f", over_table=False).__exit__()


def test_killed_process_leaves_neither_lock_nor_torn_entry(tmp_path: Path) -> None:
    path = tmp_path / "00000.journal"
    script = f"""
        import sys, time
        from pathlib import Path
        from tasks.download.journal import Journal
        from tasks.download.outcomes import RowOutcome
        from tasks.records import Outcome
        journal = Journal(Path({str(path)!r}), "f", over_table=False)
        for number in range(10**9):
            journal.append(RowOutcome(f"{{number:09d}}", "u", f"{{number:09d}}", Outcome.OK), b"x" * 100_000)
            print(number, flush=True)
            time.sleep(0.001)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = [int(process.stdout.readline()) for _ in range(20)][-1]
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    with Journal(path, "f", over_table=False) as journal:
        assert len(journal.outcomes) > said
        assert all(journal.jpeg(key) == b"x" * 100_000 for key in journal.outcomes)


def test_journal_lies_beside_the_images_or_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = ShardRef(dataset="web", split="train", shard=42)
    local = journal_file(Root(str(tmp_path)), ref)
    assert local == tmp_path / "datasets/web/train/journal/00042.journal"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one, other = journal_file(Root("memory://one"), ref), journal_file(Root("memory://other"), ref)
    assert one.is_relative_to(tmp_path / "cache/unicoder-vl") and one != other


def test_shards_under_way_are_told_from_those_left_behind(tmp_path: Path) -> None:
    root, web = Root(str(tmp_path)), {"dataset": "web", "split": "train"}
    assert journaled_shards(root, "web", "train") == []
    for shard in (3, 0):
        with Journal(journal_file(root, ShardRef(shard=shard, **web)), "f", over_table=False):
            pass
    assert journaled_shards(root, "web", "train") == [0, 3]
    with Journal(journal_file(root, ShardRef(shard=3, **web)), "f", over_table=False):
        assert [is_locked(root, ShardRef(shard=shard, **web)) for shard in (0, 3, 7)] == [False, True, False]
    assert not is_locked(root, ShardRef(shard=3, **web))


def test_disk_that_takes_no_more_is_named_by_the_file_and_what_was_kept_stays(tmp_path: Path) -> None:
    code = """
        import resource, signal, sys
        from pathlib import Path
        from tasks.download.journal import Journal
        from tasks.download.outcomes import RowOutcome
        from tasks.records import Outcome
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            with Journal(Path(sys.argv[1]), "f", over_table=False) as journal:
                for number in range(9):
                    journal.append(RowOutcome(f"{number}", "", f"{number}", Outcome.OK), bytes(1500))
        except OSError as error:
            print(error.filename)
    """
    path = tmp_path / "00000.journal"
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == str(path)
    with Journal(path, "f", over_table=False) as journal:
        assert list(journal.outcomes) == ["0", "1"] and journal.jpeg("1") == bytes(1500)
