"""What auto stands for: by device and width, agreed on by all processes, and kept by scores that are begun."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.data.captions import load_captions
from model.data.store import FeatureStore
from model.data.tokenizer import load_vocabulary
from model.downstream.retrieval.config import FinetuneConfig, ScoringConfig
from model.downstream.retrieval.pairs import PairScorer
from model.downstream.retrieval.scores import read_plan
from model.errors import InputError
from model.families.build import build_model
from model.families.unicoder_vl_config import UnicoderVLConfig
from model.jobs import ScoreJob
from model.objectives.config import PretrainConfig
from model.pretrain import run_pretraining
from model.scoring import run_scoring
from model.training import precision
from model.training.precision import (
    agree_on_precision,
    choose_batch_size,
    choose_precision,
    computes_bf16,
    with_precision,
)
from model.training.processes import Processes
from tests.toy import TINY

ROOT = Path(__file__).parents[4]
CPU = torch.device("cpu")
GPU = torch.device("cuda")
WIDE, NARROW = 768, 128


@pytest.fixture
def bf16(monkeypatch):
    """Whether every device computes it; changeable."""
    answer = [True]
    monkeypatch.setattr(precision, "computes_bf16", lambda device: answer[0])
    monkeypatch.setattr("model.downstream.retrieval.pairs.computes_bf16", lambda device: answer[0])
    return answer


def test_auto_takes_bf16_where_it_is_computed_and_pays(bf16):
    assert choose_precision("auto", CPU, WIDE) == choose_precision("auto", GPU, WIDE) == "bf16"
    assert choose_precision("auto", CPU, NARROW) == choose_precision("auto", GPU, NARROW) == "fp32"
    bf16[0] = False
    assert choose_precision("auto", CPU, WIDE) == "fp32"


def test_what_is_asked_for_is_taken_and_warned_of(bf16, caplog):
    assert choose_precision("fp32", CPU, WIDE) == "fp32"
    assert choose_precision("bf16", CPU, NARROW) == "bf16" and not caplog.records
    bf16[0] = False
    assert choose_precision("bf16", CPU, WIDE) == "bf16"
    assert "precision=bf16, but cpu has no instructions for it" in caplog.text


@pytest.mark.parametrize("limit", ["AVX2", "avx512_core", "AVX512_CORE_VNNI", "SSE41"])
def test_a_processor_that_is_kept_from_bf16_does_not_compute_it(monkeypatch, limit):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert not computes_bf16(CPU)


@pytest.mark.parametrize("limit", [None, "", "DEFAULT", "all", "AVX512_CORE_BF16", "AVX512_CORE_AMX"])
def test_the_processors_own_word_counts(monkeypatch, limit):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        assert computes_bf16(CPU) is has
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert not computes_bf16(CPU)


def test_an_arm_processor_is_asked_for_its_own(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: pytest.fail("of x86"))
    assert isinstance(computes_bf16(CPU), bool)


@pytest.mark.parametrize(("capability", "computes"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_of_ampere_or_later_computes_bf16(monkeypatch, capability, computes):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert computes_bf16(GPU) is computes


def test_batches_are_small_on_a_cpu(bf16):
    assert choose_batch_size("auto", CPU, WIDE) == 8
    assert choose_batch_size("auto", GPU, WIDE) == choose_batch_size("auto", GPU, NARROW) == 256
    assert choose_batch_size("auto", CPU, NARROW) == 32
    assert choose_batch_size(7, CPU, WIDE) == 7
    with pytest.raises(ValueError, match="batch_size"):
        ScoringConfig(batch_size=0)
    with pytest.raises(ValueError, match="batch_size"):
        ScoringConfig(batch_size="small")


class Three(Processes):
    """One of three processes, whose others bring what they have to a sum."""

    others = 0

    def add(self, values):
        return values + self.others


def test_processes_take_bf16_only_together(bf16):
    three = Three(0, 3, CPU)
    assert agree_on_precision("auto", three, WIDE) == "bf16"
    three.__class__.others = 1
    assert agree_on_precision("auto", three, WIDE) == "fp32"
    three.__class__.others = 0


def test_a_training_takes_what_auto_stands_for_and_keeps_its_identity(bf16):
    alone, wide = Processes(0, 1, CPU), UnicoderVLConfig(hidden_size=WIDE)
    for config in (PretrainConfig(precision="auto"), FinetuneConfig(precision="auto")):
        assert with_precision(config, alone, wide).precision == "bf16"
        assert with_precision(config, alone, TINY).precision == "fp32"
        assert config.identity()["precision"] == "auto"
    for asked in ("fp32", "bf16"):
        assert with_precision(PretrainConfig(precision=asked), alone, wide).precision == asked
    # Runs of an older program, whose default it was.
    assert PretrainConfig().identity()["precision"] == FinetuneConfig().identity()["precision"] == "fp32"


def test_training_with_auto_says_what_it_took(job, caplog):
    caplog.set_level("INFO")
    asked = job(steps=1, precision="auto")
    assert run_pretraining(asked) == 0
    assert "training in fp32, for precision=auto" in caplog.text
    assert json.loads((Path(asked.run_path) / "job.json").read_text())["pretrain"]["precision"] == "auto"


@pytest.fixture
def score_job(make_world, tmp_path):
    """Of a model that is as narrow as all of these tests': auto takes bf16 only if the test widens it."""
    source, vocabulary = make_world([[0], [1, 2], [3]], [(n % 3, "red cat") for n in range(6)])
    words, store = load_vocabulary(vocabulary), FeatureStore(source.features_path)
    folder = tmp_path / "checkpoint"
    build_model(TINY, store, words, seed=2).save_pretrained(folder)
    (folder / "vocab.txt").write_bytes(vocabulary.read_bytes())

    def make(**changes) -> ScoreJob:
        scoring = ScoringConfig(**{"num_threads": 1, "block_pairs": 6, **changes})
        return ScoreJob(output_path=str(tmp_path / "scores"), checkpoint_path=str(folder), data=source, scoring=scoring)

    return make


