"""The published VL-BERT program's names of weights, and ours: read its state dicts, and write them.

It stores the word table twice, once more under the head that is tied to it. Its end-to-end checkpoints hold a
convolutional network, twice in part, which has no place here: regions come with their features.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from model.errors import InputError
from model.families.config import HeadConfig, Heads, Sizes
from model.families.heads import ITM
from model.families.model import VisionLanguageModel
from model.families.published_weights import model_of_weights, renamed
from model.families.vl_bert import GEOMETRY_WIDTH
from model.families.vl_bert_config import VLBertConfig

_NAMES = {
    "image_feature_extractor.obj_downsample.1.": "bert.region_embeddings.joint.",
    "object_linguistic_embeddings.": "bert.region_embeddings.image_token.",
    "object_mask_word_embedding.": "bert.region_embeddings.hidden_token.",
    "object_mask_visual_embedding.weight": "bert.region_embeddings.hidden_feature",
    "aux_text_visual_embedding.": "bert.region_embeddings.text_visual.",
    "vlbert.visual_ln_text.": "bert.region_embeddings.text_norm.",
    "vlbert.visual_ln_object.": "bert.region_embeddings.region_norm.",
    "vlbert.end_embedding.": "bert.end_token.",
    "vlbert.embedding_LayerNorm.": "bert.embeddings.LayerNorm.",
    "vlbert.word_embeddings.": "bert.embeddings.word_embeddings.",
    "vlbert.position_embeddings.": "bert.embeddings.position_embeddings.",
    "vlbert.token_type_embeddings.": "bert.embeddings.token_type_embeddings.",
    "vlbert.encoder.": "bert.encoder.",
    "vlbert.pooler.dense.": "pooler.0.",
    "vlbert.mlm_head.predictions.": "cls.predictions.",
    "vlbert.mvrc_head.transform.dense.": "mvrc.dense.",
    "vlbert.mvrc_head.region_cls_pred.": "mvrc.output.",
    "vlbert.relationsip_head.caption_image_relationship.": "itm.",
}
"""Theirs and ours, whole names or how they begin; no name of ours begins like another."""
_DECODER, _WORD_TABLE = "vlbert.mlm_head.predictions.decoder.weight", "vlbert.word_embeddings.weight"
_NETWORK = re.compile(r"image_feature_extractor\.(backbone|roi_head_feature_extractor|head)\.|.*\.num_batches_tracked$")
"""The convolutional network of end-to-end checkpoints, and counts that no one reads."""
_WORDS, _POSITIONS, _JOINT, _FEED_FORWARD = (
    "bert.embeddings.word_embeddings.weight",
    "bert.embeddings.position_embeddings.weight",
    "bert.region_embeddings.joint.weight",
    "bert.encoder.layer.0.intermediate.dense.weight",
)
_ABSENT = ("bert.region_embeddings.hidden_feature", "bert.region_embeddings.text_visual.weight")
"""What the program does not write of every configuration: end-to-end, it hides pixels instead of features."""
_LAYER = re.compile(r"bert\.encoder\.layer\.(\d+)\.")
_HEAD_WIDTH = 64
"""Of an attention head in the published models of both sizes; weights do not tell it."""
_SHOWN = 3
_log = logging.getLogger(__name__)


def is_official(names: Iterable[str]) -> bool:
    """Whether weights of these names are the published program's."""
    return any(name.startswith("vlbert.") for name in names)


