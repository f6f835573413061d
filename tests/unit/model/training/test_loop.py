import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from model.command import open_data
from model.config import OptimConfig, WordRules
from model.data.tokenizer import load_vocabulary
from model.downstream.retrieval.config import FinetuneConfig, ScoringConfig
from model.downstream.retrieval.held_out import RECALL_VALUES
from model.errors import InputError, TrainingError
from model.families.build import build_model
from model.families.unicoder_vl_config import UnicoderVLConfig
from model.finetune import run_finetuning
from model.jobs import FinetuneJob, PretrainJob, ScoreJob
from model.objectives.held_out import HeldOutLosses, loss_values
from model.pretrain import run_pretraining
from model.progress import Progress
from model.scoring import run_scoring
from model.training.checkpoint import Checkpoint, list_checkpoints, load_model
from model.training.loop import check_same_start
from model.training.metrics_log import Journal
from model.training.optim import learning_rate_share
from model.training.processes import Processes, pick_device
from tests.toy import WORDS


def weights(job: PretrainJob) -> dict[str, torch.Tensor]:
    final = json.loads((Path(job.run_path) / "final.json").read_text())
    return load_model(Path(job.run_path) / final["checkpoint"])[0].state_dict()


def test_a_run_leaves_metrics_checkpoints_and_a_final_mark(job):
    assert run_pretraining(job()) == 0
    run = Path(job().run_path)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    speed = {"steps_per_second", "samples_per_second", "wait_share", "peak_memory_gib"}
    assert {"loss", "vlm", "vlm_accuracy", "gradient_norm", "learning_rate", "skipped", *speed} <= set(lines[-1])
    for line in lines:
        assert line["loss"] == pytest.approx(sum(line.get(name, 0) for name in ("mlm", "moc", "vlm")), rel=1e-5)
    # Of 12 steps one warms up, then it goes down linearly; each line names the rate of its own step.
    assert [line["learning_rate"] for line in lines] == pytest.approx(
        [1e-4 * n / 11 for n in (11, 9, 7, 5, 3, 1)], rel=1e-5
    )
    assert [c.step for c in list_checkpoints(run)] == [10, 12]
    final = json.loads((run / "final.json").read_text())
    assert final["step"] == 12 and final["checkpoint"] == "checkpoints/step-0000012"
    written = PretrainJob.model_validate_json((run / "job.json").read_text())
    assert written == job().model_copy(update={"word_rules": WordRules()})


def newest(job: PretrainJob) -> Checkpoint:
    return list_checkpoints(Path(job.run_path))[-1]


def rows(job: PretrainJob) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(job.run_path) / "metrics.jsonl").read_text().splitlines()]


def contents(job: PretrainJob) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(job.run_path).rglob("*") if path.is_file()}


def test_splitting_the_batch_changes_nothing_but_rounding(job, monkeypatch):
    """Gradients, not weights: Adam makes a step of full length out of a rounding error around zero."""
    import model.training.loop

    gradients = []
    original = model.training.loop.clip_and_step

    def kept(optimizer, *arguments):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients[-1].append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).clone())
        return original(optimizer, *arguments)

    monkeypatch.setattr(model.training.loop, "clip_and_step", kept)
    logs = []
    for size in (8, 4, 2):
        gradients.append([])
        whole = job(f"in-{size}", steps=3, batch_size=8, device_batch_size=size, log_steps=1)
        task = whole.model_copy(update={"encoder": whole.encoder.model_copy(update={"dropout": 0.0})})
        assert run_pretraining(task) == 0
        assert newest(task).state().split == f"8 captions a step = 1 processes x {8 // size} parts x {size}"
        logs.append([{n: row[n] for n in ("loss", "vlm", "vlm_accuracy", "gradient_norm")} for row in rows(task)])
    for step in range(3):
        scale = float(gradients[0][step].abs().max())
        assert float((gradients[1][step] - gradients[0][step]).abs().max()) < 1e-5 * scale
        assert float((gradients[2][step] - gradients[0][step]).abs().max()) < 1e-5 * scale
        assert logs[1][step] == pytest.approx(logs[0][step], rel=1e-4)
        assert logs[2][step] == pytest.approx(logs[0][step], rel=1e-4)


