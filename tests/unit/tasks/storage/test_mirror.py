"""A folder on this machine and its copy on a real S3 server: what goes up, in which order, and what comes back."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.errors import StageError, UserError
from tasks.records import CheckpointRef, Stage
from tasks.storage import mirror
from tasks.storage.local_copy import local_checkpoint, local_copy
from tasks.storage.mirror import RUN, SCORES, mirrored
from tasks.storage.root import Root, file_digest
from tasks.training.runs import choose_checkpoint, find_run
from tests.s3_server import Bucket

FOLDER = "runs/pretrain-0123456789ab"
NAMES = {"config.json", "model.safetensors", "optimizer.pt", "state.json", "tokenizer_config.json", "vocab.txt"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "POLL_SECONDS", 0.02)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Goes to the machine of a name: each has a cache of its own."""

    def go(name: str) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))

    go("first")
    return go


def checkpoint(run: Path, step: int) -> None:
    """A checkpoint appears, as the training makes it appear."""
    part = run / "checkpoints" / f".step-{step:07d}.part"
    part.mkdir(parents=True)
    for name in NAMES:
        (part / name).write_text(f"{name} of step {step}")
    part.rename(run / "checkpoints" / f"step-{step:07d}")


def drop(run: Path, step: int) -> None:
    shutil.rmtree(run / "checkpoints" / f"step-{step:07d}")


