"""Paths of everything under a root."""

from __future__ import annotations


def split_folder(dataset: str, split: str) -> str:
    return f"datasets/{dataset}/{split}"


def manifest_path(dataset: str, split: str) -> str:
    return f"{split_folder(dataset, split)}/manifest.parquet"


def manifest_receipt_path(dataset: str, split: str) -> str:
    return f"{split_folder(dataset, split)}/manifest.json"


def captions_path(dataset: str, split: str) -> str:
    return f"{split_folder(dataset, split)}/captions.parquet"


def captions_receipt_path(dataset: str, split: str) -> str:
    return f"{split_folder(dataset, split)}/captions.json"


def examples_path(dataset: str, split: str) -> str:
    """Of a task's table of examples."""
    return f"{split_folder(dataset, split)}/examples.parquet"


def examples_receipt_path(dataset: str, split: str) -> str:
    return f"{split_folder(dataset, split)}/examples.json"


def image_shard_path(dataset: str, split: str, shard: int) -> str:
    return f"{split_folder(dataset, split)}/images/images-{shard:05d}.tar"


def outcomes_path(dataset: str, split: str, shard: int) -> str:
    return f"{split_folder(dataset, split)}/images/outcomes-{shard:05d}.parquet"


def image_receipt_path(dataset: str, split: str, shard: int) -> str:
    return f"{split_folder(dataset, split)}/images/images-{shard:05d}.json"


def journal_path(dataset: str, split: str, shard: int) -> str:
    return f"{split_folder(dataset, split)}/journal/{shard:05d}.journal"


def download_settings_path(dataset: str, split: str) -> str:
    return f"{split_folder(dataset, split)}/download.json"


def text_settings_path(dataset: str, split: str) -> str:
    return f"{split_folder(dataset, split)}/text.json"


def text_folder(dataset: str, split: str) -> str:
    """The folder of a text corpus: its shards, their receipts, and manifest.json, written last."""
    return f"{split_folder(dataset, split)}/text"


def text_manifest_path(dataset: str, split: str) -> str:
    return f"{text_folder(dataset, split)}/manifest.json"


def text_receipt_path(dataset: str, split: str, shard: int) -> str:
    return f"{text_folder(dataset, split)}/text-{shard:05d}.json"


def features_folder(extractor: str, dataset: str, split: str) -> str:
    """The folder of an extractor's features, named by its fingerprint's first twelve digits."""
    return f"features/{extractor[:12]}/{dataset}/{split}"


def extractor_path(extractor: str) -> str:
    return f"features/{extractor[:12]}/extractor.json"


def region_shard_name(shard: int) -> str:
    return f"regions-{shard:05d}.tar"


def region_shard_number(name: str) -> int:
    """Invert `region_shard_name`."""
    return int(name.removeprefix("regions-").removesuffix(".tar"))


def region_receipt_name(shard: int) -> str:
    return f"regions-{shard:05d}.json"


def failed_regions_name(shard: int) -> str:
    return f"failed-{shard:05d}.parquet"


def feature_manifest_path(extractor: str, dataset: str, split: str) -> str:
    return f"{features_folder(extractor, dataset, split)}/manifest.json"


def inspection_page_path(dataset: str, split: str) -> str:
    return f"inspect-{dataset}-{split}.html"


CACHE = "cache"
"""Folder, under a local root or its `tasks.storage.local_copy`, of what is derived from captions and features so
that a run starts at once. It can be removed while no run uses it."""


def run_folder(run: str) -> str:
    return f"runs/{run}"


def scores_folder(evaluation: str) -> str:
    return f"scores/{evaluation}"


def sweep_path(name: str, suffix: str) -> str:
    return f"sweeps/{name}.{suffix}"


HISTORY = "history.jsonl"


REPORT = "report.html"