@pytest.mark.parametrize(("dropout", "same"), [(0.0, True), (0.1, False)])
def test_the_split_of_a_batch_decides_which_units_drop_out_and_nothing_else(job, dropout, same):
    """As `device_batch_size` says. The first step's losses, before any weight differs."""
    lines = []
    for size in (8, 4):
        whole = job(f"in-{size}", steps=1, batch_size=8, device_batch_size=size)
        assert run_pretraining(whole.model_copy(update={"encoder": encoder_with(whole, dropout)})) == 0
        lines.append(rows(whole)[0])
    assert (lines[0]["loss"] == pytest.approx(lines[1]["loss"], rel=1e-5)) == same


def encoder_with(job: PretrainJob, dropout: float) -> UnicoderVLConfig:
    return job.encoder.model_copy(update={"dropout": dropout, "attention_dropout": dropout})


def test_a_batch_larger_than_the_device_takes_is_refused_where_it_does_not_come_out_even(job):
    with pytest.raises(InputError, match="set batch_size to 4 or 8"):
        run_pretraining(job(batch_size=7, device_batch_size=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 8, "seed": 3}, "pretrain.batch_size was 4, is 8; pretrain.seed was 0, is 3"),
        ({"optim": OptimConfig(learning_rate=3e-4)}, "pretrain.optim.learning_rate was 0.0001, is 0.0003"),
    ],
)
def test_going_on_as_another_run_is_refused_with_the_difference_named(job, changes, message):
    run_pretraining(job(steps=12))
    before = contents(job())
    with pytest.raises(InputError, match=f"step-0000012 belongs to another run: {message}; restore"):
        run_pretraining(job(steps=12, **changes))
    assert contents(job()) == before


def test_going_on_with_other_data_or_vocabulary_is_refused(job, make_world):
    run_pretraining(job(steps=2))
    manifest = Path(job().train.features_path) / "manifest.json"
    content = manifest.read_text()
    manifest.write_text(content + " ")
    with pytest.raises(InputError, match=r"train.features was [0-9a-f]{12}, is [0-9a-f]{12}"):
        run_pretraining(job(steps=2))
    manifest.write_text(content)
    vocabulary = Path(job().vocabulary_path)
    vocabulary.write_text(vocabulary.read_text() + "zebra\n")
    with pytest.raises(InputError, match="step-0000002 belongs to another run: vocabulary was"):
        run_pretraining(job(steps=2))


def test_what_only_changes_speed_and_looks_may_change_between_starts(job):
    run_pretraining(job(steps=12))
    newest(job()).path.rename(Path(job().run_path) / "gone")
    other = {"log_steps": 3, "checkpoint_steps": 2, "device": "cpu", "keep_last": 1, "device_batch_size": 2}
    assert run_pretraining(job(steps=12, **other)) == 0
    assert newest(job()).step == 12


def encoder_of(job: PretrainJob | FinetuneJob) -> UnicoderVLConfig:
    """That of the newest checkpoint."""
    config = json.loads((list_checkpoints(Path(job.run_path))[-1].path / "config.json").read_text())
    return UnicoderVLConfig.model_validate(config["encoder"])


def test_finetuning_takes_the_jobs_value_of_what_is_no_part_of_a_runs_encoder(job, tmp_path):
    begun = job(steps=2)
    assert run_pretraining(begun) == 0
    path, other = newest(begun).path, {"sequences": "padded", "bert": "a folder that is not there"}
    finetuning = FinetuneJob(
        run_path=str(tmp_path / "finetuned"),
        train=begun.train,
        vocabulary_path=begun.vocabulary_path,
        encoder=begun.encoder.model_copy(update=other),
        finetune=FinetuneConfig(steps=1, batch_size=2, num_threads=1),
        checkpoint_path=str(path),
    )
    assert run_finetuning(finetuning) == 0
    assert encoder_of(finetuning) == finetuning.encoder
    model, _ = load_model(path, finetuning.encoder)
    assert model.bert.config == finetuning.encoder
    assert load_model(path)[0].config == begun.encoder


def test_a_run_that_goes_on_takes_the_jobs_layout_of_sequences(job):
    begun = job(checkpoint_steps=1, keep_last=12)
    assert run_pretraining(begun) == 0
    for checkpoint in list_checkpoints(Path(begun.run_path))[-3:]:
        checkpoint.path.rename(Path(begun.run_path) / f"gone-{checkpoint.step}")
    other = begun.encoder.model_copy(update={"sequences": "padded", "bert": "google-bert/bert-base-uncased"})
    assert run_pretraining(begun.model_copy(update={"encoder": other})) == 0
    assert newest(begun).step == 12 and encoder_of(begun) == other


