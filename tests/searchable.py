"""A root that can be searched: drawn pictures from a folder, regions by the demo's detector, an untrained run."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch

import tasks.world
from feature_extraction.config import ExtractorConfig
from model.config import FeatureSource
from model.data.tokenizer import load_vocabulary
from model.downstream.retrieval.config import FinetuneConfig
from model.families.model import VisionLanguageModel
from model.jobs import FinetuneJob
from model.training.checkpoint import Keep, State, finish_run, save_checkpoint, write_job
from tasks.config import DatasetConfig, RowsConfig
from tasks.download.captions import make_captions
from tasks.download.config import DownloadConfig
from tasks.download.fetching import Session
from tasks.download.settings import keep_settings
from tasks.download.shard import download_shard
from tasks.extract.feature_manifest import write_feature_manifest
from tasks.extract.shard import extract_shard
from tasks.rows.manifest import list_shards, make_manifest
from tasks.storage.paths import run_folder
from tasks.storage.root import Root
from tasks.world.scenes import COLOURS, SHAPES, render_scene
from tests.toy import TINY

DATASET, SPLIT, NAME = "drawn", "test", "drawn/test"
RUN = "finetune-aa11"
PICTURES = 8
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "and", "left", "of", *COLOURS, *SHAPES]
ENCODER = TINY.model_copy(update={"max_text_tokens": 16, "max_positions": 32})
_PACKAGED = Path(tasks.world.__file__).parent
EXTRACTOR = ExtractorConfig(
    backend="torchvision",
    model="small",
    weights=str(_PACKAGED / "detector.safetensors"),
    vocabulary=str(_PACKAGED / "vocabulary.txt"),
    max_regions=6,
    num_proposals=32,
    device="cpu",
)


def make_searchable(folder: Path) -> Root:
    """Eight pictures of two captions each, in three shards, and a complete finetuning run that reads their features.

    The first caption of every picture names its objects; the second one is `a red circle` for all.
    """
    root = Root(str(folder / "root"))
    dataset = DatasetConfig(name=DATASET, splits={SPLIT: _draw(folder / "pictures")}, shard_size=6)
    download = DownloadConfig(threads=1)
    make_manifest(root, dataset, SPLIT)
    keep_settings(root, dataset, SPLIT, download)
    with Session(dataset, SPLIT, download) as session:
        for ref in list_shards(root, dataset, SPLIT):
            download_shard(root, dataset, ref, session)
            extract_shard(root, ref, EXTRACTOR)
    make_captions(root, dataset, SPLIT)
    manifest = write_feature_manifest(root, DATASET, SPLIT, EXTRACTOR)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    add_run(root, RUN, folder / "vocab.txt", manifest.extractor)
    return root


def add_run(
    root: Root,
    name: str,
    vocabulary_path: Path,
    extractor: str,
    seed: int = 0,
    num_labels: int = len(COLOURS) * len(SHAPES),
) -> None:
    """A complete finetuning run of new weights."""
    run = Path(root.path(run_folder(name)))
    vocabulary = load_vocabulary(vocabulary_path)
    torch.manual_seed(seed)
    settings = ENCODER.model_dump(mode="json")
    model = VisionLanguageModel(vocabulary.size, 128, num_labels, vocabulary.sep_id, settings, extractor)
    source = FeatureSource(features_path="elsewhere", captions_path="elsewhere", name="drawn/train")
    write_job(
        run,
        FinetuneJob(
            run_path=str(run),
            train=source,
            vocabulary_path=str(vocabulary_path),
            encoder=ENCODER,
            finetune=FinetuneConfig(seed=seed, start="scratch"),
        ),
    )
    finish_run(run, save_checkpoint(run, State(step=7), model, vocabulary.words, {}, Keep()), Keep())


def _draw(folder: Path) -> RowsConfig:
    folder.mkdir(parents=True)
    rows = []
    for number in range(PICTURES):
        scene = render_scene(np.random.default_rng(number), 2, 4)
        scene.image.save(folder / f"{number}.jpg", quality=92)
        objects = " and ".join(f"a {thing.colour} {thing.shape}" for thing in scene.objects)
        rows += [(objects, f"{number}.jpg"), ("a red circle", f"{number}.jpg")]
    with (folder / "rows.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("caption", "file"), *rows])
    return RowsConfig(rows=str(folder / "rows.csv"), url_column="file", images=str(folder))
