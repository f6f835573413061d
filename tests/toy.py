"""A small feature set on disk, written through the real format: labels can be read off the features and the words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_extraction.samples.manifest import FeatureManifest, ShardEntry
from feature_extraction.samples.regions import Encoding, RegionLayout, RegionSample, encode_regions
from feature_extraction.samples.tars import write_tar
from model.config import FeatureSource
from model.families.unicoder_vl_config import UnicoderVLConfig

WORDS = ["red", "blue", "green", "cat", "dog", "bird", "tree", "car"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
TINY = UnicoderVLConfig(
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    intermediate_size=64,
    max_positions=16,
    max_text_tokens=8,
    max_regions=4,
    initializer_range=0.1,
    dropout=0.0,
    attention_dropout=0.0,
)


def make_sample(key: str, labels: list[int], dim: int, seed: int) -> RegionSample:
    """One image with these labels; each label has a code of its own in the features."""
    rng = np.random.default_rng(seed)
    codes = np.abs(np.random.default_rng(7).normal(size=(len(WORDS), dim)))
    count = len(labels)
    corner = rng.uniform(0, 50, (count, 2))
    return RegionSample(
        key=key,
        size=(100, 80),
        boxes=np.concatenate([corner, corner + rng.uniform(5, 30, (count, 2))], 1).astype(np.float32),
        labels=np.array(labels, np.int16),
        scores=np.sort(rng.uniform(0.5, 0.9, count).astype(np.float32))[::-1].copy(),
        background=np.full(count, 0.05, np.float32),
        features=(codes[labels].reshape(count, dim) + 0.1 * np.abs(rng.normal(size=(count, dim)))).astype(np.float32),
    )


def with_class_scores(sample: RegionSample, seed: int, kept: int | None = None) -> RegionSample:
    """The sample with a distribution over the words' classes a region, its label the likeliest; or its `kept` best."""
    powers = np.random.default_rng(seed).gamma(0.3, size=(len(sample.labels), len(WORDS)))
    powers[np.arange(len(powers)), sample.labels] += 2
    shares = powers / powers.sum(axis=1, keepdims=True) * (1 - sample.background[:, None])
    if kept is None:
        whole = np.concatenate([sample.background[:, None], shares], axis=1).astype(np.float32)
        return replace(sample, class_scores=whole)
    order = np.argsort(-shares, axis=1)[:, :kept]
    best = np.take_along_axis(shares, order, axis=1).astype(np.float32)
    return replace(sample, top_labels=order.astype(np.int16), top_scores=best)


def write_feature_set(
    folder: Path,
    samples: list[RegionSample],
    per_shard: int,
    regions: int,
    dim: int,
    encoding: Encoding = "sqrt8",
    labels: Sequence[str] = WORDS,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    top, whole = samples[0].top_labels, samples[0].class_scores
    num_top, num_classes = 0 if top is None else top.shape[1], 0 if whole is None else whole.shape[1] - 1
    layout = RegionLayout(regions, dim, encoding, num_top, num_classes)
    entries = []
    for number, start in enumerate(range(0, len(samples), per_shard)):
        part = samples[start : start + per_shard]
        path = folder / f"regions-{number:05d}.tar"
        with path.open("wb") as stream:
            write_tar(stream, [(f"{sample.key}.rgn", encode_regions(sample, layout)) for sample in part])
        content = path.read_bytes()
        entries.append(
            ShardEntry(
                name=path.name, samples=len(part), bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
            )
        )
    manifest = FeatureManifest(
        format=layout.format,
        max_regions=regions,
        feature_dim=dim,
        encoding=encoding,
        num_top=num_top,
        num_classes=num_classes,
        labels=tuple(labels),
        extractor="e" * 64,
        extractor_details={},
        shards=tuple(entries),
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[..., tuple[FeatureSource, Path]]:
    """make_world(label lists, captions as (image number, text)) -> the source of a split and its vocabulary file."""

    def make(
        labels: list[list[int]],
        captions: list[tuple[int, str]],
        per_shard: int = 3,
        regions: int = 5,
        dim: int = 24,
        name: str = "toy/train",
    ) -> tuple[FeatureSource, Path]:
        folder = tmp_path / name.removesuffix("/train").removeprefix("toy")
        keys = [f"{number:09d}" for number in range(len(labels))]
        samples = [make_sample(key, row, dim, seed) for seed, (key, row) in enumerate(zip(keys, labels, strict=True))]
        write_feature_set(folder / "features", samples, per_shard, regions, dim)
        table = pa.table(
            {
                "caption_id": [f"c{number}" for number in range(len(captions))],
                "image_key": [keys[image] for image, _ in captions],
                "text": [text for _, text in captions],
                "split": ["train"] * len(captions),
            }
        )
        pq.write_table(table, folder / "captions.parquet")
        vocabulary = tmp_path / "vocab.txt"
        vocabulary.write_text("\n".join(VOCABULARY) + "\n")
        source = FeatureSource(
            features_path=str(folder / "features"),
            captions_path=str(folder / "captions.parquet"),
            name=name,
        )
        return source, vocabulary

    return make


@pytest.fixture
def eight_pairs(make_world: Callable[..., tuple[FeatureSource, Path]]) -> tuple[FeatureSource, Path]:
    """Eight images of three objects each, no two alike, and a caption that names the objects."""
    labels = [[i, (i + 1) % 8, (i + 3) % 8] for i in range(8)]
    return make_world(labels, [(i, " ".join(WORDS[label] for label in row)) for i, row in enumerate(labels)])


@pytest.fixture
def tiny() -> UnicoderVLConfig:
    return TINY
