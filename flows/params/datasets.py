"""Datasets that papers report retrieval on: pictures on disk, Karpathy's splits, and the protocols in use.

Whatever else lies in a folder with captions is a `DatasetConfig` of your own, in a --params file.
"""

from __future__ import annotations

from typing import NamedTuple

from model.downstream.retrieval.config import RecallProtocol
from tasks.config import DatasetConfig, RowsConfig


class RetrievalData(NamedTuple):
    """A dataset to finetune and to measure on, and the test images over which recall is measured."""

    dataset: DatasetConfig
    protocols: tuple[RecallProtocol, ...]


def _karpathy(name: str, images: str) -> DatasetConfig:
    """Karpathy's dataset_NAME.json and the folder of pictures beside it, below the working directory."""
    rows = RowsConfig(rows=f"dataset_{name}.json", images=images)
    return DatasetConfig(name=name, splits=dict.fromkeys(("train", "val", "test"), rows))


FLICKR30K = RetrievalData(_karpathy("flickr30k", "flickr30k-images"), ("all",))
"""29,000 images to train on, 1,014 to validate, 1,000 with 5,000 captions to test."""

FLICKR8K = RetrievalData(_karpathy("flickr8k", "Flicker8k_Dataset"), ("all",))
"""6,000, 1,000 and 1,000 images; the folder is spelt as its archive spells it."""

COCO = RetrievalData(_karpathy("coco", "coco"), ("all", "folds:1000", "first:1000"))
"""113,287 images to train on (restval is among them), 5,000 to validate, 5,000 with 25,010 captions to test.

The folder has train2014/ and val2014/ below it. Recall over all is "COCO 5K". "COCO 1K" is five folds of 1,000 images,
averaged, since VSE++; Unicoder-VL does not say whether it did so or took the first 1,000, so both are measured.
"""