def steps_here(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*"))


def steps_there(bucket: Bucket) -> dict[int, set[str]]:
    """Of each checkpoint on the bucket, its files."""
    found: dict[int, set[str]] = {}
    for path in bucket.paths(f"root/{FOLDER}/checkpoints/"):
        step, name = path.split("/")[-2:]
        found.setdefault(int(step.removeprefix("step-")), set()).add(name)
    return found


def wait_for(happened: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)


@contextmanager
def training(bucket: Bucket, node: int = 0) -> Iterator[Path]:
    with mirrored(Root(f"{bucket.uri}/root"), FOLDER, RUN, node) as run:
        run.mkdir(parents=True, exist_ok=True)
        yield run


def test_a_local_root_is_worked_on_where_it_lies(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    with mirrored(root, FOLDER, RUN) as run:
        assert run == tmp_path / "root" / FOLDER
    assert local_copy(root) is root and not (tmp_path / "root").exists()


def test_checkpoints_go_up_as_they_stand_weights_last_and_go_when_a_newer_one_is_up(
    bucket: Bucket, machine: Callable[[str], None]
) -> None:
    with training(bucket) as run:
        (run / "job.json").write_text("{}")
        (run / "metrics.jsonl").write_text('{"step": 10}\n')
        checkpoint(run, 10)
        wait_for(lambda: "model.safetensors" in steps_there(bucket).get(10, ()))
        assert steps_there(bucket) == {10: NAMES | {"files.json"}}
        checkpoint(run, 20)
        drop(run, 10)
        wait_for(lambda: list(steps_there(bucket)) == [20])
        (run / "final.json").write_text("done")
        (run / "tensorboard").mkdir()
        (run / "tensorboard" / "events.1").write_bytes(b"e")
        (run / "metrics.jsonl").write_text('{"step": 10}\n{"step": 20}\n')
        time.sleep(0.1)
        assert not any(path.endswith("final.json") for path in bucket.paths())

    ours = [request for request in bucket.server.requests if bucket.name in request]
    written = [request.rpartition("/")[2] for request in ours if request.startswith("PUT") and "root/" in request]
    first = written.index("model.safetensors")
    # What describes a checkpoint is there before it, and of the checkpoint the weights come last.
    assert set(written[: first + 1]) == NAMES | {"files.json", "job.json", "metrics.jsonl"}
    assert written[-1] == "final.json" and written.count("final.json") == 1
    removed = [request.rpartition("/")[2] for request in ours if request.startswith("DELETE")]
    assert removed[0] == "model.safetensors" and set(removed) == NAMES | {"files.json"}
    last_put = max(number for number, request in enumerate(ours) if request.startswith("PUT") and "0000020" in request)
    assert last_put < min(number for number, request in enumerate(ours) if request.startswith("DELETE"))
    assert bucket.get(f"root/{FOLDER}/metrics.jsonl").endswith(b'{"step": 20}\n')
    assert bucket.get(f"root/{FOLDER}/tensorboard/events.1") == b"e"


def test_another_machine_goes_on_from_what_is_whole(bucket: Bucket, machine: Callable[[str], None]) -> None:
    with pytest.raises(KeyboardInterrupt), training(bucket) as run:
        (run / "metrics.jsonl").write_text('{"step": 20}\n')
        checkpoint(run, 10)
        checkpoint(run, 20)
        raise KeyboardInterrupt
    assert list(steps_there(bucket)) == [10, 20]  # What stood when it was interrupted went up, too.
    # As an upload that was killed leaves it.
    bucket.put(f"root/{FOLDER}/checkpoints/step-0000030/optimizer.pt", b"half")

    machine("second")
    with training(bucket) as run:
        assert steps_here(run) == [10, 20]
        assert (run / "metrics.jsonl").read_text() == '{"step": 20}\n'
        files = {path.name: path.read_text() for path in (run / "checkpoints" / "step-0000020").iterdir()}
        assert files == {name: f"{name} of step 20" for name in NAMES}
        checkpoint(run, 40)
        drop(run, 10)
        drop(run, 20)
    assert steps_there(bucket) == {40: NAMES | {"files.json"}}  # Nor is the half one left.

    # The first machine comes back: what it has is behind, and the root's takes its place.
    machine("first")
    with training(bucket) as run:
        assert steps_here(run) == [40]


@pytest.mark.slow("a server of object storage")
def test_a_machine_that_is_further_than_the_root_stays_so_unless_it_follows(
    bucket: Bucket, machine: Callable[[str], None]
) -> None:
    with training(bucket) as run:
        checkpoint(run, 10)
    checkpoint(run, 20)  # Killed before it was uploaded.
    drop(run, 10)
    with training(bucket) as run:
        assert steps_here(run) == [20]
        assert list(steps_there(bucket)) == [20]  # Before the work begins: other nodes start from it.
    # Another node, even one that shares the cache, has a folder of its own, and what it had is nothing to it.
    for _ in range(2):
        with training(bucket, node=1) as other:
            assert other != run and steps_here(other) == [20]
            checkpoint(other, 30)
    assert list(steps_there(bucket)) == [20]


def test_a_store_that_is_down_holds_nothing_up_and_is_told_once(
    bucket: Bucket, machine: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tasks")
    with training(bucket) as run:
        bucket.server.stop()
        try:
            checkpoint(run, 10)
            wait_for(lambda: caplog.records)
            time.sleep(0.3)  # It is tried again.
        finally:
            bucket.server.start()
        wait_for(lambda: 10 in steps_there(bucket) and len(caplog.records) > 1)
    warned, mended = [record.getMessage() for record in caplog.records]
    assert warned.startswith(f"nothing can be put under {bucket.uri}/root/{FOLDER} just now (root {bucket.uri}/root: ")
    assert str(run) in warned
    assert mended == f"{bucket.uri}/root/{FOLDER} is up to date again"


def test_what_cannot_be_uploaded_at_the_end_is_an_error_and_the_next_time_it_is(
    bucket: Bucket, machine: Callable[[str], None]
) -> None:
    try:
        with pytest.raises(StageError) as failed, training(bucket) as run:
            checkpoint(run, 10)
            wait_for(lambda: "model.safetensors" in steps_there(bucket).get(10, ()))
            bucket.server.stop()
            (run / "final.json").write_text("done")
    finally:
        bucket.server.start()
    assert 10 in steps_there(bucket)
    assert str(failed.value).startswith(f"the work is done, but not all of it could be put under {bucket.uri}/root/")
    assert f"It lies in {run}; the same command on this machine puts it there" in str(failed.value)
    assert "SECRET" not in str(failed.value) and "a-secret-key" not in str(failed.value)
    with training(bucket):
        pass
    assert bucket.get(f"root/{FOLDER}/final.json") == b"done"


def test_a_bucket_that_vanishes_is_one_sentence(bucket: Bucket, machine: Callable[[str], None]) -> None:
    with pytest.raises(StageError, match="there is no bucket") as failed, training(bucket) as run:
        bucket.delete()
        checkpoint(run, 10)
    assert "\n" not in str(failed.value)
    with pytest.raises(UserError, match="there is no bucket"), training(bucket):
        pytest.fail("nothing begins")


def test_a_checkpoint_that_arrives_otherwise_than_it_was_written_is_refused(
    bucket: Bucket, machine: Callable[[str], None]
) -> None:
    with training(bucket) as run:
        checkpoint(run, 10)
    bucket.put(f"root/{FOLDER}/checkpoints/step-0000010/optimizer.pt", b"another one")
    machine("second")
    with pytest.raises(StageError, match=r"optimizer\.pt did not arrive as it was written"), training(bucket):
        pytest.fail("nothing begins")
    assert not list(local_copy(Root(f"{bucket.uri}/root")).local(FOLDER).rglob("step-*"))


def test_blocks_of_scores_come_from_the_root_and_go_there(bucket: Bucket, machine: Callable[[str], None]) -> None:
    root = Root(f"{bucket.uri}/root")
    with pytest.raises(StageError, match="killed"), mirrored(root, "scores/one", SCORES) as folder:
        folder.mkdir(parents=True)
        for name in ("items.npz", "plan.json", "scores-00000.npy"):
            (folder / name).write_text(name)
        raise StageError("killed")
    machine("second")
    with mirrored(root, "scores/one", SCORES) as folder:
        assert sorted(path.name for path in folder.iterdir()) == ["items.npz", "plan.json", "scores-00000.npy"]
        (folder / "scores-00001.npy").write_text("scores-00001.npy")
        (folder / "metrics.json").write_text("{}")
    assert bucket.paths("root/scores/")[-1] == "root/scores/one/scores-00001.npy"
    # Nothing has changed: nothing is written.
    bucket.server.requests.clear()
    with mirrored(root, "scores/one", SCORES):
        pass
    assert not [request for request in bucket.server.requests if request.startswith("PUT")]
    # Measured by another ground truth, later and on another machine.
    machine("measuring")
    with mirrored(root, "scores/one", SCORES) as folder:
        (folder / "positives-0123.json").write_text("{}")
    assert "root/scores/one/positives-0123.json" in bucket.paths("root/scores/")
    # A machine that has cut its blocks otherwise begins anew from what the root has.
    machine("third")
    other = local_copy(root).local("scores/one")
    other.mkdir(parents=True)
    (other / "plan.json").write_text("cut otherwise")
    (other / "scores-00007.npy").write_text("of that plan")
    with mirrored(root, "scores/one", SCORES) as folder:
        assert (folder / "plan.json").read_text() == "plan.json"
        assert [path.name for path in sorted(folder.glob("scores-*"))] == ["scores-00000.npy", "scores-00001.npy"]


@pytest.mark.slow("a server of object storage")
def test_a_checkpoint_to_be_read_is_fetched_once(bucket: Bucket, machine: Callable[[str], None]) -> None:
    root = Root(f"{bucket.uri}/root")
    with training(bucket) as run:
        (run / "job.json").write_text('{"pretrain": {"seed": 3}}')
        checkpoint(run, 10)
        weights = file_digest(run / "checkpoints" / "step-0000010" / "model.safetensors").sha256
    machine("second")
    chosen = choose_checkpoint(root, find_run(root, "pretrain"), "newest")
    assert (chosen.step, chosen.fingerprint, chosen.stage) == (10, weights, Stage.PRETRAIN)
    folder = Path(local_checkpoint(root, chosen))
    assert {path.name for path in folder.iterdir()} == NAMES - {"optimizer.pt", "state.json"}
    bucket.server.requests.clear()
    assert local_checkpoint(root, chosen) == str(folder) and not bucket.server.requests
    # A root that was copied there by other means has no record of the files.
    record = f"root/{FOLDER}/checkpoints/step-0000010/files.json"
    root.remove(record.removeprefix("root/"))
    assert choose_checkpoint(root, find_run(root, "pretrain"), 10) == chosen
    # Nor has one of an earlier version the rules of its vocabulary.
    root.remove(f"{FOLDER}/checkpoints/step-0000010/tokenizer_config.json")
    machine("third")
    folder = Path(local_checkpoint(root, chosen))
    assert (folder / "model.safetensors").read_text() == "model.safetensors of step 10"
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "vocab.txt"}
    with pytest.raises(UserError, match="is not there any more"):
        local_checkpoint(root, gone(chosen))


def gone(checkpoint: CheckpointRef) -> CheckpointRef:
    return checkpoint.model_copy(update={"uri": checkpoint.uri.replace("10", "11"), "fingerprint": "f" * 64})
