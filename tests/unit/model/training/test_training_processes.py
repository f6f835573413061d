"""Real processes: several under torchrun, and one that is stopped, killed or finds the disk full."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from model.downstream.retrieval.config import FinetuneConfig
from model.families.configs import of_family
from model.finetune import run_finetuning
from model.jobs import FinetuneJob, PretrainJob
from model.objectives.turns import Turns, loss_names
from model.pretrain import run_pretraining
from model.progress import Ending, Progress
from model.training.checkpoint import list_checkpoints, weights_sha256
from tests.processes import children, wait_until_ended
from tests.toy import WORDS

pytestmark = pytest.mark.slow("processes that train, killed and stopped")

ROOT = Path(__file__).parents[4]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def start(job: PretrainJob | FinetuneJob, *launcher: str) -> "subprocess.Popen[str]":
    """The job's command, as the only process or under a launcher (arguments of python)."""
    path = Path(f"{job.run_path}.json")
    path.write_text(job.model_dump_json())
    module = "model.pretrain" if isinstance(job, PretrainJob) else "model.finetune"
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", module, "--config", str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, errors = process.communicate(timeout=120)
    return process.returncode, out, errors


def wait_for_step(job: PretrainJob | FinetuneJob, process: "subprocess.Popen[str]", step: int) -> None:
    """Until there is a checkpoint of this step or a later one."""
    until = time.monotonic() + 120
    while not any(checkpoint.step >= step for checkpoint in list_checkpoints(Path(job.run_path))):
        assert process.poll() is None and time.monotonic() < until, process.communicate()[1]
        time.sleep(0.02)


def result(job: PretrainJob | FinetuneJob) -> Path:
    return Path(job.run_path) / json.loads((Path(job.run_path) / "final.json").read_text())["checkpoint"]


def test_two_processes_killed_and_stopped_end_with_what_one_learns(job):
    """One process that works off the batch in two parts adds the same two gradients, so the weights are equal."""
    fields = {"batch_size": 8, "steps": 250, "checkpoint_steps": 20, "log_steps": 1}
    both, alone = job("both", **fields), job("alone", **fields, device_batch_size=4)
    process = start(both, *TORCHRUN)
    wait_for_step(both, process, 20)
    ranks = children(process.pid)
    assert len(ranks) == 2
    process.kill()
    process.communicate(timeout=60)
    wait_until_ended(ranks)

    reached = list_checkpoints(Path(both.run_path))[-1].step
    process = start(both, *TORCHRUN)
    wait_for_step(both, process, reached + 20)
    ranks = children(process.pid)
    os.kill(ranks[1], signal.SIGTERM)
    status, _, errors = finish(process)
    assert status != 0
    wait_until_ended(ranks)
    stopped = list_checkpoints(Path(both.run_path))[-1].step
    assert f"was asked to stop: checkpoint written at step {stopped}" in errors
    assert reached < stopped < 250
    assert "250: 8 captions a step = 2 processes x 1 parts x 4" in errors

    resumed = both.model_copy(update={"pretrain": alone.pretrain})
    assert run_pretraining(resumed) == 0
    assert run_pretraining(alone) == 0
    assert weights_sha256(result(both)) == weights_sha256(result(alone))
    # The lines of metrics too, but for speed, whichever number of processes wrote them.
    logs = [[json.loads(line) for line in metrics(job)] for job in (both, alone)]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]]
    for name in ("loss", "vlm_accuracy", "gradient_norm", "learning_rate"):
        assert [row[name] for row in logs[0]] == pytest.approx([row[name] for row in logs[1]], rel=1e-5)


def test_two_processes_on_several_corpora_stopped_and_resumed_end_with_what_one_learns(job, make_world):
    """Every step has one corpus and one objective, the same ones in both processes, also after a resume."""
    other, _ = make_world(
        [[i, (i + 2) % 8] for i in range(6)],
        [(i, f"{WORDS[i]} {WORDS[(i + 2) % 8]}") for i in range(6)],
        name="sbu/train",
    )
    fields = {
        "batch_size": 8,
        "steps": 60,
        "checkpoint_steps": 15,
        "log_steps": 1,
        "combine": "draw",
        "corpora": {"toy/train": 2, "sbu/train": {"mlm": 1, "vlm": 3}},
    }
    both = job("both", **fields).model_copy(update={"also": (other,)})
    alone = job("alone", **fields, device_batch_size=4).model_copy(update={"also": (other,)})
    process = start(both, *TORCHRUN)
    wait_for_step(both, process, 15)
    os.kill(children(process.pid)[1], signal.SIGTERM)
    finish(process)
    assert list_checkpoints(Path(both.run_path))[-1].step < 60
    status, _, errors = finish(start(both, *TORCHRUN))
    assert status == 0, errors
    assert run_pretraining(alone) == 0
    assert weights_sha256(result(both)) == weights_sha256(result(alone))

    turns, rows = Turns(both.pretrain), [json.loads(line) for line in metrics(both)]
    for row in rows:
        turn = turns(row["step"] - 1)
        name, objective = ("sbu/train", "toy/train")[turn.corpus], turn.active[0].name
        assert {one for one in row if one in loss_names(both.pretrain)} == {f"{name}/{objective}"}
        assert row["loss"] == row[objective] == row[f"{name}/{objective}"]
        assert row["sbu/train/steps"] + row["toy/train/steps"] == row["step"]
        assert row[f"{name}/steps"] == turn.visit + 1


