"""Embed words and regions for the Transformer: Unicoder-VL (arXiv:1908.06066) section 3.1."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.data.batch import Regions
from model.errors import InputError
from model.families.config import EncoderConfig
from model.families.unicoder_vl_config import UnicoderVLConfig


def dequantise(regions: Regions) -> Tensor:
    """Dequantise the features (B, R, D) f32 of a batch."""
    return dequantise_rows(regions.features, regions.scales)


def dequantise_rows(features: Tensor, scales: Tensor) -> Tensor:
    """Features (..., D) f32 from what the shard holds: q^2 scale / 255^2 (sqrt8) or half precision as it is."""
    values = features.float()
    if features.dtype == torch.uint8:
        values = values.square_().mul_((scales / 65025.0).unsqueeze(-1))
    return values


def corners(boxes: Tensor, sizes: Tensor) -> Tensor:
    """x0/W, y0/H, x1/W, y1/H (B, R, 4) of boxes (B, R, 4) in images of sizes (B, 2), width and height, in pixels.

    v1 calls them "bottom-left and top-right"; v3 writes out these four, top-left and bottom-right of image coordinates.
    """
    return boxes / sizes.repeat(1, 2).unsqueeze(1)


def corners_and_area(boxes: Tensor, sizes: Tensor) -> Tensor:
    """`corners`, and the share of the image's area that the box takes: (B, R, 5)."""
    code = corners(boxes, sizes)
    area = (code[..., 2] - code[..., 0]) * (code[..., 3] - code[..., 1])
    return torch.cat([code, area.unsqueeze(-1)], dim=-1)


_BOX_CODES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "corners": (corners, 4),
    "corners_area": (corners_and_area, 5),
}
"""By `UnicoderVLConfig.box_code`: the function and how many numbers it gives."""


def wrong_width(found: int, wanted: int) -> str:
    """Say that features are not as wide as the model's."""
    return (
        f"regions have {found}-wide features but this model reads {wanted}; use the features of the detector it was "
        "made for"
    )


class WordEmbeddings(nn.Module):
    """Word + position + segment, LayerNorm, dropout (BERT's)."""

    def __init__(self, vocab_size: int, config: EncoderConfig, type_rows: int = 0) -> None:
        """`type_rows`: rows of the segment table; 0: there is none."""
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_positions, config.hidden_size)
        if type_rows:
            self.token_type_embeddings = nn.Embedding(type_rows, config.hidden_size)
        self._has_segments = type_rows > 0
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def segment(self, number: int | Tensor) -> Tensor | float:
        """The vector (H,) that marks words (0) or regions (1), or those (..., H) of numbers (...) of rows.

        Zero where there are no segments.
        """
        if not self._has_segments:
            return 0.0
        table = self.token_type_embeddings
        return table(number) if isinstance(number, Tensor) else table.weight[number]

    def forward(self, ids: Tensor, positions: Tensor, segment: int | Tensor) -> Tensor:
        """(B, T) ids and positions, and one segment or (B, T) of them, to (B, T, H)."""
        total = self.word_embeddings(ids) + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(total + self.segment(segment)))


class Standardise(nn.Module):
    """(x - mean) / spread per feature dimension; both are measured once (`fit`) and kept in the checkpoint."""

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))

    def fit(self, features: Tensor) -> None:
        """Measure mean and spread of features (N, D). A dimension that never changes keeps spread 1."""
        spread = features.std(0) if len(features) > 1 else torch.zeros_like(features[0])
        self.mean.copy_(features.mean(0))
        self.spread.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.spread


class ConcatFusion(nn.Module):
    """One linear layer of [feature; box code] (v1)."""

    def __init__(self, feature_dim: int, code_width: int, hidden_size: int) -> None:
        super().__init__()
        self.joint = nn.Linear(feature_dim + code_width, hidden_size)
        self._feature_dim = feature_dim

    @property
    def feature_weight(self) -> Tensor:
        """(H, D)"""
        return self.joint.weight[:, : self._feature_dim]

    def forward(self, features: Tensor, code: Tensor) -> Tensor:
        return self.joint(torch.cat([features, code], dim=-1))


class SumFusion(nn.Module):
    """A linear layer of the feature plus one of the box code (v3)."""

    def __init__(self, feature_dim: int, code_width: int, hidden_size: int) -> None:
        super().__init__()
        self.feature = nn.Linear(feature_dim, hidden_size)
        self.location = nn.Linear(code_width, hidden_size)

    @property
    def feature_weight(self) -> Tensor:
        """(H, D)"""
        return self.feature.weight

    def forward(self, features: Tensor, code: Tensor) -> Tensor:
        return self.feature(features) + self.location(code)


_FEATURE_NORMS = {"none": nn.Identity, "layer": nn.LayerNorm, "standard": Standardise}
_FUSIONS: dict[str, type[ConcatFusion] | type[SumFusion]] = {"concat": ConcatFusion, "sum": SumFusion}


class RegionEmbeddings(nn.Module):
    """Feature and box of a region to one vector: fusion, [IMG] token, modality mark, LayerNorm, dropout."""

    def __init__(self, feature_dim: int, config: UnicoderVLConfig) -> None:
        super().__init__()
        self._feature_dim = feature_dim
        self._box_code, code_width = _BOX_CODES[config.box_code]
        self.feature_norm = _FEATURE_NORMS[config.feature_norm](feature_dim)
        self.fusion = _FUSIONS[config.region_fusion](feature_dim, code_width, config.hidden_size)
        self.image_token = nn.Embedding(1, config.hidden_size) if config.image_token else None
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: Tensor, boxes: Tensor, sizes: Tensor, mark: Tensor | float) -> Tensor:
        """(B, R, D) features and (B, R, 4) boxes to (B, R, H); `mark` (H,) is the same for every region.

        Raises:
            InputError: the features are of another width than this model's.
        """
        if features.shape[-1] != self._feature_dim:
            raise InputError(wrong_width(features.shape[-1], self._feature_dim))
        total = self.fusion(self.feature_norm(features), self._box_code(boxes, sizes)) + mark
        if self.image_token is not None:
            total = total + self.image_token.weight[0]
        return self.dropout(self.LayerNorm(total))
