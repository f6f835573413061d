"""The history is append-only, holds each evaluation once, and survives a killed writer."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from model.publish import Lock
from tasks.errors import UserError
from tasks.evaluation.history import append_history, code_version, find_row, read_history
from tasks.records import HistoryRow
from tasks.storage.paths import HISTORY
from tasks.storage.root import Root


def row(
    setting: str = "zero-shot",
    checkpoint: str = "c1",
    data: str = "d1",
    seed: int = 0,
    protocols: tuple[str, ...] | None = None,
) -> HistoryRow:
    """An evaluation; without protocols, as an older program wrote it."""
    metrics: dict[str, Any] = {"images": 2}
    if protocols is not None:
        metrics |= {"protocol": protocols[0], "also": [{"protocol": name} for name in protocols[1:]]}
    return HistoryRow(
        setting=setting,
        run="pretrain-0123456789ab",
        dataset="retrieval",
        split="test",
        seed=seed,
        metrics=metrics,
        checkpoint_fingerprint=checkpoint,
        data_fingerprint=data,
        code_version="1",
        created_at="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    return Root(str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}")


def test_empty_root_has_no_history(root: Root) -> None:
    assert read_history(root) == []


def test_rows_come_back_in_order(root: Root) -> None:
    rows = [row("zero-shot"), row("task-specific"), row("zero-shot", checkpoint="c2"), row("zero-shot", data="d2")]
    for each in rows:
        append_history(root, each)
    assert read_history(root) == rows


def test_same_evaluation_is_appended_once_and_the_first_row_stands(root: Root) -> None:
    append_history(root, row(seed=1))
    assert append_history(root, row(seed=2)).seed == 1
    assert len(read_history(root)) == 1
    assert find_row(root, "zero-shot", "c1", "d1") == row(seed=1)
    assert find_row(root, "zero-shot", "c1", "other") is None


def test_other_protocols_are_another_evaluation(root: Root) -> None:
    rows = [row(protocols=("all",)), row(protocols=("all", "folds:2")), row(protocols=("folds:2", "all"))]
    for each in [*rows, *rows]:
        append_history(root, each)
    assert read_history(root) == rows
    assert find_row(root, "zero-shot", "c1", "d1", ["folds:2", "all"]) == rows[2]
    assert find_row(root, "zero-shot", "c1", "d1", ["first:1"]) is None


def test_a_row_of_an_older_program_stands_for_the_protocol_it_had(root: Root) -> None:
    append_history(root, row(seed=1))
    assert append_history(root, row(seed=2, protocols=("all",))).seed == 1


def test_a_line_of_an_older_program_is_read(root: Root) -> None:
    old = row().model_dump_json(exclude={"stage", "step"})
    root.publish_bytes(HISTORY, old.encode() + b"\n")
    assert [(one.stage, one.step) for one in read_history(root)] == [(None, None)]


def test_rows_of_many_threads_are_whole_and_each_is_there_once(tmp_path: Path) -> None:
    rows = [row(checkpoint=f"c{number % 10}") for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: append_history(Root(str(tmp_path)), each), rows))
    assert sorted(one.checkpoint_fingerprint for one in read_history(Root(str(tmp_path)))) == [
        f"c{number}" for number in range(10)
    ]


def test_another_process_that_appends_is_waited_for(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    append_history(root, row())
    with ThreadPoolExecutor(1) as pool, Lock(tmp_path / HISTORY) as other:
        other.hold()
        appended = pool.submit(append_history, root, row("task-specific"))
        with pytest.raises(TimeoutError):
            appended.result(timeout=0.2)
        root.append_line(HISTORY, row("task-specific", seed=7).model_dump_json())
        other.close()
        assert appended.result(timeout=20).seed == 7
    assert len(read_history(root)) == 2


def test_line_cut_by_a_kill_is_left_out_and_the_next_row_is_whole(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    append_history(root, row())
    with (tmp_path / HISTORY).open("ab") as stream:
        stream.write(b'{"setting": "task-spe')
    assert read_history(root) == [row()]
    append_history(root, row("task-specific"))
    assert read_history(root) == [row(), row("task-specific")]


def test_damaged_line_is_named(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    append_history(root, row())
    root.append_line(HISTORY, "{}")
    with pytest.raises(UserError, match=r"history\.jsonl, line 2 is not a history row"):
        read_history(root)


def test_the_code_s_version_is_that_of_every_source_file_of_the_rooms() -> None:
    repository = Path(__file__).parents[4]
    digest = hashlib.sha256()
    rooms = ("feature_extraction", "flows", "model", "tasks")
    sources = sorted(path for room in rooms for path in (repository / room).rglob("*.py"))
    assert len(sources) > 300
    for path in sources:
        digest.update(str(path.relative_to(repository)).encode() + b"\0" + path.read_bytes() + b"\0")
    assert code_version().partition("+")[2] == digest.hexdigest()[:12]


def test_a_retrieval_row_is_written_as_an_older_program_wrote_it(tmp_path: Path) -> None:
    """Older programs refuse fields that they do not know."""
    root = Root(str(tmp_path))
    append_history(root, row())
    assert "task" not in json.loads((tmp_path / HISTORY).read_text())
    assert read_history(root)[0].task == "retrieval"


def test_another_task_on_the_same_weights_and_data_is_another_evaluation(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    other = row().model_copy(update={"task": "vqa"})
    append_history(root, row())
    append_history(root, other)
    assert read_history(root) == [row(), other]
