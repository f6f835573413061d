"""A published program's weights become a run that every command takes, and come out as they went in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from feature_extraction.weight_files import read_weights
from flows.commands.app import app
from flows.params.start import started_from
from flows.params.training import FinetuneParams
from model.downstream.retrieval.config import FinetuneConfig
from model.errors import InputError
from model.families import vl_bert_names
from model.families.config import HeadConfig, Sizes
from model.families.configs import of_family
from model.families.fit import check_matching
from model.families.heads import ITM, MATCHING
from model.families.model import VisionLanguageModel
from model.families.uniter_names import to_official
from model.training.checkpoint import load_model
from tasks.errors import UserError
from tasks.storage.root import Root
from tasks.training.runs import find_run
from tasks.training.train import train
from tasks.world.scenes import COLOURS, SHAPES
from tests.searchable import DATASET, ENCODER, EXTRACTOR, RUN, SPLIT, VOCABULARY, make_searchable
from tests.toy import WORDS

LABELS = len(COLOURS) * len(SHAPES)
WEIGHTS = "uniter-toy.pt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with features, and a file of UNITER's program for them, in half precision."""
    folder = tmp_path_factory.mktemp("checkpoints")
    make_searchable(folder)
    torch.save({"model_state": {name: value.half() for name, value in official(LABELS).items()}}, folder / WEIGHTS)
    return folder


def official(labels: int, width: int = 128, ranks: bool = False) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    sizes = Sizes(len(VOCABULARY), width, labels)
    heads = {
        "cls": HeadConfig(kind="words", width=sizes.vocab_size),
        "region_features": HeadConfig(kind="features", width=width),
        "region_classes": HeadConfig(kind="mlp", width=1 + labels),
        **ITM,
        **(MATCHING if ranks else {}),
    }
    encoder = of_family(ENCODER, "uniter").model_dump(mode="json")
    listed = {name: head.model_dump(mode="json") for name, head in heads.items()}
    return to_official(VisionLanguageModel(*sizes, 3, encoder, "", listed))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def bring_in(folder: Path, *options: object, file: str = WEIGHTS, name: str = "uniter-toy") -> Result:
    given = ("--vocabulary", folder / "vocab.txt", "--num-heads", 4, "--max-regions", 4, "--root", folder / "root")
    return run("import-checkpoint", folder / file, "--name", name, *given, *options)


def test_weights_become_a_run_and_come_out_as_they_went_in(folder: Path) -> None:
    made = bring_in(folder, "--json")
    assert made.exit_code == 0, made.output
    result = json.loads(made.stdout.splitlines()[-1])
    assert (result["run"], result["stage"], result["step"], result["skipped"]) == ("uniter-toy", "pretrain", 0, False)
    assert "uniter-toy: was imported before" in bring_in(folder).stdout
    root = Root(str(folder / "root"))
    assert find_run(root, "uniter-toy").setting == "zero-shot"
    model, vocabulary = load_model(result["uri"])
    assert model.config.family == "uniter" and list(vocabulary.words.pieces) == VOCABULARY
    for name in ("out.pt", "out.safetensors"):
        written = run("export-checkpoint", "uniter-t", "--out", folder / name, "--root", folder / "root")
        assert written.exit_code == 0 and f"uniter-toy, step 0: {folder / name}" in written.stdout
        found, given = read_weights(folder / name), official(LABELS)
        assert found.keys() == given.keys()
        assert all(torch.equal(found[key], value.half().float()) for key, value in given.items())


def test_a_file_of_vl_berts_program_becomes_a_run_that_ranks_nothing_yet(folder: Path) -> None:
    encoder = of_family(ENCODER, "vl-bert").model_dump(mode="json")
    heads = {
        "cls": {"kind": "words", "width": len(VOCABULARY)},
        "mvrc": {"kind": "mlp", "width": 1 + LABELS, "norm": False},
    }
    torch.manual_seed(6)
    given = vl_bert_names.to_official(VisionLanguageModel(len(VOCABULARY), 128, LABELS, 3, encoder, "", heads))
    torch.save({"state_dict": {f"module.{name}": value for name, value in given.items()}}, folder / "vl-bert.model")
    made = bring_in(folder, "--family", "vl-bert", "--json", file="vl-bert.model", name="vl-bert-toy")
    assert made.exit_code == 0, made.output
    model, _ = load_model(json.loads(made.stdout.splitlines()[-1])["uri"])
    assert model.config.family == "vl-bert" and set(model.heads) == {"cls", "mvrc"}
    with pytest.raises(InputError, match="has no matching head"):
        check_matching(model, "vl-bert-toy")
    written = run("export-checkpoint", "vl-bert-toy", "--out", folder / "back.pt", "--root", folder / "root")
    assert written.exit_code == 0, written.output
    found = read_weights(folder / "back.pt")
    assert found.keys() == given.keys() and all(torch.equal(found[key], value) for key, value in given.items())


