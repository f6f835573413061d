"""Heads: small networks that read an encoder's states.

Objectives and tasks say which they need; a checkpoint lists those that it has.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from model.families.config import EncoderConfig, HeadConfig, Heads, Sizes
from model.families.layers import WordHead

MATCHING: Heads = {"matching": HeadConfig(kind="linear", width=1)}
"""Whether an image and a caption belong together, from [CLS]: learnt by pretraining, and what retrieval scores by."""


def pretraining_heads(sizes: Sizes) -> Heads:
    """The heads of Unicoder-VL's three objectives, which checkpoints have that list none.

    Every new model draws them, whichever it keeps, so that the first weights of a seed do not depend on objective or
    task; heads beside these draw theirs from the seed and their name.
    """
    return {
        "cls": HeadConfig(kind="words", width=sizes.vocab_size),
        "region_labels": HeadConfig(kind="linear", width=sizes.num_labels),
        **MATCHING,
    }


def _words(head: HeadConfig, encoder: EncoderConfig) -> nn.Module:
    """BERT's masked-word head, under its name."""
    return nn.ModuleDict({"predictions": WordHead(head.width, encoder)})


def _linear(head: HeadConfig, encoder: EncoderConfig) -> nn.Module:
    return nn.Linear(encoder.hidden_size, head.width)


_KINDS: dict[str, Callable[[HeadConfig, EncoderConfig], nn.Module]] = {"words": _words, "linear": _linear}
"""By `HeadConfig.kind`."""


def make_head(head: HeadConfig, encoder: EncoderConfig) -> nn.Module:
    return _KINDS[head.kind](head, encoder)