def test_two_processes_on_token_batches_resumed_end_with_what_one_learns(job):
    """One process works off both buckets of a step, or each of two has one: the same two gradients are added."""
    asked = {"tokens": 40, "buckets": 2}
    fields = {"steps": 40, "checkpoint_steps": 10, "log_steps": 1, "num_threads": 1, "token_batches": asked}
    both, alone = job("both", **fields), job("alone", **fields)
    process = start(both, *TORCHRUN)
    wait_for_step(both, process, 10)
    os.kill(children(process.pid)[1], signal.SIGTERM)
    finish(process)
    assert list_checkpoints(Path(both.run_path))[-1].step < 40
    status, _, errors = finish(start(both, *TORCHRUN))
    assert status == 0, errors
    assert "80 tokens a step = 2 processes x 1 parts x 40" in errors
    assert run_pretraining(alone) == 0
    assert weights_sha256(result(both)) == weights_sha256(result(alone))
    rows = [[json.loads(line) for line in metrics(job)] for job in (both, alone)]
    filled = [[row["filled_share"] for row in one] for one in rows]
    assert filled[0] == filled[1] and min(filled[0]) > 0 and max(filled[0]) <= 1
    assert all("tokens_per_second" in row and "samples_per_second" not in row for row in rows[0])


def test_finetuning_in_two_processes_ends_with_what_one_learns_and_the_best_of_it(job, tmp_path):
    first = job("pretrained", steps=1)
    assert run_pretraining(first) == 0

    def finetuning(run: str, **fields: object) -> FinetuneJob:
        always = {"steps": 60, "batch_size": 8, "checkpoint_steps": 10, "log_steps": 10, "validation_steps": 10}
        best = {"keep_best": "validation_recall_sum", "keep_last": 1, "num_threads": 1}
        # Sampled negatives first, then the hardest of the batch, which each process looks for in the whole of it.
        negatives = {"negatives_from": "batch", "mean_hinge_share": 0.5}
        return FinetuneJob(
            run_path=str(tmp_path / run),
            train=first.train,
            validation=first.train,
            vocabulary_path=first.vocabulary_path,
            encoder=first.encoder,
            finetune=FinetuneConfig.model_validate(always | best | negatives | fields),
            checkpoint_path=str(result(first)),
        )

    both, alone = finetuning("both"), finetuning("alone", device_batch_size=4)
    status, _, errors = finish(start(both, *TORCHRUN))
    assert status == 0, errors
    assert run_finetuning(alone) == 0

    kept = [[checkpoint.step for checkpoint in list_checkpoints(Path(job.run_path))] for job in (both, alone)]
    assert kept[0] == kept[1] and kept[0][-1] == 60
    rows = [json.loads(line) for line in metrics(both)]
    recalls = {row["step"]: row[name] for row in rows if (name := "validation_recall_sum") in row}
    assert sorted(recalls) == list(range(10, 61, 10))
    assert result(both).name == f"step-{max(recalls, key=recalls.__getitem__):07d}"
    for mine, other in zip(*(list_checkpoints(Path(job.run_path)) for job in (both, alone)), strict=True):
        assert weights_sha256(mine.path) == weights_sha256(other.path)


