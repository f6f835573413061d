"""Embeddings and the cross-modal Transformer: [CLS] words [SEP] regions [SEP].

Unicoder-VL (arXiv:1908.06066) section 3.1: one BERT over words and regions. Module names are BERT's, so that
bert-base's weights load by name (`bert.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from model.data.batch import Regions, Words
from model.families.config import EncoderConfig
from model.families.embeddings import RegionEmbeddings, WordEmbeddings, dequantise
from model.families.layers import Layer, WordHead
from model.families.layouts import choose_layout

_WORD_SEGMENT, _REGION_SEGMENT = 0, 1


@dataclass(frozen=True)
class Encoded:
    """Hidden states of B pairs: cls (B, H), words (B, T, H), regions (B, R, H)."""

    cls: Tensor
    words: Tensor
    regions: Tensor


class CrossModalEncoder(nn.Module):
    """The shared encoder of words and regions."""

    def __init__(self, vocab_size: int, feature_dim: int, sep_id: int, encoder: EncoderConfig) -> None:
        super().__init__()
        self._sep_id, self._config = sep_id, encoder
        self.max_regions = encoder.max_regions
        self.embeddings = WordEmbeddings(vocab_size, encoder)
        self.region_embeddings = RegionEmbeddings(feature_dim, encoder)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(encoder) for _ in range(encoder.num_layers))})

    def embed_words(self, words: Words) -> tuple[Tensor, Tensor]:
        """[CLS] words [SEP] (B, T, H), and the closing [SEP] (B, 1, H), or (B, 0, H) where there is none.

        The closing mark carries the region segment and the position after the caption's last piece: the paper names
        the mark but no position, and this one does not depend on padding.
        """
        batch, width = words.ids.shape
        positions = torch.arange(width, device=words.ids.device).expand(batch, -1)
        end = words.mask.sum(1, keepdim=True)[:, : self._marks]
        closing = self.embeddings(torch.full_like(end, self._sep_id), end, _REGION_SEGMENT)
        return self.embeddings(words.ids, positions, _WORD_SEGMENT), closing

    def embed_regions(self, regions: Regions, features: Tensor) -> Tensor:
        """(B, R, H) from dequantised (and perhaps masked) features (B, R, D)."""
        mark = self.embeddings.segment(_REGION_SEGMENT)
        if self._config.region_position == "shared":
            mark = mark + self.embeddings.position_embeddings.weight[self._config.max_text_tokens]
        return self.region_embeddings(features, regions.boxes, regions.sizes, mark)

    def join(self, words: Tensor, closing: Tensor, regions: Tensor) -> Tensor:
        """(B, S, H): words, regions, closing mark."""
        return torch.cat([words, regions, closing], dim=1)

    def join_masks(self, words: Tensor, regions: Tensor) -> Tensor:
        """(B, S) bool from the two masks (B, T) and (B, R)."""
        return torch.cat([words, regions, words[:, : self._marks]], dim=1)

    @property
    def _marks(self) -> int:
        """How many closing marks there are; [CLS] is always there, so its mask is theirs."""
        return int(self._config.closing_sep)

    def run(self, states: Tensor, mask: Tensor | None, cls_only: bool = False) -> Tensor:
        """The layers on states (B, S, H) with mask (B, S); None where nothing is padded.

        Returns:
            (B, S, H), undefined at padding; with `cls_only`, where the last layer computes [CLS] alone, (B, 1, H).
        """
        layout = choose_layout(self._config.sequences, mask)
        layers = self.encoder["layer"]
        assert isinstance(layers, nn.ModuleList)
        batch = len(states)
        states = layout.enter(states)
        for number, layer in enumerate(layers):
            states = layer(states, layout, cls_only=cls_only and number == len(layers) - 1)
        return states.reshape(batch, 1, -1) if cls_only else layout.leave(states)

    def forward(self, words: Words, regions: Regions, features: Tensor) -> Encoded:
        text, closing = self.embed_words(words)
        states = self.join(text, closing, self.embed_regions(regions, features))
        states = self.run(states, self.join_masks(words.mask, regions.mask))
        width = words.ids.shape[1]
        return Encoded(states[:, 0], states[:, :width], states[:, width : width + regions.mask.shape[1]])


class UnicoderVL(nn.Module, PyTorchModelHubMixin):
    """Encoder and the heads of the three tasks. `matching` is also the score of retrieval.

    `save_pretrained` writes config.json and model.safetensors, `from_pretrained` reads them from a folder or the hub.
    (Hugging Face's hub mixin and not transformers' PreTrainedModel, whose import costs a process 12 CPU-seconds.)
    """

    def __init__(
        self,
        vocab_size: int,
        feature_dim: int,
        num_labels: int,
        sep_id: int,
        encoder: dict[str, Any] | None = None,
        extractor: str = "",
    ) -> None:
        """
        Args:
            vocab_size: V, word pieces.
            feature_dim: D of the feature set.
            num_labels: C, foreground classes of the detector.
            sep_id: word piece [SEP].
            encoder: `EncoderConfig` as JSON; the paper's sizes when None.
            extractor: fingerprint of the extractor whose features the weights are trained on.
        """
        super().__init__()
        self.config = EncoderConfig.model_validate(encoder or {})
        self.vocab_size, self.feature_dim, self.num_labels = vocab_size, feature_dim, num_labels
        self.extractor = extractor
        self.bert = CrossModalEncoder(vocab_size, feature_dim, sep_id, self.config)
        self.cls = nn.ModuleDict({"predictions": WordHead(vocab_size, self.config)})
        self.region_labels = nn.Linear(self.config.hidden_size, num_labels)
        self.matching = nn.Linear(self.config.hidden_size, 1)
        width = self.config.hidden_size
        self.pooler = nn.Sequential(nn.Linear(width, width), nn.Tanh()) if self.config.pooler else nn.Identity()
        self.apply(self._init_weights)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def match(self, cls: Tensor) -> Tensor:
        """Matching logits (B,) from the last states of [CLS] (B, H)."""
        return self.matching(self.pooler(cls)).squeeze(-1)

    def score(self, words: Words, regions: Regions) -> Tensor:
        """Matching logits (B,) of unmasked pairs; the last layer computes [CLS] alone."""
        text, closing = self.bert.embed_words(words)
        states = self.bert.join(text, closing, self.bert.embed_regions(regions, dequantise(regions)))
        states = self.bert.run(states, self.bert.join_masks(words.mask, regions.mask), cls_only=True)
        return self.match(states[:, 0])
