"""Runs of UNITER: objectives drawn step by step, finetuning from the row of yes, a vocabulary that is cased."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from model.data.batch import pad_words
from model.data.store import FeatureStore
from model.data.tokenizer import tokenize
from model.downstream.retrieval.config import FinetuneConfig
from model.families.configs import of_family
from model.finetune import run_finetuning
from model.jobs import FinetuneJob
from model.objectives.config import RegionMasking
from model.pretrain import run_pretraining
from model.training.checkpoint import load_model
from model.training.loop import resume_point
from tests.toy import VOCABULARY

OBJECTIVES = {"itm": 2, "mlm": 2, "mrfr": 1, "mrc": 1}


@pytest.fixture
def uniter_job(job, tiny):
    """With a cased vocabulary, whose rules lie beside it."""

    def make(run: str = "run", **changes):
        made = job(
            run, combine="draw", objectives=OBJECTIVES, negative="image", region_masking=RegionMasking(zero_share=1)
        )
        vocabulary = Path(made.vocabulary_path)
        vocabulary.write_text("\n".join([*VOCABULARY, "Red"]) + "\n")
        (vocabulary.parent / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
        encoder = of_family(tiny, "uniter").model_copy(update={"dropout": 0.1})
        return made.model_copy(update={"encoder": encoder, "pretrain": made.pretrain.model_copy(update=changes)})

    return make


def lines(run: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def test_pretraining_and_finetuning_and_a_resumed_run_is_the_undisturbed_one(uniter_job, tmp_path):
    whole, cut = uniter_job("whole"), uniter_job("cut", keep_last=9)
    assert run_pretraining(whole) == run_pretraining(cut) == 0
    for later in ("step-0000010", "step-0000012"):
        shutil.rmtree(Path(cut.run_path) / "checkpoints" / later)
    assert run_pretraining(cut) == 0
    first, again = (resume_point(Path(one.run_path)) for one in (whole, cut))
    model, vocabulary = load_model(first.path)
    assert set(model.heads) == {"itm", "cls", "region_features", "region_classes"}
    resumed = load_model(again.path)[0].state_dict()
    assert all(torch.equal(weight, resumed[name]) for name, weight in model.state_dict().items())
    seen = {name for line in lines(whole.run_path) for name in OBJECTIVES if line.get(name) is not None}
    assert seen == set(OBJECTIVES)
    assert not model.bert.region_embeddings.mask_embedding.weight[0].any()

    pieces = vocabulary.words.pieces
    tokens = tokenize(vocabulary, ["Red red RED"], 8)[0].tolist()
    assert tokens == [2, pieces.index("Red"), pieces.index("red"), vocabulary.words.pieces.index("[UNK]"), 3]

    finetune = FinetuneConfig(steps=1, batch_size=4, negatives=3, hardest=2, mean_hinge_share=1, num_threads=1)
    tuned = FinetuneJob(
        run_path=str(tmp_path / "tuned"),
        train=whole.train,
        vocabulary_path=str(first.path),
        encoder=whole.encoder,
        checkpoint_path=str(first.path),
        finetune=finetune,
    )
    assert run_finetuning(tuned) == 0
    finetuned = load_model(resume_point(tmp_path / "tuned").path)[0]
    assert list(finetuned.heads) == ["matching"]
    moved = (finetuned.matching.weight - model.itm.weight[1:]).abs().max()
    assert 0 < moved < 2 * finetune.optim.learning_rate

    store = FeatureStore(whole.train.features_path)
    words, regions = pad_words([tokenize(vocabulary, ["red cat"], 8)[0]] * 3, 0), store.read([0, 1, 2], 4)
    started = model.with_heads({"matching": finetuned.heads["matching"]}, seed=0)
    with torch.no_grad():
        torch.testing.assert_close(started.score(words, regions), model.score(words, regions))


def test_without_matching_nothing_reads_cls_and_the_pooler_stays(uniter_job):
    job = uniter_job("words", objectives={"mlm": 1}, steps=3)
    assert run_pretraining(job) == 0
    # One step, and a decayed weight would differ.
    short = uniter_job("one", objectives={"mlm": 1}, steps=1)
    assert run_pretraining(short) == 0
    later, earlier = (load_model(resume_point(Path(one.run_path)).path)[0] for one in (job, short))
    assert torch.equal(later.pooler[0].weight, earlier.pooler[0].weight)
    assert not torch.equal(later.bert.word_table, earlier.bert.word_table)