def test_scores_say_what_they_were_computed_in(score_job, bf16, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    folder = tmp_path / "scores"
    monkeypatch.setattr(precision, "is_wide", lambda width: True)
    run_scoring(score_job())
    assert read_plan(folder).identity["precision"] == "bf16"
    assert json.loads((folder / "metrics.json").read_text())["precision"] == "bf16"
    assert "scoring in bf16, for precision=auto" in caplog.text


def test_scores_that_are_begun_keep_their_precision(score_job, bf16, tmp_path, monkeypatch):
    folder = tmp_path / "scores"
    run_scoring(score_job(precision="fp32"))
    monkeypatch.setattr(precision, "is_wide", lambda width: True)
    (folder / "scores-00001.npy").unlink()
    run_scoring(score_job())
    assert json.loads((folder / "metrics.json").read_text())["precision"] == "fp32"
    with pytest.raises(InputError, match="holds scores of other weights or data"):
        run_scoring(score_job(precision="bf16"))


def test_a_shortlist_that_is_begun_keeps_its_precision(score_job, bf16, tmp_path, monkeypatch):
    folder, honest = tmp_path / "scores", PairScorer.score
    monkeypatch.setattr(PairScorer, "score", lambda *arguments: pytest.exit("killed"))
    with pytest.raises(pytest.exit.Exception):
        run_scoring(score_job(shortlist={"size": 10, "regions": 1}))
    assert not (folder / "plan.json").exists() and (folder / "first-pass/plan.json").exists()
    monkeypatch.setattr(PairScorer, "score", honest)
    monkeypatch.setattr(precision, "is_wide", lambda width: True)
    run_scoring(score_job(shortlist={"size": 10, "regions": 1}))
    assert json.loads((folder / "metrics.json").read_text())["precision"] == "fp32"


def test_a_scorer_of_auto_is_one_of_what_it_takes(make_world, bf16, monkeypatch):
    source, vocabulary = make_world([[0], [1]], [(0, "red"), (1, "blue")])
    store = FeatureStore(source.features_path)
    model = build_model(TINY, store, load_vocabulary(vocabulary), seed=2).eval()
    assert load_captions(source, store).texts[:] == ["red", "blue"]
    scorer = PairScorer(model, ScoringConfig(), CPU)
    assert (scorer.precision, scorer.batch_size, scorer.would_gain_from_bf16) == ("fp32", 32, False)
    wide = PairScorer(model, ScoringConfig(precision="fp32"), CPU)
    wide.width = WIDE
    assert wide.would_gain_from_bf16
    bf16[0] = False
    assert not wide.would_gain_from_bf16


def test_asking_the_machine_prints_one_word(bf16, capsys):
    precision._main("cpu", WIDE)
    precision._main("cpu", NARROW)
    precision._main("no device", WIDE)
    assert capsys.readouterr().out.split() == ["bf16", "fp32", "fp32"]


def test_whoever_asks_for_the_width_alone_needs_no_torch():
    told = "p.is_wide(768) and not p.is_wide(64) and 'torch' not in sys.modules"
    code = f"import sys, model.training.precision as p; assert {told}"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0
