"""The settings that a split's images were made with.

A folder never mixes images of two settings unnoticed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import Field

from feature_extraction.identity import identity_of
from tasks.config import DatasetConfig, RowsConfig
from tasks.download.config import DownloadConfig
from tasks.errors import UserError
from tasks.records import Record
from tasks.storage.paths import download_settings_path
from tasks.storage.root import Root


class DownloadSettings(Record):
    """The content of a split's download.json."""

    settings: dict[str, Any] = Field(description="shard_size, and the identity of the DownloadConfig")
    source: RowsConfig = Field(description="where the rows came from; they may lie elsewhere later")


def result_settings(config: DownloadConfig) -> dict[str, Any]:
    """The fields of a config that decide what is downloaded, as JSON."""
    return identity_of(config)


def check_settings(root: Root, dataset: DatasetConfig, split: str, config: DownloadConfig) -> None:
    """Refuse to continue a split whose images were begun under other settings.

    Raises:
        UserError: names every difference.
    """
    begun = root.read_model(download_settings_path(dataset.name, split), DownloadSettings)
    if begun is None:
        return
    wanted = _settings(dataset, config)
    differences = [
        f"{name}={_said(begun.settings, name)} then, {_said(wanted, name)} now"
        for name in sorted(begun.settings.keys() | wanted.keys())
        if begun.settings.get(name) != wanted.get(name)
    ]
    if differences:
        raise UserError(
            f"images of {dataset.name}/{split} under {root.uri} were begun with other settings: "
            f"{'; '.join(differences)}. Give the same again, or another --root, or --accept-changes to download anew "
            "what they change"
        )


def keep_settings(root: Root, dataset: DatasetConfig, split: str, config: DownloadConfig) -> None:
    """Record the settings of a split's images from now on."""
    settings = DownloadSettings(settings=_settings(dataset, config), source=dataset.rows_config(split))
    path = download_settings_path(dataset.name, split)
    if root.read_model(path, DownloadSettings) != settings:
        root.publish_model(path, settings)


def begun_splits(root: Root) -> dict[tuple[str, str], DownloadSettings]:
    """(dataset, split) of every download of images begun under a root, with its settings."""
    return {
        (dataset, split): found
        for dataset in root.names("datasets")
        for split in root.names(f"datasets/{dataset}")
        if root.exists(path := download_settings_path(dataset, split))  # A stray file there is no folder.
        and (found := root.read_model(path, DownloadSettings)) is not None
    }


def nothing_begun(root: Root) -> UserError:
    """The error where nothing was downloaded."""
    return UserError(
        f"nothing was downloaded under {root.uri} yet; run unicoder-vl download with --rows FILE, --recipe NAME or "
        "--params FILE.json"
    )


def begun_datasets(root: Root, only: Collection[str] | None) -> tuple[list[DatasetConfig], dict[str, Any]]:
    """What has been downloaded under a root: its datasets, and the settings (`result_settings`) that they share.

    Args:
        root: where to look.
        only: `dataset/split` names; None: all.

    Raises:
        UserError: there is nothing, or nothing of such a name; or splits were begun with different settings.
    """
    begun = begun_splits(root)
    if not begun:
        raise nothing_begun(root)
    if only is not None:
        known = [f"{dataset}/{split}" for dataset, split in begun]
        for name in only:
            if name not in known:
                raise UserError(f"there is no split {name!r} under {root.uri}; known are {', '.join(known)}")
        begun = {(dataset, split): found for (dataset, split), found in begun.items() if f"{dataset}/{split}" in only}
    (name, split), first = next(iter(begun.items()))
    for (other_name, other_split), other in begun.items():
        if other.settings != first.settings:
            raise UserError(
                f"{name}/{split} and {other_name}/{other_split} under {root.uri} were begun with different settings; "
                "choose among them with --only DATASET/SPLIT"
            )
    settings = dict(first.settings)
    shard_size = settings.pop("shard_size")
    datasets = [
        DatasetConfig(
            name=dataset,
            splits={split: begun[name, split].source for name, split in begun if name == dataset},
            shard_size=shard_size,
        )
        for dataset in dict.fromkeys(dataset for dataset, _ in begun)
    ]
    return datasets, settings


def _settings(dataset: DatasetConfig, config: DownloadConfig) -> dict[str, Any]:
    return {"shard_size": dataset.shard_size, **result_settings(config)}


def _said(settings: dict[str, Any], name: str) -> str:
    return repr(settings[name]) if name in settings else "absent"
