"""The pictures of a split with features, by key: original file, stored JPEG, regions."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from feature_extraction.samples.regions import RegionSample, decode_regions
from tasks.download.settings import DownloadSettings
from tasks.errors import UserError
from tasks.features.lookup import read_pictures, read_record
from tasks.records import ShardRef
from tasks.rows.manifest import read_manifest_shard
from tasks.storage.paths import (
    download_settings_path,
    features_folder,
    image_shard_path,
    manifest_path,
    manifest_receipt_path,
    region_shard_number,
)
from tasks.storage.root import Root

if TYPE_CHECKING:
    from model.data.store import FeatureStore


class StoredPictures:
    """Finds a picture's files on the disk. The feature store knows the place of every key, so no shard is read
    through.
    """

    def __init__(self, root: Root, dataset: str, split: str, store: FeatureStore) -> None:
        self._root, self._dataset, self._split, self._store = root, dataset, split, store

    def has(self, key: str) -> bool:
        """Whether a picture of this key has regions."""
        return bool((self._store.names == _member(key)).any())

    def record(self, key: str) -> bytes:
        """The `.rgn` record of a picture.

        Raises:
            UserError: none has this key.
            ShardError: its shard is damaged.
        """
        shard, position = self._place(key)
        name = self._store.manifest.shards[shard].name
        folder = features_folder(self._store.manifest.extractor, self._dataset, self._split)
        with self._root.open(f"{folder}/{name}") as stream:
            return read_record(stream, name, self._store.layout, position)[1]

    def regions(self, key: str) -> RegionSample:
        """The regions of a picture. Raises as `record`."""
        return decode_regions(key, self.record(key))

    def jpeg(self, key: str) -> bytes | None:
        """The stored picture; None where its shard was removed, as some users clear the disk of images.

        Raises:
            UserError: none has this key.
            ShardError: its shard is damaged.
        """
        return read_pictures(self._root, self._dataset, self._split, {self._image_shard(key): [key]}).get(key)

    def path(self, key: str) -> str:
        """The file or URL in the manifest; without a manifest, the image shard and its member.

        Raises:
            UserError: none has this key; or the manifest is damaged.
        """
        if not self._has_manifest:
            shard = image_shard_path(self._dataset, self._split, self._image_shard(key))
            return f"{self._root.path(shard)}/{key}.jpg"
        # A key is the number of its row: as a shard of one row it is read without the rows before it.
        ref = ShardRef(dataset=self._dataset, split=self._split, shard=int(key))
        url = read_manifest_shard(self._root, ref, shard_size=1)[0].url
        return url if self._source_folder is None else f"{self._source_folder}/{url}"

    @cached_property
    def _has_manifest(self) -> bool:
        files = (manifest_path(self._dataset, self._split), manifest_receipt_path(self._dataset, self._split))
        return all(map(self._root.exists, files))

    @cached_property
    def _source_folder(self) -> str | None:
        """The local folder that the pictures came from; None for the web."""
        begun = self._root.read_model(download_settings_path(self._dataset, self._split), DownloadSettings)
        return None if begun is None or begun.source.images is None else begun.source.images.rstrip("/")

    def _image_shard(self, key: str) -> int:
        """The image shard of a picture, which has the number of its feature shard."""
        return region_shard_number(self._store.manifest.shards[self._place(key)[0]].name)

    def _place(self, key: str) -> tuple[int, int]:
        """A picture's feature shard, by its place in the manifest, and the position in it."""
        found = np.flatnonzero(self._store.names == _member(key))
        if not len(found):
            raise UserError(f"{self._dataset}/{self._split} has no regions of a picture {key}; give another key")
        shard_of = self._store.shard_of
        shard = int(shard_of[found[0]])
        return shard, int(found[0] - np.searchsorted(shard_of, shard))


def _member(key: str) -> bytes:
    """A picture's member name in a feature shard."""
    return f"{key}.rgn".encode()
