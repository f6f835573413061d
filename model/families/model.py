"""A model: an encoder of one family, and the heads that its checkpoint lists."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from model.data.batch import Regions, Words
from model.errors import InputError
from model.families.config import EncoderConfig, HeadConfig, Heads, Sizes
from model.families.configs import read_encoder
from model.families.embeddings import dequantise
from model.families.family import Encoder
from model.families.heads import make_head, pretraining_heads
from model.families.unicoder_vl import UnicoderVLEncoder
from model.families.uniter import UniterEncoder
from model.families.vl_bert import VLBertEncoder

_FAMILIES: dict[str, Callable[[int, int, int, Any], Encoder]] = {
    "unicoder-vl": UnicoderVLEncoder,
    "uniter": UniterEncoder,
    "vl-bert": VLBertEncoder,
}
"""By `EncoderConfig.family`."""


class VisionLanguageModel(nn.Module, PyTorchModelHubMixin):
    """Encoder (`bert`) and heads (each by its own name). `matching`, or else `itm`, is also the score of retrieval.

    `save_pretrained` writes config.json and model.safetensors, `from_pretrained` reads them from a folder or the hub.
    (Hugging Face's hub mixin and not transformers' PreTrainedModel, whose import costs a process 12 CPU-seconds.)
    """

    bert: Encoder

    def __init__(
        self,
        vocab_size: int,
        feature_dim: int,
        num_labels: int,
        sep_id: int,
        encoder: dict[str, Any] | None = None,
        extractor: str = "",
        heads: dict[str, Any] | None = None,
    ) -> None:
        """
        Args:
            vocab_size: V, word pieces.
            feature_dim: D of the feature set.
            num_labels: C, foreground classes of the detector.
            sep_id: word piece [SEP].
            encoder: its config as JSON (`configs.py`); Unicoder-VL's of the paper's size when None.
            extractor: fingerprint of the extractor whose features the weights are trained on.
            heads: name -> `HeadConfig` as JSON. None: those of Unicoder-VL's pretraining, as in older checkpoints.
        """
        super().__init__()
        self.config = read_encoder(encoder or {})
        self.vocab_size, self.feature_dim, self.num_labels = vocab_size, feature_dim, num_labels
        self.extractor = extractor
        self.bert = _FAMILIES[self.config.family](vocab_size, feature_dim, sep_id, self.config)
        # A checkpoint lists them by name, so that is their order, or a resumed optimiser would mix their states up.
        given = pretraining_heads(self.sizes) if heads is None else dict(sorted(heads.items()))
        self.heads: Heads = {name: HeadConfig.model_validate(head) for name, head in given.items()}
        for name, head in self.heads.items():
            self.add_module(name, make_head(head, self.config))
        width = self.config.hidden_size
        self.pooler = nn.Sequential(nn.Linear(width, width), nn.Tanh()) if self.config.pooler else nn.Identity()
        self.apply(self._init_weights)

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.vocab_size, self.feature_dim, self.num_labels)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def head(self, name: str) -> nn.Module:
        """
        Raises:
            InputError: the model has no such head.
        """
        if name not in self.heads:
            raise InputError(
                f"this checkpoint has no head {name!r}, only {', '.join(self.heads) or 'none'}; use one that was "
                "trained for this"
            )
        return self.get_submodule(name)

    def match(self, cls: Tensor) -> Tensor:
        """Matching logits (B,) from the last states of [CLS] (B, H).

        Without a head of one logit, the logit of yes of UNITER's two: its zero-shot score.
        """
        if "matching" not in self.heads and "itm" in self.heads:
            return self.head("itm")(self.pooler(cls))[:, 1]
        return self.head("matching")(self.pooler(cls)).squeeze(-1)

    def score(self, words: Words, regions: Regions) -> Tensor:
        """Matching logits (B,) of unmasked pairs; the last layer computes [CLS] alone."""
        images = self.bert.embed_regions(regions, dequantise(regions))
        return self.match(self.bert.cls_states(self.bert.embed_words(words), images))

    def with_heads(self, heads: Mapping[str, HeadConfig], seed: int) -> VisionLanguageModel:
        """The same weights under exactly these heads; those that the model lacks are new, drawn by seed and name.

        A new `matching` starts as the row of yes of `itm`, where the model has that.

        Raises:
            InputError: a head of that name is of another kind or width.
        """
        if other := [name for name in heads if self.heads.get(name, heads[name]) != heads[name]]:
            name = other[0]
            raise InputError(
                f"head {name!r} is {_shown(self.heads[name])} in this checkpoint but {_shown(heads[name])} is needed; "
                "start from a checkpoint trained for the same, or from one without that head"
            )
        weights = {
            name: weight
            for name, weight in self.state_dict().items()
            if (part := name.partition(".")[0]) not in self.heads or part in heads
        }
        for name in heads.keys() - self.heads.keys():
            head = self._new_head(name, heads[name], seed)
            if name == "matching" and "itm" in self.heads:
                itm = self.head("itm")
                head.load_state_dict({key: row[1:].clone() for key, row in itm.state_dict().items()})
            weights |= {f"{name}.{key}": weight for key, weight in head.state_dict().items()}
        return self.of_weights(weights, heads=heads)

    def of_weights(
        self,
        weights: Mapping[str, Tensor],
        heads: Mapping[str, HeadConfig] | None = None,
        encoder: EncoderConfig | None = None,
        vocab_size: int | None = None,
    ) -> VisionLanguageModel:
        """A model of these weights that is as this one but for what is given."""
        heads = self.heads if heads is None else heads
        with torch.device("meta"):
            model = VisionLanguageModel(
                vocab_size or self.vocab_size,
                self.feature_dim,
                self.num_labels,
                self.bert.sep_id,
                (encoder or self.config).model_dump(mode="json"),
                self.extractor,
                {name: head.model_dump(mode="json") for name, head in heads.items()},
            )
        model.load_state_dict(weights, strict=True, assign=True)
        return model.train(self.training)

    def _new_head(self, name: str, head: HeadConfig, seed: int) -> nn.Module:
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0]))
            return make_head(head, self.config).apply(self._init_weights)


def _shown(head: HeadConfig) -> str:
    return f"{head.kind} of width {head.width}"
