"""An evaluation is named by what its scores depend on, made once and told once."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.config import FeatureSource
from model.downstream.retrieval.config import ScoringConfig, Shortlist
from model.downstream.retrieval.metrics import measure
from model.downstream.retrieval.scores import METRICS, Plan, Scores, begin_scores, missing_blocks, write_block
from model.jobs import ScoreJob
from tasks.errors import StageError, UserError
from tasks.evaluation.evaluate import Evaluation, EvaluationSpec, _ask_machine, evaluate, find_evaluation
from tasks.evaluation.history import read_history
from tasks.records import CheckpointRef, Stage, fingerprint
from tasks.storage.root import Root
from tasks.training.data import ResolvedData


def spec(scoring: ScoringConfig, data: str = "d", weights: str = "w") -> EvaluationSpec:
    source = FeatureSource(features_path="features", captions_path="captions", name="retrieval/test")
    return EvaluationSpec(
        setting="zero-shot",
        seed=3,
        checkpoint=CheckpointRef(run="pretrain-1", stage=Stage.PRETRAIN, uri="run", step=7, fingerprint=weights),
        dataset="retrieval",
        split="test",
        data=ResolvedData(source, {"features": data}),
        scoring=scoring,
    )


def test_an_evaluation_is_named_by_what_its_scores_depend_on() -> None:
    plain = spec(ScoringConfig(precision="fp32"))
    alike = ScoringConfig(
        precision="fp32", batch_size=7, block_pairs=9, device="cpu", num_processes=2, protocols=("first:3",)
    )
    assert spec(alike).name == plain.name
    others = [
        spec(ScoringConfig(precision="bf16")),
        spec(ScoringConfig(precision="fp32", shortlist=Shortlist())),
        spec(ScoringConfig(precision="fp32", shortlist=Shortlist(size=50))),
        spec(ScoringConfig(precision="fp32"), data="e"),
        spec(ScoringConfig(precision="fp32"), weights="x"),
    ]
    names = [other.name for other in others]
    assert len({plain.name, *names}) == 6
    assert all(re.fullmatch(r"retrieval-test-[0-9a-f]{12}", name) for name in names)


def test_data_of_an_older_program_keeps_its_fingerprint() -> None:
    """So that what its history tells was evaluated is not told again."""
    fp32 = spec(ScoringConfig(precision="fp32"))
    assert fp32.data_fingerprint == fingerprint({"features": "d", "precision": "fp32"})


class Scorer:
    """In the place of the subprocess: writes scores of two images with three captions; counts how often."""

    def __init__(self) -> None:
        self.jobs: list[ScoreJob] = []
        self.processes: list[int] = []

    def __call__(self, module: str, job: ScoreJob, *_: object, num_processes: int) -> None:
        self.jobs.append(job)
        self.processes.append(num_processes)
        folder, plan = Path(job.output_path), Plan(images=2, captions=3, rows=1, identity={})
        caption_image = np.array([0, 1, 1])
        plan = begin_scores(folder, plan, ["01", "02"], ["1", "2", "3"], caption_image)
        matrix = np.array([[3, 1, 2], [4, 5, 6]], np.float32)
        for block in missing_blocks(folder, plan):
            write_block(folder, plan, block, matrix[block : block + 1])
        main, *also = [
            one.model_dump(mode="json") for one in measure(Scores(folder), caption_image, job.scoring.protocols)
        ]
        (folder / METRICS).write_text(json.dumps({"format": "scores/2", "data": job.data.name, **main, "also": also}))


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> Scorer:
    scorer = Scorer()
    monkeypatch.setattr("tasks.evaluation.evaluate.run_module", scorer)
    return scorer


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(str(tmp_path))


def run(root: Root, scoring: ScoringConfig) -> Evaluation:
    return evaluate(root, spec(scoring), lambda progress: None)


def test_an_evaluation_is_made_once_and_told_once(root: Root, scorer: Scorer) -> None:
    first = run(root, ScoringConfig(device="cpu"))
    assert not first.skipped and (first.row.step, first.row.stage) == (7, Stage.PRETRAIN)
    (table,) = first.tables
    # Image 1 finds caption 1 first; caption 1 prefers image 2. Images and captions of 2 find each other.
    assert (table.row.image_to_text[1], table.row.text_to_image[1]) == (1.0, pytest.approx(2 / 3))
    assert table.row.seed == 3 and table.row.intervals is not None
    assert table.chance.image_to_text[1] == pytest.approx((1 / 3 + 2 / 3) / 2)
    again = run(root, ScoringConfig(device="cpu", batch_size=8))
    assert again.skipped and again.row == first.row and again.tables == first.tables
    assert len(scorer.jobs) == 1 and len(read_history(root)) == 1
    assert find_evaluation(root, spec(ScoringConfig())) == first.row


def test_other_protocols_are_measured_on_the_scores_that_stand(root: Root, scorer: Scorer, tmp_path: Path) -> None:
    run(root, ScoringConfig())
    (folder,) = (tmp_path / "scores").iterdir()
    written = {path.name: path.stat().st_mtime_ns for path in folder.glob("scores-*.npy")}
    both = run(root, ScoringConfig(protocols=("all", "first:1")))
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("scores-*.npy")} == written
    assert [table.row.protocol for table in both.tables] == ["all", "first:1"]
    assert both.tables[1].row.image_to_text[1] == both.tables[1].chance.image_to_text[1] == 1.0  # its only caption
    assert [len(row.metrics["also"]) for row in read_history(root)] == [0, 1]
    # The metrics are of other protocols now, and are made anew; the history has the row.
    assert not run(root, ScoringConfig()).skipped
    assert len(scorer.jobs) == 3 and len(read_history(root)) == 2


def test_other_ground_truths_are_measured_on_the_scores_that_stand(root: Root, scorer: Scorer, tmp_path: Path) -> None:
    plain = run(root, ScoringConfig())
    path = tmp_path / "extended_image_to_caption.json"
    path.write_text('{"1": [1, 3], "2": [1]}')
    (tmp_path / "extended_caption_to_image.json").write_text('{"1": [1, 2], "2": [2, 9]}')
    asked = replace(spec(ScoringConfig()), positives=(str(path),))
    done = evaluate(root, asked, lambda progress: None)
    # Nothing is scored, nor told to the history, again.
    assert done.skipped and (done.row, done.tables) == (plain.row, plain.tables)
    assert len(scorer.jobs) == 1 and read_history(root) == [plain.row]
    (table,) = done.positives
    assert (
        json.loads(Path(table.path).read_bytes())["image_to_text_map_at_r"] == table.row.image_to_text_map_at_r == 0.5
    )
    assert (table.row.image_to_text[1], table.row.text_to_image_r_precision) == (0.5, 0.75)
    assert table.row.positives == "extended (2 image and 2 caption queries, 1 true pairs not scored)"
    assert table.unscored == "extended: not scored, so never found: images 9"
    assert table.row.intervals is not None and "image_to_text_r_precision" in table.row.intervals
    assert find_evaluation(root, asked) == plain.row
    assert run(root, ScoringConfig()).skipped

    path.write_text('{"7": [1]}')
    with pytest.raises(UserError, match=r"asks for image 7, but it or all that is true of it was not scored"):
        evaluate(root, asked, lambda progress: None)
    assert len(list(tmp_path.glob("scores/*/positives-*.json"))) == 1


def test_a_lost_block_is_scored_again_and_nothing_else(root: Root, scorer: Scorer, tmp_path: Path) -> None:
    before = run(root, ScoringConfig())
    (folder,) = (tmp_path / "scores").iterdir()
    other = (folder / "scores-00000.npy").stat().st_mtime_ns
    (folder / "scores-00001.npy").unlink()
    after = run(root, ScoringConfig())
    assert not after.skipped and (after.row, after.tables) == (before.row, before.tables)
    assert (folder / "scores-00000.npy").stat().st_mtime_ns == other
    assert (folder / "scores-00001.npy").exists()


def test_removed_scores_are_made_again_and_the_row_stands(root: Root, scorer: Scorer, tmp_path: Path) -> None:
    before = run(root, ScoringConfig())
    shutil.rmtree(tmp_path / "scores")
    assert run(root, ScoringConfig()).row == before.row
    assert len(read_history(root)) == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"images": 2}', "null"])
def test_damaged_metrics_are_named(root: Root, scorer: Scorer, tmp_path: Path, content: str) -> None:
    run(root, ScoringConfig())
    (path,) = tmp_path.glob("scores/*/metrics.json")
    path.write_text(content)
    with pytest.raises(UserError, match=r"metrics\.json holds no metrics; remove it and evaluate again"):
        run(root, ScoringConfig())


def test_scoring_that_leaves_nothing_behind_is_a_failure(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.evaluation.evaluate.run_module", lambda *arguments, **options: None)
    with pytest.raises(StageError, match="ended well but left no whole scores"):
        run(root, ScoringConfig())
    assert read_history(root) == []


@pytest.mark.parametrize(
    ("scoring", "gpus", "processes"),
    [
        (ScoringConfig(), 0, 1),
        (ScoringConfig(), 4, 4),
        (ScoringConfig(device="cpu"), 4, 1),
        (ScoringConfig(device="cuda:1"), 4, 1),
        (ScoringConfig(device="cpu", num_processes=2), 4, 2),
    ],
)
def test_every_gpu_scores(
    root: Root, scorer: Scorer, monkeypatch: pytest.MonkeyPatch, scoring: ScoringConfig, gpus: int, processes: int
) -> None:
    monkeypatch.setattr("tasks.training.train.visible_gpus", lambda: gpus)
    run(root, scoring)
    assert scorer.processes == [processes]


def checkpoint(tmp_path: Path, hidden_size: int, weights: str) -> CheckpointRef:
    folder = tmp_path / f"checkpoint-{weights}"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"encoder": {"hidden_size": hidden_size}}))
    return CheckpointRef(run="pretrain-1", stage=Stage.PRETRAIN, uri=str(folder), step=7, fingerprint=weights)


def made_in(root: Root, tmp_path: Path, scorer: Scorer, precision: str, width: int = 768, weights: str = "w") -> str:
    """Evaluate; the precision of the job that was started, or "none" where nothing was scored."""
    before = len(scorer.jobs)
    wanted = replace(
        spec(ScoringConfig(precision=precision), weights=weights), checkpoint=checkpoint(tmp_path, width, weights)
    )
    done = evaluate(root, wanted, lambda progress: None)
    assert find_evaluation(root, wanted) == done.row
    return scorer.jobs[-1].scoring.precision if len(scorer.jobs) > before else "none"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the machine says it computes in; changeable."""
    answer = ["bf16"]
    monkeypatch.setattr("tasks.evaluation.evaluate._ask_machine", lambda device, hidden_size: answer[0])
    return answer


