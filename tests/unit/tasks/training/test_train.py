"""Runs are named by what their weights depend on, and found again by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from feature_extraction.config import ExtractorConfig
from feature_extraction.samples.manifest import FeatureManifest
from model.config import OptimConfig
from model.data.passages import load_passages
from model.data.tokenizer import load_vocabulary
from model.downstream.retrieval.config import FinetuneConfig
from model.families.unicoder_vl_config import UnicoderVLConfig
from model.jobs import PretrainJob
from model.objectives.config import PretrainConfig
from tasks.config import TextDatasetConfig
from tasks.download.text import make_text
from tasks.errors import StageError, UserError
from tasks.extractor import extractor_fingerprint
from tasks.records import FileDigest, Receipt, Stage
from tasks.storage.locks import alone
from tasks.storage.paths import captions_receipt_path, feature_manifest_path, run_folder, text_manifest_path
from tasks.storage.root import Root
from tasks.training.data import DataSpec
from tasks.training.run_name import check_text_side, find_trained, run_name
from tasks.training.specs import FinalRecord, FinetuneSpec, PretrainSpec
from tasks.training.text import TextSpec
from tasks.training.train import num_processes, train

EXTRACTOR = ExtractorConfig(backend="torchvision", model="small", max_regions=4)


def publish_data(root: Root, dataset: str, captions: str = "c", labels: tuple[str, ...] = ("cat",)) -> None:
    extractor, details = extractor_fingerprint(EXTRACTOR)
    manifest = FeatureManifest(
        max_regions=4,
        feature_dim=8,
        encoding="sqrt8",
        labels=labels,
        extractor=extractor,
        extractor_details=details,
        shards=(),
    )
    root.publish_model(feature_manifest_path(extractor, dataset, "train"), manifest)
    receipt = Receipt(
        stage=Stage.DOWNLOAD,
        dataset=dataset,
        split="train",
        shard=0,
        fingerprint="f",
        counts={"ok": 1},
        files={"captions.parquet": FileDigest(bytes=1, sha256=captions)},
        seconds=0,
        created_at="2026-01-01T00:00:00+00:00",
    )
    root.publish_model(captions_receipt_path(dataset, "train"), receipt)


def complete(root: Root, run: str, weights: str) -> None:
    """What a run that ended well leaves behind, as far as others look at it."""
    folder = run_folder(run)
    root.publish_bytes(f"{folder}/checkpoints/step-0000005/model.safetensors", b"weights")
    final = FinalRecord(step=5, checkpoint="checkpoints/step-0000005", weights_sha256=weights)
    root.publish_model(f"{folder}/final.json", final)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(str(tmp_path / "root"))
    publish_data(root, "web")
    publish_data(root, "retrieval")
    return root


@pytest.fixture
def spec(tmp_path: Path) -> PretrainSpec:
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    return PretrainSpec(
        data=DataSpec("web", "train", EXTRACTOR),
        vocabulary_path=str(tmp_path / "vocab.txt"),
        encoder=UnicoderVLConfig(hidden_size=8, num_heads=2),
        pretrain=PretrainConfig(steps=5),
    )


@pytest.fixture
def full(spec: PretrainSpec) -> FinetuneSpec:
    return FinetuneSpec(
        data=replace(spec.data, dataset="retrieval"),
        vocabulary_path=spec.vocabulary_path,
        encoder=spec.encoder,
        finetune=FinetuneConfig(steps=5),
        pretraining=spec,
    )


def with_pretrain(**change: object) -> Callable[[PretrainSpec], PretrainSpec]:
    return lambda spec: replace(spec, pretrain=spec.pretrain.model_copy(update=change))


@pytest.mark.parametrize(
    "change",
    [
        with_pretrain(seed=1),
        with_pretrain(steps=6),
        with_pretrain(precision="bf16"),
        with_pretrain(optim=OptimConfig(learning_rate=1)),
        lambda spec: replace(spec, encoder=UnicoderVLConfig(hidden_size=8, num_heads=4)),
    ],
)
def test_what_changes_weights_makes_another_run(
    root: Root, spec: PretrainSpec, change: Callable[[PretrainSpec], PretrainSpec]
) -> None:
    assert run_name(root, change(spec)) != run_name(root, spec)


@pytest.mark.parametrize(
    "change", [with_pretrain(device="cpu", num_threads=3), with_pretrain(log_steps=1, checkpoint_steps=2)]
)
def test_what_changes_speed_or_logging_finds_the_same_run(
    root: Root, spec: PretrainSpec, change: Callable[[PretrainSpec], PretrainSpec]
) -> None:
    assert run_name(root, change(spec)) == run_name(root, spec)


def test_other_bytes_of_any_input_make_another_run(root: Root, spec: PretrainSpec) -> None:
    names = [run_name(root, spec)]
    publish_data(root, "web", captions="other")
    names.append(run_name(root, spec))
    publish_data(root, "web", captions="other", labels=("cat", "dog"))
    names.append(run_name(root, spec))
    Path(spec.vocabulary_path).write_text("[PAD]\n[UNK]\n")
    names.append(run_name(root, spec))
    assert len(set(names)) == 4
    assert all(name.startswith("pretrain-") and len(name) == len("pretrain-") + 12 for name in names)


def test_moved_vocabulary_finds_the_same_run(root: Root, spec: PretrainSpec, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.txt").write_text(Path(spec.vocabulary_path).read_text())
    assert run_name(root, replace(spec, vocabulary_path=str(tmp_path / "elsewhere.txt"))) == run_name(root, spec)


def test_a_vocabulary_s_rules_make_another_run_only_where_they_are_not_those_of_all_runs_before(
    root: Root, spec: PretrainSpec, tmp_path: Path
) -> None:
    before = run_name(root, spec)
    folder = replace(spec, vocabulary_path=str(tmp_path))
    rules = tmp_path / "tokenizer_config.json"
    assert run_name(root, folder) == before
    rules.write_text('{"do_lower_case": true}')
    assert run_name(root, spec) == run_name(root, folder) == before
    rules.write_text('{"do_lower_case": false}')
    assert run_name(root, spec) == run_name(root, folder) != before
    hub = replace(spec, vocabulary_path="google-bert/bert-base-cased")
    assert run_name(root, hub) not in (before, run_name(root, folder))
    rules.write_text('{"tokenizer_class": "RobertaTokenizer"}')
    with pytest.raises(UserError, match=r"vocabulary_path: .*tokenizer_config\.json: tokenizer_class="):
        run_name(root, spec)


def test_what_an_encoder_has_since_counts_only_where_it_is_set(root: Root, spec: PretrainSpec) -> None:
    names = {"hidden_act", "layer_norm_eps"}
    assert not names & spec.encoder.identity().keys()
    for change in ({"layer_norm_eps": 1e-5}, {"hidden_act": "relu"}):
        other = replace(spec, encoder=spec.encoder.model_copy(update=change))
        assert other.encoder.identity() == spec.encoder.identity() | change
        assert run_name(root, other) != run_name(root, spec)


def test_a_bert_that_does_not_fit_is_refused_before_anything_is_downloaded(tmp_path: Path) -> None:
    special = "".join(f"[{name}]\n" for name in ("PAD", "UNK", "CLS", "SEP", "MASK"))
    bert = tmp_path / "bert"
    bert.mkdir()
    (bert / "vocab.txt").write_text(special)
    (bert / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "vocab.txt").write_text(special)
    encoder = UnicoderVLConfig(bert=str(bert), num_layers=2)
    for config, message in (
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05, but encoder.layer_norm_eps=1e-12"),
        ({"model_type": "roberta"}, 'model_type="roberta", but only "bert"'),
    ):
        (bert / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=message):
            check_text_side(str(tmp_path / "vocab.txt"), encoder)
    (bert / "config.json").write_text('{"num_hidden_layers": 1}')  # enough for a variant of one layer
    check_text_side(str(tmp_path / "vocab.txt"), encoder)
    (bert / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    with pytest.raises(UserError, match=r"\(do_lower_case=false against true\); set vocabulary_path="):
        check_text_side(str(tmp_path / "vocab.txt"), encoder)
    check_text_side(str(bert), encoder)


def test_run_that_is_not_complete_is_named_with_its_command(root: Root, spec: PretrainSpec) -> None:
    run = run_name(root, spec)
    with pytest.raises(UserError, match=rf"{run} is not a complete run; run `unicoder-vl pretrain`"):
        find_trained(root, spec)
    complete(root, run, "w")
    found = find_trained(root, spec)
    assert (found.run, found.step, found.fingerprint) == (run, 5, "w")
    assert Path(found.uri).is_dir()


def test_run_whose_checkpoint_is_gone_is_not_complete(root: Root, spec: PretrainSpec) -> None:
    run = run_name(root, spec)
    complete(root, run, "w")
    root.local(f"{run_folder(run)}/checkpoints/step-0000005/model.safetensors").unlink()
    with pytest.raises(UserError, match="not a complete run"):
        find_trained(root, spec)


def test_complete_run_is_not_started_again(root: Root, spec: PretrainSpec) -> None:
    complete(root, run_name(root, spec), "w")
    done = train(root, spec, lambda _: pytest.fail("nothing runs, so nothing reports"))
    assert done.skipped and done.fingerprint == "w"


def test_a_run_that_another_process_trains_is_left_alone(root: Root, spec: PretrainSpec) -> None:
    run = run_name(root, spec)
    with (
        alone(root, run, "training"),
        pytest.raises(StageError, match=f"another process is training {run} under .* just now; let it end"),
    ):
        train(root, spec, lambda _: pytest.fail("nothing runs, so nothing reports"))
    assert not root.exists(run_folder(run))


def test_finetuning_depends_on_the_weights_it_starts_from(root: Root, spec: PretrainSpec, full: FinetuneSpec) -> None:
    with pytest.raises(UserError, match="unicoder-vl pretrain"):
        run_name(root, full)
    complete(root, run_name(root, spec), "w1")
    first = run_name(root, full)
    complete(root, run_name(root, spec), "w2")
    second = run_name(root, full)
    scratch = replace(full, pretraining=None, finetune=full.finetune.model_copy(update={"start": "scratch"}))
    assert len({first, second, run_name(root, scratch)}) == 3
    with pytest.raises(UserError, match="unicoder-vl finetune --setting task-specific"):
        find_trained(root, scratch)


def test_how_many_images_validation_reads_counts_where_it_chooses_the_result(root: Root, full: FinetuneSpec) -> None:
    def run(**changes: object) -> str:
        fields = {"start": "scratch", "validation_steps": 2, **changes}
        finetune = full.finetune.model_copy(update=fields)
        return run_name(root, replace(full, pretraining=None, finetune=finetune, validation=full.data))

    assert run() == run(validation_images=5)
    best = {"keep_best": "validation_recall_sum"}
    assert len({run(), run(**best), run(**best, validation_images=5), run(**best, validation_images=6)}) == 4


def with_text(root: Root, spec: PretrainSpec, words: str) -> PretrainSpec:
    """The same training with a corpus of text, made under the root."""
    file = Path(root.path("words.txt"))
    file.write_text(f"{words}\n" * 80)
    text = TextDatasetConfig(name="wiki", splits={"train": (str(file),)})
    make_text(root, text, "train", accept_changes=True)
    return replace(
        spec, text=TextSpec("wiki", "train"), pretrain=spec.pretrain.model_copy(update={"objectives": {"mlm-text": 1}})
    )


def test_a_run_with_text_is_named_by_its_shards_and_by_nothing_else_of_it(root: Root, spec: PretrainSpec) -> None:
    reading = with_text(root, spec, "some words")
    name = run_name(root, reading)
    assert name != run_name(root, replace(reading, text=None))
    manifest = Path(root.path(text_manifest_path("wiki", "train")))
    manifest.write_text(manifest.read_text().replace('"blank":0', '"blank":1'))
    assert run_name(root, reading) == name
    assert run_name(root, with_text(root, spec, "other words")) != name
    assert run_name(root, with_text(root, spec, "some words")) == name


def test_the_job_reads_the_text_under_the_root_and_keeps_its_tables_in_the_cache(
    root: Root, spec: PretrainSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[PretrainJob] = []
    monkeypatch.setattr("tasks.training.train.run_module", lambda module, job, *paths, **how: jobs.append(job))
    with pytest.raises(StageError, match="left no final checkpoint"):
        train(root, with_text(root, spec, "some words"), lambda progress: None)
    source = jobs[0].text
    assert source is not None
    assert source.text_path == root.path("datasets/wiki/train/text") and source.name == "wiki/train"
    assert source.cache_path == root.path("cache")
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "some", "words")))
    table = load_passages(source, load_vocabulary(str(vocabulary)), 8)
    assert len(table) == 80 and table[79].tolist() == [5, 6]
    assert {path.name.partition("-")[0] for path in Path(root.path("cache")).iterdir()} == {"passages"}


def test_missing_or_unfinished_text_names_the_command(root: Root, spec: PretrainSpec) -> None:
    reading = with_text(root, spec, "some words")
    root.remove(text_manifest_path("wiki", "train"))
    with pytest.raises(UserError, match=r"text of wiki/train under .* is not finished; run `unicoder-vl download`"):
        run_name(root, reading)
    with pytest.raises(UserError, match=r"no text of books/train .*`unicoder-vl download --text FILE --name books/tr"):
        run_name(root, replace(reading, text=TextSpec("books", "train")))


def test_missing_features_name_the_command(root: Root, spec: PretrainSpec) -> None:
    other = replace(spec, data=replace(spec.data, extractor=EXTRACTOR.model_copy(update={"max_regions": 5})))
    with pytest.raises(UserError, match=r"web/train has no finished features .*run `unicoder-vl extract`"):
        run_name(root, other)
    with pytest.raises(UserError, match=r"absent/train has no captions .*run `unicoder-vl download`"):
        run_name(root, replace(spec, data=replace(spec.data, dataset="absent")))


def test_missing_vocabulary_is_named(root: Root, spec: PretrainSpec) -> None:
    with pytest.raises(UserError, match=r"vocabulary_path: vocabulary absent\.txt is not a file"):
        run_name(root, replace(spec, vocabulary_path="absent.txt"))


def test_a_local_bert_counts_by_its_weights_and_one_of_the_hub_by_its_name(
    root: Root, spec: PretrainSpec, tmp_path: Path
) -> None:
    def run_from(bert: str | None) -> str:
        return run_name(root, replace(spec, encoder=spec.encoder.model_copy(update={"bert": bert})))

    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    assert run_from(str(tmp_path / "one")) == run_from(str(tmp_path / "other"))
    (tmp_path / "other" / "model.safetensors").write_bytes(b"changed")
    runs = [run_from(bert) for bert in (None, "hub/bert", str(tmp_path / "one"), str(tmp_path / "other"))]
    assert len(set(runs)) == 4
    (tmp_path / "one" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"one has neither model\.safetensors nor pytorch_model\.bin"):
        run_from(str(tmp_path / "one"))


def test_weights_that_are_a_pointer_are_found_before_anything_is_begun(spec: PretrainSpec, tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 440449768\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(UserError, match=r"encoder\.bert: .*model\.safetensors is a Git LFS pointer"):
        check_text_side(spec.vocabulary_path, spec.encoder.model_copy(update={"bert": str(tmp_path)}))
    weights = EXTRACTOR.model_copy(update={"weights": str(tmp_path / "model.safetensors")})
    with pytest.raises(UserError, match=r"extractor\.weights: .*model\.safetensors is a Git LFS pointer"):
        extractor_fingerprint(weights)


def test_how_a_run_is_laid_out_is_no_part_of_its_name(root: Root, spec: PretrainSpec) -> None:
    other = replace(
        spec,
        encoder=spec.encoder.model_copy(update={"sequences": "padded"}),
        pretrain=spec.pretrain.model_copy(update={"device_batch_size": 1, "num_processes": 4, "keep_last": 7}),
    )
    assert run_name(root, other) == run_name(root, spec)


@pytest.mark.parametrize(
    ("device", "asked", "gpus", "expected"), [("auto", None, 4, 4), ("auto", None, 0, 1), ("cpu", None, 4, 1),
    ("cuda:1", None, 4, 1), ("auto", 2, 4, 2), ("cpu", 3, 0, 3)],
)  # fmt: skip
def test_a_run_takes_all_gpus_unless_it_is_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, spec: PretrainSpec, device: str, asked: int | None, gpus: int, expected: int
) -> None:
    monkeypatch.setattr("tasks.training.train.visible_gpus", lambda: gpus)
    config = spec.pretrain.model_copy(update={"device": device, "num_processes": asked})
    assert num_processes(config) == expected
