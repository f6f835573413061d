"""A run's identity: all that its weights depend on, kept with every checkpoint, so that no run resumes as another."""

from __future__ import annotations

from typing import Any

from model.data.captions import Captions
from model.data.store import FeatureStore
from model.errors import InputError
from model.training.checkpoint import Checkpoint, differences


def data_identity(store: FeatureStore, captions: Captions) -> dict[str, Any]:
    """Digests of the features (of their manifest, which holds those of the shards) and of their captions."""
    return {"features": store.manifest_sha256, "captions": captions.digest}


def check_resumable(checkpoint: Checkpoint, identity: dict[str, Any]) -> None:
    """Raise InputError, naming every difference, unless the checkpoint's run has this identity."""
    if found := differences(checkpoint.state().identity, identity):
        raise InputError(
            f"{checkpoint.path} belongs to another run: {'; '.join(found)}; "
            "restore the old values, or start a new run in another folder"
        )