@pytest.mark.parametrize("captions", ["different", "alike"])
def test_the_first_line_after_a_resume_is_of_all_the_steps_of_its_interval(job, make_world, captions):
    """Lines at 4, 8 and 12, checkpoints at 5 and 10; counts of what was left out go on, too."""
    whole, killed = job("whole", log_steps=4), job("killed", log_steps=4)
    if captions == "alike":
        make_world([[image] for image in range(6)], [(image, "red cat") for image in range(6)])
    assert run_pretraining(whole) == 0
    assert run_pretraining(killed) == 0
    newest(killed).path.rename(Path(killed.run_path) / "gone")
    assert newest(killed).step == 10
    assert run_pretraining(killed) == 0
    rates = {"steps_per_second", "samples_per_second", "wait_share", "peak_memory_gib"}
    first, second = (
        [{n: v for n, v in row.items() if n not in rates} for row in rows(task)] for task in (whole, killed)
    )
    assert first == second
    assert first[-1]["skipped_negatives"] == (48 if captions == "alike" else 0)


def test_a_checkpoint_of_an_earlier_version_goes_on_without_the_interval_it_lacks(job):
    begun = job(log_steps=4)
    assert run_pretraining(begun) == 0
    newest(begun).path.rename(Path(begun.run_path) / "gone")
    saved = newest(begun).path / "optimizer.pt"
    content = torch.load(saved, weights_only=True)
    assert content.pop("interval")["steps"] == 2
    torch.save(content, saved)
    assert run_pretraining(begun) == 0
    assert rows(begun)[-1]["step"] == 12 and math.isfinite(rows(begun)[-1]["loss"])


@pytest.mark.parametrize("texts", ["alike", "different"])
def test_negatives_that_were_not_found_are_counted_and_told(job, make_world, tmp_path, caplog, texts):
    captions = [(image, "red cat" if texts == "alike" else WORDS[image]) for image in range(6)]
    source, _ = make_world([[image] for image in range(6)], captions)
    pretraining = job(steps=4, device_batch_size=2).model_copy(update={"train": source})
    assert run_pretraining(pretraining) == 0
    finetuning = FinetuneJob(
        run_path=str(tmp_path / "finetuned"),
        train=source,
        vocabulary_path=pretraining.vocabulary_path,
        encoder=pretraining.encoder,
        finetune=FinetuneConfig(start="scratch", steps=4, batch_size=4, log_steps=2, negatives=2, num_threads=1),
    )
    assert run_finetuning(finetuning) == 0
    counts = {"alike": ([8, 16], [32, 64]), "different": ([0, 0], [0, 0])}[texts]
    assert [row["skipped_negatives"] for row in rows(pretraining)] == counts[0]
    assert [row["skipped_negatives"] for row in rows(finetuning)] == counts[1]
    assert ("vlm" in rows(pretraining)[-1]) == (texts == "different")
    told = [record.getMessage() for record in caplog.records if "negatives" in record.getMessage()]
    assert [line.partition(" negatives")[0] for line in told] == (
        ["pretrain step 2: 8", "pretrain step 4: 16", "task-specific step 2: 32", "task-specific step 4: 64"]
        if texts == "alike"
        else []
    )


def validating(job: PretrainJob, **changes) -> PretrainJob:
    config = job.pretrain.model_copy(update={"validation_steps": 3, **changes})
    return job.model_copy(update={"validation": job.train, "pretrain": config})


@pytest.mark.parametrize(
    ("rank", "step", "others", "message"),
    [
        (0, 20, (0, 1), r"1 of 2 processes would not go on from step 20 of \S+, .* \(others do not have it\)"),
        (1, 10, (20, 0), r"1 of 2 processes would not go on from step 20 of \S+, .* \(this one has step 10\)"),
    ],
)
def test_machines_that_would_go_on_from_different_steps_are_refused(tmp_path, rank, step, others, message):
    told = iter(others)

    class OneOfTwo(Processes):
        def add(self, values):
            """What the other one adds to the first step, and to how many differ from it."""
            return values + next(told)

    with pytest.raises(InputError, match=message):
        check_same_start(OneOfTwo(rank, 2, torch.device("cpu")), step, tmp_path)


