"""The settings that a split's images were made with: a folder of images never mixes two of them unnoticed."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tasks.config import DatasetConfig, DownloadConfig
from tasks.errors import UserError
from tasks.records import Record
from tasks.storage import Root, download_settings_path

# The settings that decide which images a shard holds and what their bytes are. The others (threads, time limits,
# retries, user agent, success floor) decide how the work is done: changing one makes no shard stale.
RESULT_SETTINGS = frozenset(
    {
        "max_bytes",
        "max_redirects",
        "max_pixels",
        "min_side",
        "short_side",
        "jpeg_quality",
        "opt_out_directives",
        "robots_txt",
        "allow_private_addresses",
    }
)


class DownloadSettings(Record):
    """The content of a split's download.json."""

    settings: dict[str, Any] = Field(description="shard_size, and the RESULT_SETTINGS")


def result_settings(config: DownloadConfig) -> dict[str, Any]:
    """Those fields of a config that decide what is downloaded, as JSON."""
    return config.model_dump(mode="json", include=set(RESULT_SETTINGS))


def check_settings(root: Root, dataset: DatasetConfig, split: str, config: DownloadConfig) -> None:
    """Refuse to go on with a split under settings that make other images than it was begun with.

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
    """Note what a split's images are made with, from now on."""
    settings = DownloadSettings(settings=_settings(dataset, config))
    path = download_settings_path(dataset.name, split)
    if root.read_model(path, DownloadSettings) != settings:
        root.publish_model(path, settings)


def _settings(dataset: DatasetConfig, config: DownloadConfig) -> dict[str, Any]:
    return {"shard_size": dataset.shard_size, **result_settings(config)}


def _said(settings: dict[str, Any], name: str) -> str:
    return repr(settings[name]) if name in settings else "absent"