def test_killed_and_stopped_at_random_steps_it_ends_with_the_undisturbed_weights(job):
    fields = {"steps": 600, "checkpoint_steps": 40}
    whole, disturbed = job("whole", **fields), job("disturbed", **fields)
    assert run_pretraining(whole) == 0
    moment = random.Random(os.getpid())

    def disturb(number: signal.Signals, step: int) -> tuple[int, str, str]:
        process = start(disturbed)
        wait_for_step(disturbed, process, step)
        time.sleep(moment.uniform(0, 0.3))
        process.send_signal(number)
        return finish(process)

    status, _, _ = disturb(signal.SIGKILL, 40)
    assert status == -signal.SIGKILL
    reached = list_checkpoints(Path(disturbed.run_path))[-1].step
    assert reached % 40 == 0 and reached < 600
    status, out, errors = disturb(signal.SIGTERM, reached + 40)
    assert status == 143, errors
    stopped = list_checkpoints(Path(disturbed.run_path))[-1].step
    assert f"checkpoint written at step {stopped}" in errors and reached < stopped < 600
    assert not (Path(disturbed.run_path) / "final.json").exists()
    reports = [Progress.model_validate_json(line) for line in out.splitlines() if line.startswith("{")]
    assert all((report.stage, report.total) == ("pretrain", 600) for report in reports)

    assert run_pretraining(disturbed) == 0
    assert weights_sha256(result(disturbed)) == weights_sha256(result(whole))
    saved = [torch.load(result(job) / "optimizer.pt", weights_only=True)["optimizer"] for job in (whole, disturbed)]
    moments = [[value for state in s["state"].values() for value in state.values()] for s in saved]
    assert all(torch.equal(mine, other) for mine, other in zip(*moments, strict=True))
    logs = [[json.loads(line) for line in metrics(job)] for job in (whole, disturbed)]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]], "no step is missing or twice"


def metrics(job: PretrainJob | FinetuneJob) -> list[str]:
    return (Path(job.run_path) / "metrics.jsonl").read_text().splitlines()


def test_a_full_disk_leaves_the_checkpoint_before_and_the_next_start_goes_on(job):
    """A file may not grow beyond a limit that lets everything through but the weights, as a full disk would."""
    whole, full = job("undisturbed", steps=10), job("full", steps=10)
    assert run_pretraining(whole) == 0
    assert run_pretraining(full) == 0
    folder = Path(full.run_path)
    for path in (*list_checkpoints(folder)[-1].path.iterdir(), folder / "final.json"):
        path.unlink()
    list_checkpoints(folder)[-1].path.rmdir()
    size = (list_checkpoints(folder)[-1].path / "model.safetensors").stat().st_size
    limited = (
        f"import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2},) * 2); "
        "runpy.run_module('model.pretrain', run_name='__main__')"
    )
    path = Path(f"{full.run_path}.json")
    path.write_text(full.model_dump_json())
    process = subprocess.run(
        [sys.executable, "-c", limited, "--config", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert process.returncode == 1, process.stderr
    last = process.stderr.strip().splitlines()[-1]
    assert last.startswith(f"{folder / 'checkpoints'}: the checkpoint of step 10 could not be written")
    assert last.endswith("the run goes on from step 5")
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-0000005"]
    assert run_pretraining(full) == 0
    assert weights_sha256(result(full)) == weights_sha256(result(whole))


def test_bad_jobs_end_with_one_sentence_and_code_2(job, tmp_path):
    broken = job().model_copy(update={"vocabulary_path": str(tmp_path / "absent.txt")})
    status, out, errors = finish(start(broken))
    assert status == 2
    assert errors.strip().splitlines()[-1].startswith("vocabulary ")
    assert "Traceback" not in errors
    assert Ending.model_validate_json(out) == Ending(error=errors.strip().splitlines()[-1], bad_input=True)


def test_two_processes_train_uniter_as_one_does(job, tiny, tmp_path):
    """Whichever objective a step has, and in finetuning without hidden regions, both reach the same weights."""
    objectives = {"combine": "draw", "objectives": {"itm": 2, "mlm": 2, "mrfr": 1, "mrc": 1}, "negative": "image"}
    fields = {"batch_size": 8, "steps": 12, "log_steps": 1, **objectives}
    both, alone = (
        job(name, **fields, device_batch_size=4).model_copy(update={"encoder": of_family(tiny, "uniter")})
        for name in ("both", "alone")
    )
    code, _, errors = finish(start(both, *TORCHRUN))
    assert code == 0, errors
    assert run_pretraining(alone) == 0
    assert weights_sha256(result(both)) == weights_sha256(result(alone))

    runs = []
    for name, launcher in (("pair", TORCHRUN), ("single", [])):
        tuned = FinetuneJob(
            run_path=str(tmp_path / name),
            train=alone.train,
            vocabulary_path=alone.vocabulary_path,
            encoder=alone.encoder,
            checkpoint_path=str(result(alone)),
            finetune=FinetuneConfig(
                steps=3, batch_size=4, device_batch_size=2, negatives=4, hardest=2, mean_hinge_share=1, num_threads=1
            ),
        )
        code, _, errors = finish(start(tuned, *launcher))
        assert code == 0, errors
        runs.append(weights_sha256(result(tuned)))
    assert runs[0] == runs[1]
