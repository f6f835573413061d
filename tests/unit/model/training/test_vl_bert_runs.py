"""Runs of VL-BERT: pairs and rows of text in one step, then retrieval by a head that finetuning trains."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from model.data.order import Part
from model.data.tokenizer import load_vocabulary
from model.downstream.retrieval.config import FinetuneConfig, ScoringConfig
from model.errors import InputError
from model.families.configs import of_family
from model.families.fit import check_matching
from model.finetune import run_finetuning
from model.jobs import FinetuneJob, ScoreJob
from model.objectives.config import PretrainConfig, RegionMasking, WordMasking
from model.objectives.text_rows import open_text
from model.pretrain import run_pretraining
from model.scoring import run_scoring
from model.training.checkpoint import load_model
from model.training.loop import resume_point
from tests.toy import WORDS
from tests.unit.model.data.test_passages import write_corpus

OBJECTIVES = {"mlm": 1, "mvrc-hard": 1, "mlm-text": 1}
MASKING = WordMasking(rate=0.4, mask_share=0.8, random_share=0.1, at_least_one=False, whole_words=True)


@pytest.fixture
def text(tmp_path):
    draw = np.random.default_rng(0)
    return write_corpus(tmp_path, [" ".join(draw.choice(WORDS, draw.integers(1, 9))) for _ in range(40)])


@pytest.fixture
def vl_bert_job(job, tiny, text):
    made = job(
        objectives=OBJECTIVES,
        matching="none",
        hide="both",
        word_masking=MASKING,
        region_masking=RegionMasking(rate=0.4, zero_share=0.9),
        joint_length=9,
    )
    encoder = of_family(tiny, "vl-bert").model_copy(update={"dropout": 0.1})
    return made.model_copy(update={"encoder": encoder, "text": text})


def test_rows_of_text_are_a_function_of_step_and_place_alone(vl_bert_job, text):
    vocabulary = load_vocabulary(vl_bert_job.vocabulary_path)
    config = vl_bert_job.pretrain.model_copy(update={"batch_size": 8})
    rows = open_text(text, vocabulary, 8, config)
    words, targets = rows(5)
    assert words.ids.shape == (8, 8) and words.mask.all() and len(targets)
    at = words.ids[targets.pairs, targets.places]
    assert (at == vocabulary.mask_id).any() and not (targets.values == vocabulary.mask_id).any()
    halves = [rows(5, Part(number, 2)) for number in range(2)]
    assert torch.equal(torch.cat([half.ids for half, _ in halves]), words.ids)
    assert torch.equal(torch.cat([found.values for _, found in halves]), targets.values)
    assert not torch.equal(rows(6)[0].ids, words.ids)


def test_pretraining_with_text_then_finetuning_and_scoring(vl_bert_job, tmp_path):
    assert run_pretraining(vl_bert_job) == 0
    found = [json.loads(line) for line in (Path(vl_bert_job.run_path) / "metrics.jsonl").read_text().splitlines()]
    assert all(line[name] > 0 for line in found for name in OBJECTIVES)
    saved = resume_point(Path(vl_bert_job.run_path)).path
    model, _ = load_model(saved)
    assert set(model.heads) == {"cls", "mvrc"}
    with pytest.raises(InputError, match="has no matching head"):
        check_matching(model, str(saved))

    tuned = FinetuneJob(
        run_path=str(tmp_path / "tuned"),
        train=vl_bert_job.train,
        vocabulary_path=str(saved),
        encoder=vl_bert_job.encoder,
        checkpoint_path=str(saved),
        finetune=FinetuneConfig(steps=2, batch_size=4, negatives=3, num_threads=1),
    )
    assert run_finetuning(tuned) == 0
    best = resume_point(tmp_path / "tuned").path
    assert list(load_model(best)[0].heads) == ["matching"]
    scored = ScoreJob(
        output_path=str(tmp_path / "scores"), checkpoint_path=str(best), data=vl_bert_job.train, scoring=ScoringConfig()
    )
    assert run_scoring(scored) == 0
    assert (tmp_path / "scores" / "metrics.json").is_file()


def test_text_and_its_objective_belong_together(vl_bert_job):
    with pytest.raises(InputError, match="belong together; name a text corpus"):
        run_pretraining(vl_bert_job.model_copy(update={"text": None}))
    other = vl_bert_job.pretrain.model_copy(update={"objectives": {"mlm": 1.0}})
    with pytest.raises(InputError, match="belong together; choose the objective"):
        run_pretraining(vl_bert_job.model_copy(update={"pretrain": other}))
    with pytest.raises(ValidationError, match="as many rows of text as pairs, but token_batches"):
        PretrainConfig(objectives=OBJECTIVES, token_batches={"tokens": 4096})


def test_another_family_reads_no_text(vl_bert_job, tiny):
    with pytest.raises(InputError, match="family unicoder-vl reads no text without a picture"):
        run_pretraining(vl_bert_job.model_copy(update={"encoder": tiny}))
