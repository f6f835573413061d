"""Embeddings and the cross-modal Transformer: [CLS] words [SEP] regions [SEP].

Unicoder-VL (arXiv:1908.06066) section 3.1: one BERT over words and regions. Module names are BERT's, so that
bert-base's weights load by name; attention goes through `scaled_dot_product_attention`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from model.config import EncoderConfig
from model.data import Regions, Words

_WORD_SEGMENT, _REGION_SEGMENT = 0, 1


@dataclass(frozen=True)
class Encoded:
    """Hidden states of B pairs: cls (B, H), words (B, T, H), regions (B, R, H)."""

    cls: Tensor
    words: Tensor
    regions: Tensor


def dequantise(regions: Regions) -> Tensor:
    """Features (B, R, D) f32 from what the shard holds: q^2 scale / 255^2 (sqrt8) or half precision as it is."""
    values = regions.features.float()
    if regions.features.dtype == torch.uint8:
        values = values.square_().mul_((regions.scales / 65025.0).unsqueeze(-1))
    return values


def box_code(boxes: Tensor, sizes: Tensor, with_area: bool) -> Tensor:
    """Location of each region relative to its image: x0/W, y0/H, x1/W, y1/H and, if asked, the share of its area.

    Args:
        boxes: (B, R, 4) pixels.
        sizes: (B, 2) width and height in pixels.

    Returns:
        (B, R, 4) or (B, R, 5), in [0, 1].
    """
    corners = boxes / sizes.repeat(1, 2).unsqueeze(1)
    if not with_area:
        return corners
    area = (corners[..., 2] - corners[..., 0]) * (corners[..., 3] - corners[..., 1])
    return torch.cat([corners, area.unsqueeze(-1)], dim=-1)


class WordEmbeddings(nn.Module):
    """Word + position + segment, LayerNorm, dropout (BERT's)."""

    def __init__(self, vocab_size: int, config: EncoderConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_positions, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(2, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, positions: Tensor, segment: int) -> Tensor:
        """(B, T) ids and positions to (B, T, H)."""
        total = self.word_embeddings(ids) + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(total + self.token_type_embeddings.weight[segment]))


class Standardise(nn.Module):
    """(x - mean) / spread per feature dimension; both are measured once (`fit`) and kept in the checkpoint."""

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))

    def fit(self, features: Tensor) -> None:
        """Measure on features (N, D). A dimension that never changes is left at spread 1."""
        spread = features.std(0)
        self.mean.copy_(features.mean(0))
        self.spread.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.spread


