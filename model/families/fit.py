"""Check that a model, its features and its captions' vocabulary belong together."""

from __future__ import annotations

from model.data.store import FeatureStore
from model.data.tokenizer import Vocabulary
from model.data.word_pieces import differing_words
from model.errors import InputError
from model.families.model import VisionLanguageModel


def check_features(model: VisionLanguageModel, store: FeatureStore, name: str) -> None:
    """Raise InputError unless width, classes, number and extractor of the features are the model's.

    Args:
        name: what to call the model, such as its checkpoint.
    """
    manifest = store.manifest
    assert store.adaptive_regions == model.config.adaptive_regions, "opened for another encoder"
    if model.feature_dim != manifest.feature_dim or model.num_labels != len(manifest.labels):
        raise InputError(
            f"{name} reads {model.feature_dim}-wide features and {model.num_labels} labels, but "
            f"{store.folder} has {manifest.feature_dim} and {len(manifest.labels)}; extract with the same detector"
        )
    if model.config.max_regions > manifest.max_regions:
        raise InputError(
            f"{name} reads up to {model.config.max_regions} regions an image, but {store.folder} holds at most "
            f"{manifest.max_regions}; extract with max_regions={model.config.max_regions}, or train anew with "
            f"encoder.max_regions={manifest.max_regions}"
        )
    if model.extractor != manifest.extractor:
        raise InputError(
            f"{name} was trained on features of extractor {model.extractor[:12]}, but {store.folder} comes from "
            f"{manifest.extractor[:12]}; features of different extractors do not mix: extract with the same one"
        )


def check_matching(model: VisionLanguageModel, name: str) -> None:
    """Raise InputError unless the model says whether an image and a caption match.

    Args:
        name: what to call the model, such as its checkpoint.
    """
    if not model.heads.keys() & {"matching", "itm"}:
        raise InputError(
            f"{name} has no matching head, for it was pretrained without the objective vlm or itm, so it ranks "
            "nothing; finetune it first, or pretrain with pretrain.objectives.vlm or itm"
        )


def check_vocabulary(model: VisionLanguageModel, vocabulary: Vocabulary, name: str) -> None:
    """Raise InputError unless the model has exactly one embedding for each word piece."""
    if model.vocab_size != vocabulary.size:
        raise InputError(
            f"{name} has embeddings of {model.vocab_size} word pieces, but the vocabulary has {vocabulary.size}; "
            "use the vocabulary that it was trained with"
        )


def check_same_words(own: Vocabulary, given: Vocabulary, name: str) -> None:
    """Raise InputError unless a checkpoint's vocabulary is the given one: the same pieces, cut by the same rules.

    Args:
        own: the checkpoint's.
        given: the job's.
        name: what to call the checkpoint.
    """
    difference = differing_words(own.words, given.words)
    if difference is not None:
        raise InputError(
            f"{name} was trained with another vocabulary than {given.words.source} ({difference}); set vocabulary_path "
            "to its own, which is its folder"
        )
