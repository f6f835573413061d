"""A tiny model learns eight pairs by heart: every loss falls and every recall@1 reaches 1."""

import json
from pathlib import Path

import pytest

from model.config import OptimConfig
from model.downstream.retrieval.config import FinetuneConfig, ScoringConfig
from model.finetune import run_finetuning
from model.jobs import FinetuneJob, PretrainJob, ScoreJob
from model.objectives.config import PretrainConfig
from model.pretrain import run_pretraining
from model.scoring import run_scoring
from model.training.checkpoint import list_checkpoints

pytestmark = pytest.mark.slow("trains until it knows eight pairs")


def test_pretraining_losses_fall_and_finetuning_reaches_recall_1(eight_pairs, tiny, tmp_path):
    source, vocabulary = eight_pairs
    optim = OptimConfig(learning_rate=3e-3)
    pretrain = PretrainJob(
        run_path=str(tmp_path / "pretrain"),
        train=source,
        vocabulary_path=str(vocabulary),
        encoder=tiny,
        pretrain=PretrainConfig(
            steps=400, batch_size=8, optim=optim, matching="paired", log_steps=40, num_threads=1, device="cpu"
        ),
    )
    assert run_pretraining(pretrain) == 0
    lines = [json.loads(line) for line in (tmp_path / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["mlm"] < 0.5 * lines[0]["mlm"]
    assert lines[-1]["moc"] < 0.5 * lines[0]["moc"]
    assert lines[-1]["vlm"] < 0.8 * lines[0]["vlm"]
    finetune = FinetuneJob(
        run_path=str(tmp_path / "finetune"),
        train=source,
        vocabulary_path=str(vocabulary),
        encoder=tiny,
        finetune=FinetuneConfig(
            steps=100, batch_size=8, optim=OptimConfig(learning_rate=1e-3), num_threads=1, device="cpu"
        ),
        checkpoint_path=str(list_checkpoints(tmp_path / "pretrain")[-1].path),
    )
    assert run_finetuning(finetune) == 0
    score = ScoreJob(
        output_path=str(tmp_path / "scores"),
        checkpoint_path=str(list_checkpoints(tmp_path / "finetune")[-1].path),
        data=source,
        scoring=ScoringConfig(num_threads=1, device="cpu"),
    )
    assert run_scoring(score) == 0
    metrics = json.loads((Path(score.output_path) / "metrics.json").read_text())
    assert metrics["image_to_text_recall"]["1"] == 1.0
    assert metrics["text_to_image_recall"]["1"] == 1.0
