import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from model.checkpoint import CheckpointError, list_checkpoints, load_model, save_checkpoint
from model.config import FinetuneConfig, FinetuneJob, OptimConfig, PretrainConfig, PretrainJob, ScoreJob, ScoringConfig
from model.finetune import run_finetuning
from model.optim import learning_rate_share
from model.pretrain import run_pretraining
from model.scoring import run_scoring
from model.training import TrainingError, pick_device

ROOT = Path(__file__).parents[3]


@pytest.fixture
def job(eight_pairs, tiny, tmp_path):
    """A pretraining job with dropout, so that the random state matters too."""
    source, vocabulary = eight_pairs

    def make(run: str = "run", **changes) -> PretrainJob:
        # One thread: with another number the sums of a matrix product may round differently.
        fields = {"steps": 12, "batch_size": 4, "checkpoint_steps": 5, "log_steps": 2, "num_threads": 1, **changes}
        return PretrainJob(
            run_path=str(tmp_path / run),
            train=source,
            vocabulary_path=str(vocabulary),
            encoder=tiny.model_copy(update={"dropout": 0.1}),
            pretrain=PretrainConfig(**fields),
        )

    return make


def weights(job: PretrainJob) -> dict[str, torch.Tensor]:
    final = json.loads((Path(job.run_path) / "final.json").read_text())
    return load_model(Path(job.run_path) / final["checkpoint"])[0].state_dict()


