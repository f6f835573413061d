"""The published UNITER program's names of weights, and ours: read its state dicts, and write them.

It stores the word table and the projection of features twice, once more under the head that is tied to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from model.errors import InputError
from model.families.config import HeadConfig, Heads, Sizes
from model.families.heads import ITM, MATCHING
from model.families.model import VisionLanguageModel
from model.families.published_weights import model_of_weights, renamed
from model.families.uniter_config import UniterConfig

_NAMES = {
    "uniter.embeddings.": "bert.embeddings.",
    "uniter.encoder.": "bert.encoder.",
    "uniter.img_embeddings.img_linear.": "bert.region_embeddings.feature.",
    "uniter.img_embeddings.img_layer_norm.": "bert.region_embeddings.feature_norm.",
    "uniter.img_embeddings.pos_linear.": "bert.region_embeddings.location.",
    "uniter.img_embeddings.pos_layer_norm.": "bert.region_embeddings.location_norm.",
    "uniter.img_embeddings.mask_embedding.": "bert.region_embeddings.mask_embedding.",
    "uniter.img_embeddings.LayerNorm.": "bert.region_embeddings.LayerNorm.",
    "uniter.pooler.dense.": "pooler.0.",
    "cls.predictions.": "cls.predictions.",
    "feat_regress.net.0.": "region_features.dense.",
    "feat_regress.net.2.": "region_features.LayerNorm.",
    "feat_regress.bias": "region_features.bias",
    "region_classifier.net.0.": "region_classes.dense.",
    "region_classifier.net.2.": "region_classes.LayerNorm.",
    "region_classifier.net.3.": "region_classes.output.",
    "itm_output.": "itm.",
    "rank_output.": "matching.",
    "vqa_output.0.": "answers.dense.",
    "vqa_output.2.": "answers.LayerNorm.",
    "vqa_output.3.": "answers.output.",
    "vcr_output.0.": "choices.dense.",
    "vcr_output.2.": "choices.LayerNorm.",
    "vcr_output.3.": "choices.output.",
    "re_output.0.": "referred.dense.",
    "re_output.2.": "referred.LayerNorm.",
    "re_output.3.": "referred.output.",
    "re_output.": "referred.",
    "nlvr2_output.": "truth.",
    "attn1.": "pair.left.",
    "attn2.": "pair.right.",
    "fc.0.": "pair.dense.",
    "attn_pool.fc.0.": "pair.score.",
}
"""Theirs and ours, whole names or how they begin: the first that fits, so a longer one comes before a shorter one."""
_TIED = {
    "cls.predictions.decoder.weight": "uniter.embeddings.word_embeddings.weight",
    "feat_regress.weight": "uniter.img_embeddings.img_linear.weight",
}
"""What is stored twice: the copy, and what it is a copy of."""
_WORDS, _POSITIONS, _TYPES, _FEATURE = (
    f"bert.{name}.weight"
    for name in (
        "embeddings.word_embeddings",
        "embeddings.position_embeddings",
        "embeddings.token_type_embeddings",
        "region_embeddings.feature",
    )
)
_LAYER = re.compile(r"bert\.encoder\.layer\.(\d+)\.")
_FEED_FORWARD = "bert.encoder.layer.0.intermediate.dense.weight"
_HEAD_WIDTH = 64
"""Of an attention head in the published models of both sizes; weights do not tell it."""
_SHOWN = 3


def is_official(names: Iterable[str]) -> bool:
    """Whether weights of these names are the published program's."""
    return any(name.startswith("uniter.") for name in names)


