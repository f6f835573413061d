"""A picture on a disk to the record that it would have in a feature shard: upright JPEG, regions, encoding.

The detector and its settings are those that the feature set was made with: a score depends on them as on the weights.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tasks.world
from feature_extraction.config import ExtractorConfig
from feature_extraction.identity import in_identity
from feature_extraction.samples.images import ImageSample
from feature_extraction.samples.manifest import FeatureManifest
from feature_extraction.samples.regions import encode_regions
from tasks.download.config import DownloadConfig
from tasks.download.pictures.images import PictureError, accept_picture
from tasks.download.settings import DownloadSettings
from tasks.errors import UserError
from tasks.extract.shard import load_on_device
from tasks.extractor import extractor_fingerprint
from tasks.storage.digests import file_sha256
from tasks.storage.paths import download_settings_path
from tasks.storage.root import Root

if TYPE_CHECKING:
    from feature_extraction.detectors.interface import Detector

log = logging.getLogger("tasks.search")

_PACKAGED_WEIGHTS = Path(tasks.world.__file__).parent / "detector.safetensors"


@dataclass(frozen=True)
class DetectorFiles:
    """Files of the detector that a feature set knows by their digests only. None: it needs none, or the demo's."""

    weights: str | None = None
    config: str | None = None


def picture_settings(root: Root, dataset: str, split: str) -> DownloadConfig:
    """What the pictures of a split were made with, such as their shorter side."""
    begun = root.read_model(download_settings_path(dataset, split), DownloadSettings)
    settings = {} if begun is None else begun.settings
    return DownloadConfig.model_validate(
        {name: settings[name] for name in settings.keys() & in_identity(DownloadConfig)}
    )


class PictureDetector:
    """Finds regions in pictures as those of a feature set were found. The detector is loaded for the first one."""

    def __init__(self, manifest: FeatureManifest, settings: DownloadConfig, files: DetectorFiles, device: str) -> None:
        """
        Args:
            manifest: of the feature set.
            settings: of the pictures, see `picture_settings`.
            files: of the detector.
            device: cpu or cuda:N.
        """
        self._manifest, self._settings, self._files, self._device = manifest, settings, files, device
        self._loaded: tuple[ExtractorConfig, Detector] | None = None

    def read(self, path: Path) -> tuple[bytes, bytes]:
        """The upright JPEG of a picture file of any common form, and its `.rgn` record.

        Raises:
            UserError: the file is no picture for us; or the detector is not here, or is not the feature set's.
            ShardError: its regions cannot be stored in the feature set's encoding.
        """
        try:
            jpeg, size = accept_picture(path.read_bytes(), self._settings)
        except OSError as error:
            raise UserError(f"picture {path} cannot be read ({error.strerror}); give another one") from error
        except PictureError as error:
            raise UserError(f"{path} is no picture to search with ({error.detail}); give another one") from error
        from feature_extraction.extract import ExtractFailure, extract_regions

        with _own_threads():
            if self._loaded is None:
                self._loaded = self._load()
            config, detector = self._loaded
            sample = ImageSample(key="", caption="", url="", size=size, sha256="", jpeg=jpeg)
            try:
                (found,) = extract_regions([sample], detector, config)
            except ValueError as error:
                raise UserError(f"no regions of {path}: {error}") from error
        if isinstance(found, ExtractFailure):
            raise UserError(f"{path} is no picture to search with ({found.detail}); give another one")
        return jpeg, encode_regions(found, self._manifest.layout)

    def _load(self) -> tuple[ExtractorConfig, Detector]:
        import torch

        with tempfile.TemporaryDirectory(prefix="labels-") as folder:
            config = extractor_config(self._manifest, self._files, Path(folder)).model_copy(
                update={"device": self._device, "batch_size": 1}
            )
            _check_same(config, self._manifest.extractor_details)
            return config, load_on_device(config, num_cores=torch.get_num_threads())


def extractor_config(manifest: FeatureManifest, files: DetectorFiles, folder: Path) -> ExtractorConfig:
    """The settings that features were extracted with, from what their manifest says of them.

    Args:
        manifest: of the features.
        files: what the manifest knows by digest.
        folder: where its label names are written for the detector to read.

    Raises:
        UserError: the features were imported, or a file is to be named.
    """
    details: dict[str, Any] = manifest.extractor_details
    if "config" not in details:
        raise UserError(
            "these features were imported, so no detector here finds regions of new pictures as theirs were found; "
            "search with the key of a picture that has features"
        )
    fields: dict[str, Any] = dict(details["config"])
    if isinstance(fields["model"], dict):
        if files.config is None:
            raise UserError(
                "the detector of these features is a config file, known by its digest only; name it with "
                "--detector-config FILE"
            )
        fields["model"] = files.config
    if details["weights_sha256"] is not None:
        fields["weights"] = files.weights or _packaged_weights(details["weights_sha256"])
    elif "weights" in details:
        fields["weights"] = details["weights"]
    if details["vocabulary_sha256"] is not None:
        names = folder / "labels.txt"
        names.write_text("\n".join(manifest.labels) + "\n", encoding="utf-8")
        fields["vocabulary"] = str(names)
    return ExtractorConfig.model_validate(fields)


def _packaged_weights(sha256: str) -> str:
    if file_sha256(str(_PACKAGED_WEIGHTS), "the detector of the demo") != sha256:
        raise UserError(
            "the features know the weights of their detector by digest only; name the file with --detector-weights FILE"
        )
    return str(_PACKAGED_WEIGHTS)


def _check_same(config: ExtractorConfig, expected: dict[str, Any]) -> None:
    """Raise UserError unless this is the detector of these details; warn where only its packages' versions differ."""
    _, found = extractor_fingerprint(config)
    for name, file in (("weights_sha256", config.weights), ("config", config.model)):
        if found[name] != expected[name]:
            raise UserError(f"{file} is not what these features were extracted with; name the file that they were")
    if found != expected:
        now, then = (
            ", ".join(f"{package} {version}" for package, version in details["versions"].items())
            for details in (found, expected)
        )
        log.warning("regions are found with %s, but those of the features were with %s", now, then)


@contextmanager
def _own_threads() -> Iterator[None]:
    """Let a detector choose torch's number of threads, and give back what it was."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