def from_official(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Weights of the published program under our names, in f32. The log says what is left out.

    Args:
        weights: a bare state dict, without the prefix `module.`; half precision is cast.
        source: what to call it, such as its file.

    Raises:
        InputError: it is another model's, has a weight that is not known, or the two copies of one are not equal.
    """
    if not is_official(weights):
        seen = next(iter(weights), "nothing")
        raise InputError(
            f"{source} has no weight of VL-BERT's, whose names begin with vlbert., but such as {seen}; name a state "
            "dict that the published program wrote"
        )
    network = [name for name in weights if _NETWORK.match(name)]
    theirs = {name: value.float() for name, value in weights.items() if name not in set(network)}
    decoder = theirs.pop(_DECODER, None)
    if decoder is not None and _WORD_TABLE in theirs and not torch.equal(decoder, theirs[_WORD_TABLE]):
        raise InputError(
            f"{source}: {_DECODER} differs from {_WORD_TABLE}, but VL-BERT has one weight for both; name a file as the "
            "published program wrote it"
        )
    ours = {name: renamed(name, _NAMES) for name in theirs}
    if unknown := [name for name, own in ours.items() if own is None]:
        raise InputError(
            f"{source} has {len(unknown)} weights that VL-BERT has no place for, such as "
            f"{', '.join(unknown[:_SHOWN])}; leave them out, or name a checkpoint of its pretraining"
        )
    if network:
        _log.warning(
            "%s: %d weights of its convolutional network are left out, such as %s; regions come with their features",
            source,
            len(network),
            network[0],
        )
    return {own: theirs[name] for name, own in ours.items() if own is not None}


def to_official(model: VisionLanguageModel) -> dict[str, Tensor]:
    """The model's weights under the published program's names, the word table twice.

    Raises:
        InputError: it has a head that the program has none for.
    """
    weights = {}
    for name, value in model.state_dict().items():
        if (theirs := their_name(name)) is None:
            known = sorted({own.partition(".")[0] for own in _NAMES.values()} - {"bert", "pooler"})
            raise InputError(
                f"head {name.partition('.')[0]!r} has no name in VL-BERT's program, which knows {', '.join(known)}; "
                "export a checkpoint without it"
            )
        weights[theirs] = value
    return weights | ({_DECODER: weights[_WORD_TABLE].clone()} if "cls" in model.heads else {})


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

    What end-to-end checkpoints lack begins as zeros, as in the program: the vector of hidden features.

    Args:
        num_heads: of attention. None: one for every 64 of the hidden width, as in both published sizes.
        num_labels: C, the detector's classes. None: those of the region head; 0 where there is none.
        max_regions: best-scored regions read of an image. None: 100.

    Raises:
        InputError: as `from_official`; or weights are missing, or do not fit each other.
    """
    ours = from_official(weights, source)
    if missing := [name for name in (_WORDS, _POSITIONS, _JOINT, _FEED_FORWARD) if name not in ours]:
        raise InputError(f"{source} lacks {their_name(missing[0])}; name a whole checkpoint of VL-BERT's")
    hidden_size, feature_dim = ours[_JOINT].shape[0], ours[_JOINT].shape[1] - GEOMETRY_WIDTH
    absent = [name for name in _ABSENT if name not in ours]
    if absent:
        _log.warning("%s lacks %s: zeros", source, ", ".join(str(their_name(name)) for name in absent))
        shapes = dict(zip(_ABSENT, ((1, feature_dim), (1, hidden_size)), strict=True))
        ours |= {name: torch.zeros(shapes[name]) for name in absent}
    heads = _heads(ours)
    classes = heads["mvrc"].width - 1 if "mvrc" in heads else None
    if None not in (classes, num_labels) and classes != num_labels:
        raise InputError(
            f"{source} tells {classes} classes of regions apart, but these features have {num_labels} labels; use the "
            "features of the detector that it was trained with"
        )
    num_labels = num_labels or classes or 0
    defaults = VLBertConfig.model_fields
    encoder = VLBertConfig(
        hidden_size=hidden_size,
        num_layers=1 + max(int(layer[1]) for name in ours if (layer := _LAYER.match(name)) is not None),
        num_heads=num_heads or max(1, hidden_size // _HEAD_WIDTH),
        intermediate_size=len(ours[_FEED_FORWARD]),
        max_positions=len(ours[_POSITIONS]),
        max_text_tokens=min(defaults["max_text_tokens"].default, len(ours[_POSITIONS]) - 2),
        max_regions=max_regions or defaults["max_regions"].default,
        pooler="pooler.0.weight" in ours,
    )
    sizes = Sizes(len(ours[_WORDS]), feature_dim, num_labels)
    return model_of_weights(ours, sizes, sep_id, encoder, heads, extractor, their_name, source, "VL-BERT")


def their_name(name: str) -> str | None:
    return renamed(name, {ours: theirs for theirs, ours in _NAMES.items()})


def _heads(ours: Mapping[str, Tensor]) -> Heads:
    """The heads that weights under our names are of."""
    heads: Heads = {}
    if "cls.predictions.bias" in ours:
        heads["cls"] = HeadConfig(kind="words", width=len(ours["cls.predictions.bias"]))
    if "mvrc.output.bias" in ours:
        heads["mvrc"] = HeadConfig(kind="mlp", width=len(ours["mvrc.output.bias"]), norm=False)
    return heads | (ITM if "itm.bias" in ours else {})
