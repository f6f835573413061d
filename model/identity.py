"""What a run's weights depend on, kept with every checkpoint, so that no run goes on as another one than it began."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from model.checkpoint import Checkpoint
from model.data import Captions, FeatureStore
from model.errors import InputError

_DIGEST_SHOWN = 12


def data_identity(store: FeatureStore, captions: Captions) -> dict[str, Any]:
    """Digests of the features (of their manifest, which holds those of the shards) and of the captions with them."""
    return {"features": store.manifest_sha256, "captions": captions.digest}


def check_resumable(checkpoint: Checkpoint, identity: dict[str, Any]) -> None:
    """Raise InputError, naming every difference, unless the checkpoint is of a run of this identity."""
    then, now = dict(_flat(checkpoint.state().identity)), dict(_flat(identity))
    differences = [
        f"{name} was {_shown(then.get(name))}, is {_shown(now.get(name))}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    if differences:
        raise InputError(
            f"{checkpoint.path} belongs to another run: {'; '.join(differences)}; "
            "restore the old values, or start a new run in another folder"
        )


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) < 64 else text[:_DIGEST_SHOWN]