class RegionEmbeddings(nn.Module):
    """Feature and location of a region to one vector; regions have no position but their box."""

    def __init__(self, feature_dim: int, config: EncoderConfig) -> None:
        super().__init__()
        self._with_area = config.box_code == "corners_area"
        code = 5 if self._with_area else 4
        norms = {"none": nn.Identity, "layer": nn.LayerNorm, "standard": Standardise}
        self.feature_norm = norms[config.feature_norm](feature_dim)
        if config.region_fusion == "sum":
            self.feature = nn.Linear(feature_dim, config.hidden_size)
            self.location = nn.Linear(code, config.hidden_size)
        else:
            self.joint = nn.Linear(feature_dim + code, config.hidden_size)
        self._sum = config.region_fusion == "sum"
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: Tensor, boxes: Tensor, sizes: Tensor, segment: Tensor) -> Tensor:
        """(B, R, D) features and (B, R, 4) boxes to (B, R, H); `segment` (H,) marks the modality."""
        features, code = self.feature_norm(features), box_code(boxes, sizes, self._with_area)
        if self._sum:
            total = self.feature(features) + self.location(code)
        else:
            total = self.joint(torch.cat([features, code], dim=-1))
        return self.dropout(self.LayerNorm(total + segment))


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence on itself; the names are BERT's."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self._heads = config.num_heads
        self._dropout = config.attention_dropout

    def forward(self, queries: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
        """(B, Q, H) queries over (B, S, H) states; mask (B, 1, 1, S) bool, True where there is something."""

        def split(x: Tensor) -> Tensor:
            return x.view(*x.shape[:2], self._heads, -1).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(
            split(self.query(queries)),
            split(self.key(states)),
            split(self.value(states)),
            attn_mask=mask,
            dropout_p=self._dropout if self.training else 0.0,
        )
        return mixed.transpose(1, 2).flatten(2)


class Residual(nn.Module):
    """Linear, dropout, add, LayerNorm (post-LN, as BERT)."""

    def __init__(self, width: int, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class Layer(nn.Module):
    """One Transformer layer."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(config), "output": Residual(config.hidden_size, config)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.intermediate_size)})
        self.output = Residual(config.intermediate_size, config)

    def forward(self, states: Tensor, mask: Tensor | None, cls_only: bool = False) -> Tensor:
        """(B, S, H) to the same; with `cls_only`, to (B, 1, H): position 0 alone, from the same keys and values."""
        queries = states[:, :1] if cls_only else states
        states = self.attention["output"](self.attention["self"](queries, states, mask), queries)
        return self.output(F.gelu(self.intermediate["dense"](states)), states)


class CrossModalEncoder(nn.Module):
    """The shared encoder of words and regions."""

    def __init__(self, vocab_size: int, feature_dim: int, sep_id: int, encoder: EncoderConfig) -> None:
        super().__init__()
        self._sep_id = sep_id
        self.max_regions = encoder.max_regions
        self.embeddings = WordEmbeddings(vocab_size, encoder)
        self.region_embeddings = RegionEmbeddings(feature_dim, encoder)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(encoder) for _ in range(encoder.num_layers))})

    def embed_words(self, words: Words) -> tuple[Tensor, Tensor]:
        """[CLS] words [SEP] (B, T, H), and the closing [SEP] (B, 1, H).

        The closing mark carries the region segment and the position after the caption's last piece: the paper names
        the mark but no position, and this one does not depend on padding.
        """
        batch, width = words.ids.shape
        positions = torch.arange(width, device=words.ids.device).expand(batch, -1)
        end = words.mask.sum(1, keepdim=True)
        closing = self.embeddings(torch.full_like(end, self._sep_id), end, _REGION_SEGMENT)
        return self.embeddings(words.ids, positions, _WORD_SEGMENT), closing

    def embed_regions(self, regions: Regions, features: Tensor) -> Tensor:
        """(B, R, H) from dequantised (and perhaps masked) features (B, R, D)."""
        segment = self.embeddings.token_type_embeddings.weight[_REGION_SEGMENT]
        return self.region_embeddings(features, regions.boxes, regions.sizes, segment)

    def join(self, words: Tensor, closing: Tensor, regions: Tensor) -> Tensor:
        """(B, T + R + 1, H): words, regions, closing mark."""
        return torch.cat([words, regions, closing], dim=1)

    def join_masks(self, words: Tensor, regions: Tensor) -> Tensor:
        """(B, 1, 1, T + R + 1) bool from the two masks."""
        return torch.cat([words, regions, words[:, :1]], dim=1)[:, None, None, :]

    def run(self, states: Tensor, mask: Tensor | None, cls_only: bool = False) -> Tensor:
        """The layers; with `cls_only` the last one computes [CLS] alone and the result is (B, 1, H)."""
        layers = self.encoder["layer"]
        assert isinstance(layers, nn.ModuleList)
        for number, layer in enumerate(layers):
            states = layer(states, mask, cls_only=cls_only and number == len(layers) - 1)
        return states

    def forward(self, words: Words, regions: Regions, features: Tensor) -> Encoded:
        text, closing = self.embed_words(words)
        states = self.join(text, closing, self.embed_regions(regions, features))
        states = self.run(states, self.join_masks(words.mask, regions.mask))
        width = words.ids.shape[1]
        return Encoded(states[:, 0], states[:, :width], states[:, width:-1])


class WordHead(nn.Module):
    """BERT's masked-word head; the output matrix is the word table."""

    def __init__(self, vocab_size: int, config: EncoderConfig) -> None:
        super().__init__()
        self.transform = nn.ModuleDict(
            {
                "dense": nn.Linear(config.hidden_size, config.hidden_size),
                "LayerNorm": nn.LayerNorm(config.hidden_size, eps=1e-12),
            }
        )
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, states: Tensor, table: Tensor) -> Tensor:
        """(N, H) states of masked positions to (N, V) logits."""
        return F.linear(self.transform["LayerNorm"](F.gelu(self.transform["dense"](states))), table, self.bias)


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
        self.feature_dim, self.num_labels, self.extractor = feature_dim, num_labels, extractor
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
