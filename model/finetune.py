"""Retrieval finetuning: python -m model.finetune --config job.json (a `FinetuneJob`)."""

from __future__ import annotations

import sys
from pathlib import Path

from torch import Tensor

from model.checkpoint import load_model, write_whole
from model.command import run_job
from model.config import EncoderConfig, FinetuneJob
from model.data import FeatureStore
from model.encoder import UnicoderVL
from model.errors import InputError
from model.metrics import retrieval_metrics
from model.pretrain import build_model, open_data
from model.retrieval import RetrievalBatch, RetrievalBatches, hinge_loss, score_pairs
from model.scoring import check_fits, score_split
from model.tokenizer import load_vocabulary
from model.training import STOPPED, pick_device, set_up_torch, train


def run_finetuning(job: FinetuneJob) -> int:
    config = job.finetune
    set_up_torch(config.num_threads)
    run = Path(job.run_path)
    run.mkdir(parents=True, exist_ok=True)
    write_whole(run / "job.json", job.model_dump_json(indent=2) + "\n")
    vocabulary = load_vocabulary(job.vocabulary_path)
    store, captions, tokens = open_data(job.train, vocabulary, job.encoder)
    batches = RetrievalBatches(store, captions, tokens, vocabulary, job.encoder.max_regions, config)

    def fresh_model() -> UnicoderVL:
        if config.start == "scratch":
            return build_model(job.encoder, store, vocabulary, config.seed)
        if job.checkpoint_path is None:
            raise InputError("finetune.start is 'pretrained' but checkpoint_path is not set; pretrain first")
        return _pretrained(job.checkpoint_path, job.encoder, store)

    def loss(model: UnicoderVL, batch: RetrievalBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        logits = score_pairs(model, batch)
        hardest = step >= config.mean_hinge_share * config.steps
        right = (logits[:, :1] > logits[:, 1:]).all(1).float().mean()
        return hinge_loss(logits, config, hardest), {"accuracy": right}

    validation = job.validation

    def validate(model: UnicoderVL) -> dict[str, float]:
        assert validation is not None
        held_out, texts, rows = open_data(validation, vocabulary, job.encoder)
        scores = score_split(model, held_out, texts, rows, job.scoring, pick_device(config.device))
        held_out.close()
        metrics = retrieval_metrics(scores, texts.image_of)
        return {f"validation_{name}": value for name, value in metrics.flat().items()}

    done = train(
        "finetune" if config.start == "pretrained" else "task-specific",
        run,
        fresh_model,
        batches,
        loss,
        config,
        job.vocabulary_path,
        validate if validation else None,
        config.validation_steps,
    )
    return 0 if done else STOPPED


def _pretrained(path: str, encoder: EncoderConfig, store: FeatureStore) -> UnicoderVL:
    model, _ = load_model(path)
    check_fits(model, store, path)
    if model.config != encoder:
        raise InputError(f"{path} was trained with another encoder than this job's; use the same encoder config")
    return model


if __name__ == "__main__":
    sys.exit(run_job("model.finetune", FinetuneJob, run_finetuning))