def test_auto_finds_what_an_older_program_scored_in_fp32(
    root: Root, tmp_path: Path, scorer: Scorer, machine: list[str]
) -> None:
    assert made_in(root, tmp_path, scorer, "fp32") == "fp32"
    assert made_in(root, tmp_path, scorer, "auto") == "none"
    assert len(read_history(root)) == len(list((tmp_path / "scores").iterdir())) == 1


def test_auto_asks_the_machine_only_where_nothing_stands(
    root: Root, tmp_path: Path, scorer: Scorer, machine: list[str]
) -> None:
    assert made_in(root, tmp_path, scorer, "auto", width=128) == "fp32"  # Too narrow to ask.
    shutil.rmtree(tmp_path / "scores")
    (tmp_path / "history.jsonl").unlink()
    assert made_in(root, tmp_path, scorer, "auto") == "bf16"
    machine[0] = "fp32"  # Another machine.
    assert made_in(root, tmp_path, scorer, "auto") == "none"
    # Numbers of one split are to be compared: other weights are scored as these were.
    assert made_in(root, tmp_path, scorer, "auto", weights="x") == "bf16"
    assert [row.checkpoint_fingerprint for row in read_history(root)] == ["w", "x"]
    # What is asked for by name is not what auto took.
    assert made_in(root, tmp_path, scorer, "fp32") == "fp32"
    assert made_in(root, tmp_path, scorer, "auto") == "none"


def test_auto_goes_on_with_scores_that_are_begun(
    root: Root, tmp_path: Path, scorer: Scorer, machine: list[str]
) -> None:
    assert made_in(root, tmp_path, scorer, "bf16") == "bf16"
    (folder,) = (tmp_path / "scores").iterdir()
    (folder / "metrics.json").unlink()
    (folder / "scores-00001.npy").unlink()
    (tmp_path / "history.jsonl").unlink()
    machine[0] = "fp32"
    assert made_in(root, tmp_path, scorer, "auto") == "bf16"
    assert len(list((tmp_path / "scores").iterdir())) == 1


@pytest.mark.slow("a process that imports torch")
def test_the_machine_is_asked_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a processor that is kept from its instructions for bf16, if it has them.
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert _ask_machine("cpu", 768) == "fp32"