def test_validation_measures_losses_and_quick_recall_and_leaves_no_trace_in_training(job):
    # Often enough that each task has a target among six pairs.
    often = {"region_masking": {"rate": 0.9}, "word_masking": {"rate": 0.9}}
    plain = job("plain", **often)
    watched = validating(job("watched", **often), quick_recall_images=5, validation_pairs=6)
    assert run_pretraining(plain) == 0
    assert run_pretraining(watched) == 0
    first, second = weights(plain), weights(watched)
    assert all(torch.equal(first[name], second[name]) for name in first)
    measured = [row for row in rows(watched) if "validation_loss" in row]
    assert [row["step"] for row in measured] == [3, 6, 9, 12]
    assert set(measured[0]) == {"step", *loss_values(watched.pretrain), *RECALL_VALUES}
    assert measured[0]["validation_text_to_image_r5"] == 1.0, "of five images"
    assert newest(watched).state().validation == pytest.approx(
        {name: value for name, value in measured[-1].items() if name != "step"}, rel=1e-4
    )


def test_validation_of_the_same_weights_gives_the_same_values(job):
    frozen = validating(job("frozen", steps=6, optim=OptimConfig(learning_rate=1e-30)), quick_recall_images=0)
    assert run_pretraining(frozen) == 0
    measured = [row for row in rows(frozen) if "validation_loss" in row]
    assert measured[0] == {**measured[1], "step": 3}
    assert "validation_recall_sum" not in measured[0]


def test_the_best_checkpoint_by_a_validation_value_is_kept_and_is_the_result(job):
    growing = OptimConfig(learning_rate=0.3, warmup_share=0)
    task = validating(
        job("best", optim=growing, keep_last=1, validation_steps=3), keep_best="validation_loss", best_is="smallest"
    )
    assert run_pretraining(task) == 0
    values = {row["step"]: row["validation_loss"] for row in rows(task) if "validation_loss" in row}
    best = min(values, key=values.__getitem__)
    final = json.loads((Path(task.run_path) / "final.json").read_text())
    assert final["step"] == best
    assert [c.step for c in list_checkpoints(Path(task.run_path))] == sorted({best, 12})


def test_keep_best_of_a_value_that_is_not_measured_is_refused_before_training(job):
    with pytest.raises(InputError, match="keep_best is validation_recal, but validation measures validation_loss,"):
        run_pretraining(validating(job(), keep_best="validation_recal"))
    with pytest.raises(InputError, match="measures nothing, for no validation data is given"):
        run_pretraining(job(keep_best="validation_loss", validation_steps=2))
    with pytest.raises(ValueError, match="needs validation_steps"):
        job(keep_best="validation_loss")


@pytest.mark.parametrize("changes", [{}, {"segments": "modality", "region_position": "shared", "pooler": True}])
def test_every_trained_parameter_has_a_gradient_in_every_step(job, tmp_path, monkeypatch, changes):
    """As processes that add their gradients expect: they would wait for one that never comes."""
    import model.training.loop

    original = model.training.loop.clip_and_step
    seen = 0

    def checked(optimizer, *arguments):
        nonlocal seen
        seen += 1
        assert all(p.grad is not None for group in optimizer.param_groups for p in group["params"])
        return original(optimizer, *arguments)

    monkeypatch.setattr(model.training.loop, "clip_and_step", checked)
    plain = job(steps=3, batch_size=1)
    task = plain.model_copy(update={"encoder": plain.encoder.model_copy(update=changes)})
    assert run_pretraining(task) == 0
    finetune = FinetuneConfig(steps=2, batch_size=2, num_threads=1)
    shared = {"train": task.train, "vocabulary_path": task.vocabulary_path, "encoder": task.encoder}
    path = str(newest(task).path)
    assert (
        run_finetuning(FinetuneJob(run_path=str(tmp_path / "f"), finetune=finetune, checkpoint_path=path, **shared))
        == 0
    )
    assert seen == 5


