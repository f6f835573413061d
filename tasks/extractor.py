"""An extractor's fingerprint over all that decides its features, and the record beside them. No torch."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from feature_extraction.config import RANDOM_WARNING, ExtractorConfig
from feature_extraction.detectors.vocabulary import read_vocabulary
from tasks.errors import UserError
from tasks.records import Record, fingerprint
from tasks.storage.digests import file_sha256, weights_sha256

_PACKAGES = {"torchvision": ("torch", "torchvision"), "detectron2": ("torch", "torchvision", "detectron2")}


class ExtractorRecord(Record):
    """The settings and the detector behind a folder of features, written before its first shard."""

    fingerprint: str
    details: dict[str, Any]
    feature_dim: int
    labels: tuple[str, ...]


def extractor_fingerprint(config: ExtractorConfig) -> tuple[str, dict[str, Any]]:
    """The fingerprint of all that decides a feature shard's bytes, beside its images. Imports no torch.

    Files count by their content, so moving the weights changes nothing; weights at a URL count by its text. Versions
    are without their local part (`+cpu`), so a training machine with another build of torch finds the features of the
    extracting one.

    Returns:
        The fingerprint, and the details that it is the hash of.

    Raises:
        UserError: weights or vocabulary cannot be read, or the backend's package is not installed.
    """
    if config.backend == "imported":
        return config.model, {"imported": config.model}
    details: dict[str, Any] = {
        "format": config.format,
        "config": config.fingerprinted(),
        "weights_sha256": None,
        "vocabulary_sha256": None,
        "versions": {package: _version(package) for package in _PACKAGES[config.backend]},
    }
    if config.random_seed is not None:
        details["weights"] = f"random:{config.random_seed}"
        details["warning"] = RANDOM_WARNING
    elif config.weights is not None and "://" in config.weights:
        details["weights"] = config.weights
    elif config.weights is not None:
        details["weights_sha256"] = weights_sha256(config.weights, "extractor.weights")
    if config.vocabulary is not None:
        try:
            names = read_vocabulary(Path(config.vocabulary))
        except ValueError as error:
            raise UserError(f"extractor.vocabulary: {error}") from error
        details["vocabulary_sha256"] = hashlib.sha256("\n".join(names).encode()).hexdigest()
    if Path(config.model).is_file():
        details["config"]["model"] = {"sha256": _model_file_sha256(Path(config.model))}
    return fingerprint(details), details


def _model_file_sha256(path: Path) -> str:
    """Digest of a Detectron2 config file and of the files it builds on by `_BASE_`."""
    digests = []
    seen: set[Path] = set()
    while path not in seen:
        seen.add(path)
        digests.append(file_sha256(str(path), "extractor.model"))
        base = re.search(rb"^_BASE_:\s*[\"']?(.+?)[\"']?\s*$", path.read_bytes(), re.MULTILINE)
        if base is None:
            break
        path = path.parent / base.group(1).decode()
    return hashlib.sha256("".join(digests).encode()).hexdigest()


@cache
def _version(package: str) -> str:
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError as error:
        if package == "detectron2":
            from feature_extraction.detectors.detectron2_network import DETECTRON2_MISSING

            raise UserError(DETECTRON2_MISSING) from error
        raise UserError(f"package {package} is not installed; install this project with its dependencies") from error
    version = distribution.version.partition("+")[0]
    # Every commit of Detectron2 calls itself 0.6; pip and uv note which one it was.
    commit = re.search(r'"commit_id":\s*"([0-9a-f]+)"', distribution.read_text("direct_url.json") or "")
    return f"{version}@{commit.group(1)}" if commit else version