def start(job: PretrainJob, tmp_path: Path) -> "subprocess.Popen[str]":
    path = tmp_path / "job.json"
    path.write_text(job.model_dump_json())
    return subprocess.Popen(
        [sys.executable, "-m", "model.pretrain", "--config", str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_checkpoint(job: PretrainJob, process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 120
    while not list_checkpoints(Path(job.run_path)):
        assert process.poll() is None and time.monotonic() < until, process.communicate()[1]
        time.sleep(0.05)


def test_a_run_leaves_metrics_checkpoints_and_a_final_mark(job):
    assert run_pretraining(job()) == 0
    run = Path(job().run_path)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert {"loss", "mlm", "moc", "vlm", "vlm_accuracy", "learning_rate", "skipped"} <= set(lines[-1])
    assert [c.step for c in list_checkpoints(run)] == [10, 12]
    final = json.loads((run / "final.json").read_text())
    assert final["step"] == 12 and final["checkpoint"] == "checkpoints/step-0000012"
    assert PretrainJob.model_validate_json((run / "job.json").read_text()) == job()


def test_kill_9_loses_only_the_interval_and_resume_is_bit_identical(job, tmp_path):
    whole, killed = job("whole", steps=4000, checkpoint_steps=20), job("killed", steps=4000, checkpoint_steps=20)
    process = start(killed, tmp_path)
    wait_for_checkpoint(killed, process)
    process.kill()
    process.communicate()
    reached = list_checkpoints(Path(killed.run_path))[-1].step
    assert 20 <= reached < 4000
    assert not (Path(killed.run_path) / "final.json").exists()
    steps = reached + 15
    # The schedule depends on the number of steps: a killed run of the same length is made by stopping both there.
    for part in (whole, killed):
        stop_after(part, steps)
    first, second = (load_model(list_checkpoints(Path(p.run_path))[-1].path)[0].state_dict() for p in (whole, killed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    logs = [(Path(p.run_path) / "metrics.jsonl").read_text().splitlines() for p in (whole, killed)]
    seen = [[(row["step"], row["loss"]) for row in map(json.loads, log)] for log in logs]
    assert seen[0] == seen[1]


def stop_after(job: PretrainJob, steps: int) -> None:
    """Run in this process until `steps`, then let the loop find that SIGTERM came."""
    import model.objectives
    import model.pretrain

    original = model.pretrain.pretraining_losses
    count = list_checkpoints(Path(job.run_path))
    step = count[-1].step if count else 0

    def counted(*arguments):
        nonlocal step
        step += 1
        if step == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    model.pretrain.pretraining_losses = counted
    try:
        assert run_pretraining(job) == 143
    finally:
        model.pretrain.pretraining_losses = original


def test_sigterm_writes_a_checkpoint_and_exits_143(job, tmp_path):
    long = job(steps=100_000, checkpoint_steps=50)
    process = start(long, tmp_path)
    wait_for_checkpoint(long, process)
    before = list_checkpoints(Path(long.run_path))[-1].step
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert list_checkpoints(Path(long.run_path))[-1].step > before
    assert "checkpoint written at step" in errors


def test_resuming_a_finished_run_changes_nothing(job):
    run_pretraining(job())
    before = weights(job())
    assert run_pretraining(job()) == 0
    after = weights(job())
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_losses_that_are_not_finite_are_skipped_then_stop_the_run(job, monkeypatch):
    import model.pretrain

    original = model.pretrain.pretraining_losses
    calls = 0

    def sometimes_broken(*arguments):
        nonlocal calls
        calls += 1
        losses = original(*arguments)
        if calls in broken:
            object.__setattr__(losses, "mlm", losses.mlm * float("nan"))
        return losses

    monkeypatch.setattr(model.pretrain, "pretraining_losses", sometimes_broken)
    broken = {3, 4}
    assert run_pretraining(job("skips", max_bad_steps=2)) == 0
    last = json.loads((Path(job("skips").run_path) / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["skipped"] == 2
    assert all(torch.isfinite(value).all() for value in weights(job("skips")).values())
    calls, broken = 0, set(range(100))
    with pytest.raises(TrainingError, match="3 losses in a row were not finite"):
        run_pretraining(job("stops", max_bad_steps=2))


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(job, monkeypatch):
    run_pretraining(job(steps=5))
    run = Path(job().run_path)
    model, _ = load_model(list_checkpoints(run)[-1].path)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(run, 6, model, job().vocabulary_path, {})
    assert [c.step for c in list_checkpoints(run)] == [5]
    load_model(list_checkpoints(run)[-1].path)


def test_a_damaged_or_foreign_checkpoint_is_refused_by_name(job, tmp_path):
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load_model(tmp_path)
    run_pretraining(job(steps=2))
    path = list_checkpoints(Path(job().run_path))[-1].path
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="step-0000002 cannot be loaded"):
        load_model(path)


@pytest.mark.parametrize(("step", "share"), [(0, 1 / 11), (9, 10 / 11), (10, 1.0), (60, 0.5), (110, 0.0)])
def test_learning_rate_rises_and_falls_linearly(step, share):
    assert learning_rate_share(step, 110, 10) == pytest.approx(share)


def test_a_gpu_that_is_not_there_is_an_error():
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    with pytest.raises(ValueError, match="torch sees no GPU"):
        pick_device("cuda")


def test_bad_jobs_end_with_one_sentence_and_code_2(job, tmp_path):
    broken = job().model_copy(update={"vocabulary_path": str(tmp_path / "absent.txt")})
    process = start(broken, tmp_path)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.strip().splitlines()[-1].startswith("vocabulary ")
    assert "Traceback" not in errors and out == ""


def test_progress_lines_are_json_on_stdout(job, tmp_path):
    from model.progress import Progress

    process = start(job(), tmp_path)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    lines = [Progress.model_validate_json(line) for line in out.splitlines()]
    assert lines[-1].done == lines[-1].total == 12
    assert lines[-1].stage == "pretrain"


def test_finetuning_and_scoring_go_on_from_a_pretrained_checkpoint(job, tmp_path):
    run_pretraining(job(steps=3))
    pretrained = list_checkpoints(Path(job().run_path))[-1].path
    optim = OptimConfig(learning_rate=1e-3)
    finetune = FinetuneConfig(steps=3, batch_size=2, log_steps=1, validation_steps=3, optim=optim, num_threads=1)
    task = FinetuneJob(
        run_path=str(tmp_path / "finetuned"),
        train=job().train,
        validation=job().train,
        vocabulary_path=job().vocabulary_path,
        encoder=job().encoder,
        finetune=finetune,
        checkpoint_path=str(pretrained),
    )
    assert run_finetuning(task) == 0
    lines = [json.loads(line) for line in (tmp_path / "finetuned" / "metrics.jsonl").read_text().splitlines()]
    assert 0 <= lines[-1]["validation_text_to_image_r1"] <= 1
    checkpoint = list_checkpoints(tmp_path / "finetuned")[-1].path
    score = ScoreJob(
        output_path=str(tmp_path / "scores"),
        checkpoint_path=str(checkpoint),
        data=job().train,
        scoring=ScoringConfig(num_threads=1),
    )
    assert run_scoring(score) == 0
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert metrics["images"] == metrics["captions"] == 8
    assert metrics["text_to_image_recall"]["1"] == lines[-1]["validation_text_to_image_r1"]
    other = task.encoder.model_copy(update={"num_layers": 1})
    with pytest.raises(ValueError, match="another encoder"):
        run_finetuning(task.model_copy(update={"encoder": other, "run_path": str(tmp_path / "other")}))


def test_scoring_refuses_features_of_another_extractor(job, tmp_path):
    run_pretraining(job(steps=1))
    manifest = Path(job().train.features_path) / "manifest.json"
    manifest.write_text(manifest.read_text().replace("e" * 64, "f" * 64))
    score = ScoreJob(
        output_path=str(tmp_path / "scores"),
        checkpoint_path=str(list_checkpoints(Path(job().run_path))[-1].path),
        data=job().train,
        scoring=ScoringConfig(num_threads=1),
    )
    with pytest.raises(ValueError, match="different extractors do not mix"):
        run_scoring(score)