def test_a_finetuned_checkpoint_becomes_a_finetuning_run(folder: Path) -> None:
    torch.save(official(LABELS, ranks=True), folder / "ranks.pt")
    assert bring_in(folder, file="ranks.pt", name="uniter-ranks").exit_code == 0
    found = find_run(Root(str(folder / "root")), "uniter-ranks")
    assert (found.stage.value, found.setting) == ("finetune", "pretrain+finetune")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            official(LABELS),
            ("--family", "vilt"),
            "no published program of the family 'vilt' whose checkpoints are known",
        ),
        (official(LABELS), ("--name", "a/b"), "--name: "),
        (official(LABELS), ("--name", RUN), f"runs/{RUN} is a run that was trained; give another --name"),
        (official(LABELS), ("--features", "0000"), "'0000' names 0 of them; there are "),
        (official(8), (), "tells 8 classes of regions apart, but these features have 64 labels"),
        (official(LABELS, 64), (), "reads 64-wide features, but those of "),
        (official(LABELS) | {"bert.pooler.dense.bias": torch.zeros(1)}, (), "another model beside UNITER's"),
        ({"a": torch.zeros(1)}, (), "has no weight of UNITER's"),
        (official(LABELS), ("--vocabulary", "other.txt"), "embeddings of 25 word pieces, but the vocabulary has 13"),
        (b"<html>", (), "is a web page, not the file"),
        (official(LABELS), ("--num-heads", 5), "hidden_size=32 is not a multiple of num_heads=5"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(
    folder: Path, tmp_path: Path, content: object, options: tuple[object, ...], message: str
) -> None:
    file = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    (tmp_path / "other.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    given = [tmp_path / one if one == "other.txt" else one for one in options]
    before = sorted((folder / "root").rglob("*"))
    result = bring_in(folder, *given, file=str(file), name="refused")
    assert result.exit_code == 2, result.output
    assert message in result.stderr and result.stderr.count("\n") == 1 and result.stdout == ""
    assert sorted((folder / "root").rglob("*")) == before


def test_a_family_without_a_program_is_not_written(folder: Path) -> None:
    refused = run("export-checkpoint", RUN, "--out", folder / "no.pt", "--root", folder / "root")
    assert refused.exit_code == 2 and "no published program of the family 'unicoder-vl'" in refused.stderr
    assert not (folder / "no.pt").exists()


@pytest.mark.slow("trains, scores and searches in processes of their own")
def test_an_imported_run_is_evaluated_searched_and_finetuned(folder: Path) -> None:
    assert bring_in(folder).exit_code == 0
    root = Root(str(folder / "root"))
    on = f"{DATASET}/{SPLIT}"
    measured = run("evaluate", "--run", "uniter-toy", "--on", on, "--root", folder / "root")
    assert measured.exit_code == 0 and "zero-shot" in measured.stdout, measured.output
    found = run("search", "a red circle", "--run", "uniter-toy", "--images", on, "--root", folder / "root", "--json")
    assert found.exit_code == 0 and json.loads(found.stdout.splitlines()[-1])["setting"] == "zero-shot"
    params = FinetuneParams(
        root_uri=root.uri,
        dataset=DATASET,
        split=SPLIT,
        validation_split=None,
        extractor=EXTRACTOR,
        vocabulary_path="elsewhere",
        finetune=FinetuneConfig(steps=2, batch_size=4, num_threads=1, device="cpu"),
        start_run="some-other",
    )
    started = started_from(params, "uniter-t")
    assert started.encoder.family == "uniter" and started.setting == "pretrain+finetune"
    tuned = train(root, started.spec(), lambda progress: None)
    first, last = (load_model(uri)[0] for uri in (root.path("runs/uniter-toy/checkpoints/step-0000000"), tuned.uri))
    assert list(last.heads) == ["matching"]
    assert (last.matching.weight - first.itm.weight[1:]).abs().max() < 1e-3
    with pytest.raises(UserError, match="starts from scratch; leave one out"):
        started_from(params.model_copy(update={"finetune": FinetuneConfig(start="scratch")}), "uniter-toy")