def from_official(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Weights of the published program under our names, in f32.

    Args:
        weights: a bare state dict; LayerNorms may have TensorFlow's terms, gamma and beta.
        source: what to call it, such as its file.

    Raises:
        InputError: it is another model's, has a weight that is not known, or the two copies of one are not equal.
    """
    if not is_official(weights):
        seen = next(iter(weights), "nothing")
        raise InputError(
            f"{source} has no weight of UNITER's, whose names begin with uniter., but such as {seen}; name a state "
            "dict that the published program wrote"
        )
    if others := [name for name in weights if name.startswith("bert.")]:
        raise InputError(
            f"{source} has {len(others)} weights of another model beside UNITER's, such as {others[0]}; the published "
            "program would load none of UNITER's from it: save those that begin with uniter. and its heads alone"
        )
    theirs = {_without_old_terms(name): value.float() for name, value in weights.items()}
    for copy, original in _TIED.items():
        if copy in theirs and original in theirs and not torch.equal(theirs[copy], theirs[original]):
            raise InputError(
                f"{source}: {copy} differs from {original}, but UNITER has one weight for both; name a file as the "
                "published program wrote it"
            )
    ours = {name: _our_name(name) for name in theirs if name not in _TIED}
    if unknown := [name for name, own in ours.items() if own is None]:
        raise InputError(
            f"{source} has {len(unknown)} weights that UNITER has no place for, such as {', '.join(unknown[:_SHOWN])}; "
            "leave them out, or name a checkpoint of UNITER's"
        )
    return {own: theirs[name] for name, own in ours.items() if own is not None}


def to_official(model: VisionLanguageModel) -> dict[str, Tensor]:
    """The model's weights under the published program's names, tied ones twice.

    Raises:
        InputError: it has a head that the program has none for.
    """
    weights = {}
    for name, value in model.state_dict().items():
        if (theirs := their_name(name)) is None:
            known = sorted({own.partition(".")[0] for own in _NAMES.values()} - {"bert", "pooler"})
            raise InputError(
                f"head {name.partition('.')[0]!r} has no name in UNITER's program, which knows {', '.join(known)}; "
                "export a checkpoint without it"
            )
        weights[theirs] = value
    heads = {"cls.predictions.decoder.weight": "cls", "feat_regress.weight": "region_features"}
    return weights | {copy: weights[original].clone() for copy, original in _TIED.items() if heads[copy] in model.heads}


def official_model(
    weights: Mapping[str, Tensor],
    source: str,
    sep_id: int,
    extractor: str = "",
    num_heads: int | None = None,
    num_labels: int | None = None,
    max_regions: int | None = None,
) -> VisionLanguageModel:
    """A model of the published program's weights; sizes and heads are what these weights have.

    Args:
        num_heads: of attention. None: one for every 64 of the hidden width, as in both published sizes.
        num_labels: C, the detector's classes. None: those of the region classifier; 0 where there is none.
        max_regions: best-scored regions read of an image. None: 100.

    Raises:
        InputError: as `from_official`; or weights are missing, or do not fit each other.
    """
    ours = from_official(weights, source)
    if missing := [name for name in (_WORDS, _POSITIONS, _TYPES, _FEATURE, _FEED_FORWARD) if name not in ours]:
        raise InputError(f"{source} lacks {their_name(missing[0])}; name a whole checkpoint of UNITER's")
    hidden_size, feature_dim = ours[_FEATURE].shape
    heads = _heads(ours, hidden_size)
    classes = heads["region_classes"].width - 1 if "region_classes" in heads else None
    if None not in (classes, num_labels) and classes != num_labels:
        raise InputError(
            f"{source} tells {classes} classes of regions apart, but these features have {num_labels} labels; use the "
            "features of the detector that it was trained with"
        )
    num_labels = num_labels or classes or 0
    defaults = UniterConfig.model_fields
    encoder = UniterConfig(
        hidden_size=hidden_size,
        num_layers=1 + max(int(layer[1]) for name in ours if (layer := _LAYER.match(name)) is not None),
        num_heads=num_heads or max(1, hidden_size // _HEAD_WIDTH),
        intermediate_size=len(ours[_FEED_FORWARD]),
        max_positions=len(ours[_POSITIONS]),
        max_text_tokens=min(defaults["max_text_tokens"].default, len(ours[_POSITIONS]) - 1),
        type_rows=len(ours[_TYPES]),
        max_regions=max_regions or defaults["max_regions"].default,
    )
    sizes = Sizes(len(ours[_WORDS]), feature_dim, num_labels)
    return model_of_weights(ours, sizes, sep_id, encoder, heads, extractor, their_name, source, "UNITER")


def _heads(ours: Mapping[str, Tensor], hidden_size: int) -> Heads:
    """The heads that weights under our names are of."""
    heads: Heads = {}
    if "cls.predictions.bias" in ours:
        heads["cls"] = HeadConfig(kind="words", width=len(ours["cls.predictions.bias"]))
    if "region_features.bias" in ours:
        heads["region_features"] = HeadConfig(kind="features", width=len(ours["region_features.bias"]))
    if "region_classes.output.bias" in ours:
        heads["region_classes"] = HeadConfig(kind="mlp", width=len(ours["region_classes.output.bias"]))
    if "itm.bias" in ours:
        heads |= ITM
    if "matching.bias" in ours:
        heads |= MATCHING
    for name in ("answers", "choices", "referred"):
        if f"{name}.output.bias" in ours:
            inner, inputs = (size // hidden_size for size in ours[f"{name}.dense.weight"].shape)
            heads[name] = HeadConfig(
                kind="mlp",
                width=len(ours[f"{name}.output.bias"]),
                inputs=inputs,
                inner=inner,
                activation="relu" if name == "choices" else "gelu",
            )
    for name in ("referred", "truth"):
        if f"{name}.bias" in ours:
            width, inputs = ours[f"{name}.weight"].shape
            heads[name] = HeadConfig(kind="linear", width=width, inputs=inputs // hidden_size)
    if "pair.score.bias" in ours:
        heads["pair"] = HeadConfig(kind="pair", width=2 * hidden_size)
    return heads


def _without_old_terms(name: str) -> str:
    """The name with torch's terms for TensorFlow's."""
    return re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))


def _our_name(name: str) -> str | None:
    return renamed(name, _NAMES)


def their_name(name: str) -> str | None:
    return renamed(name, {ours: theirs for theirs, ours in _NAMES.items()})