def test_memory_that_runs_out_ends_with_the_way_out(job, monkeypatch):
    import model.pretrain

    def too_large(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(model.pretrain, "pretraining_losses", too_large)
    with pytest.raises(TrainingError, match="ran out of memory with 4 captions at once; set device_batch_size to 2"):
        run_pretraining(job())


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
            losses.sums.mul_(float("nan"))
        return losses

    monkeypatch.setattr(model.pretrain, "pretraining_losses", sometimes_broken)
    broken = {3, 4}
    assert run_pretraining(job("skips", max_bad_steps=2)) == 0
    last = json.loads((Path(job("skips").run_path) / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["skipped"] == 2
    assert all(torch.isfinite(value).all() for value in weights(job("skips")).values())
    calls, broken = 0, set(range(100))
    with pytest.raises(TrainingError, match="4 steps in a row had a gradient that is not finite"):
        run_pretraining(job("stops", max_bad_steps=2))


@pytest.mark.parametrize(("step", "share"), [(0, 1 / 11), (9, 10 / 11), (10, 1.0), (60, 0.5), (110, 0.0)])
def test_learning_rate_rises_and_falls_linearly(step, share):
    assert learning_rate_share(step, 110, 10) == pytest.approx(share)


def test_a_gpu_that_is_not_there_is_an_error():
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    with pytest.raises(ValueError, match="torch sees no GPU"):
        pick_device("cuda")


def test_a_device_that_torch_does_not_know_is_refused_by_name():
    with pytest.raises(InputError, match="device 'gpu7' is unknown"):
        pick_device("gpu7")


def test_metrics_that_cannot_be_written_end_the_run_with_their_name(tmp_path):
    journal = Journal("pretrain", tmp_path, 0, 10)
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(TrainingError, match=r"metrics\.jsonl: the metrics of step 2 cannot be written"):
        journal.write(2, {"loss": 1.0})


def test_progress_that_is_not_finite_reaches_the_parent():
    sent = Progress(stage="s", done=1, total=2, unit="steps", per_second=1, metrics={"loss": math.inf})
    assert Progress.model_validate_json(sent.model_dump_json()) == sent


def test_held_out_pairs_are_each_read_once_however_many_a_device_takes(job, tiny):
    whole = job()
    vocabulary = load_vocabulary(whole.vocabulary_path)
    store, captions, tokens = open_data(whole.train, vocabulary, tiny)
    model = build_model(tiny, store, vocabulary, seed=0).eval()

    def measured(most: int | None) -> dict[str, float]:
        config = whole.pretrain.model_copy(update={"device_batch_size": most})
        return HeldOutLosses(store, captions, tokens, vocabulary, 4, config)(model, torch.device("cpu"))

    # Eight pairs, by eight, or by three, two and three.
    assert measured(3) == pytest.approx(measured(None), rel=1e-5)


def test_held_out_pairs_are_the_same_whatever_the_runs_seed(job, tiny):
    vocabulary = load_vocabulary(job().vocabulary_path)
    store, captions, tokens = open_data(job().train, vocabulary, tiny)
    model = build_model(tiny, store, vocabulary, seed=0).eval()

    def measured(seed: int) -> dict[str, float]:
        config = job(seed=seed, validation_pairs=5, word_masking={"rate": 0.5}).pretrain
        return HeldOutLosses(store, captions, tokens, vocabulary, 4, config)(model, torch.device("cpu"))

    assert measured(7) == measured(0)


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
    with pytest.raises(InputError, match=r"another encoder than this job's: encoder\.num_layers was 2, is 1; use"):
        run_finetuning(task.model_copy(update={"encoder": other, "run_path": str(tmp_path / "other")}))


def test_a_run_s_rules_of_words_are_in_its_config_and_its_checkpoint_and_hold_for_what_follows(job, tmp_path):
    lower = job("lower", steps=1)
    folder = tmp_path / "cased"
    folder.mkdir()
    shutil.copyfile(lower.vocabulary_path, folder / "vocab.txt")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased = job("cased-run", steps=1).model_copy(update={"vocabulary_path": str(folder)})
    starts = {}
    for task, lowers in ((lower, True), (cased, False)):
        run_pretraining(task)
        written = PretrainJob.model_validate_json((Path(task.run_path) / "job.json").read_text())
        assert written.word_rules is not None and written.word_rules.do_lower_case == lowers
        starts[lowers] = list_checkpoints(Path(task.run_path))[-1].path
        assert load_model(starts[lowers])[1].words.rules.do_lower_case == lowers
    task = FinetuneJob(
        run_path=str(tmp_path / "finetuned"),
        train=lower.train,
        vocabulary_path=lower.vocabulary_path,
        encoder=lower.encoder,
        finetune=FinetuneConfig(steps=1, batch_size=2, num_threads=1),
        checkpoint_path=str(starts[False]),
    )
    with pytest.raises(InputError, match=r"step-0000001 was .*vocab\.txt \(do_lower_case=false against true\); set"):
        run_finetuning(task)
    # The way out: a checkpoint's folder is its vocabulary.
    assert run_finetuning(task.model_copy(update={"vocabulary_path": str(starts[False])})) == 0


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
