"""What every family's encoder is told: its sizes, and the heads on it. Imports no torch.

What one family alone has is in a config of its own, and `configs.py` lists these.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, model_validator

from feature_extraction.identity import Identity
from model.config import AdaptiveRegions, Config


class Sizes(NamedTuple):
    """Widths that come from the data: V word pieces, D of the features, C foreground classes of the detector."""

    vocab_size: int
    feature_dim: int
    num_labels: int


class HeadConfig(Config):
    """A small network that reads the encoder's states."""

    kind: Literal["words", "features", "linear", "mlp", "pair"] = Field(
        description="words: BERT's masked-word head, whose output matrix is the word table; features: the same of "
        "region features, whose output matrix is the features' own projection (UNITER); linear: one layer; mlp: "
        "linear, activation, LayerNorm, linear; pair: each of two sequences attends to the other, and both are pooled "
        "(UNITER's for NLVR2)"
    )
    width: int = Field(ge=1, description="numbers it gives for a state")
    inputs: int = Field(default=1, ge=1, description="states that it reads side by side, such as 2 of two images")
    inner: int = Field(default=1, ge=1, description="of mlp: width between its layers, in hidden sizes")
    activation: Literal["gelu", "relu"] = Field(default="gelu", description="of mlp: function between its layers")
    norm: bool = Field(default=True, description="of mlp: a LayerNorm after the activation; VL-BERT's have none")


Heads = dict[str, HeadConfig]
"""By name, which is also that of its weights in a checkpoint."""


OLDEST_FAMILY = "unicoder-vl"
"""The family of a config that names none: files of before there were others."""


def _require_family(schema: dict[str, Any]) -> None:
    """Let the JSON schema of a config without `family` be that of the oldest alone, as it is when it is read."""
    if schema["properties"]["family"].get("default", OLDEST_FAMILY) != OLDEST_FAMILY:
        schema["required"] = [*schema.get("required", []), "family"]


class EncoderConfig(Config):
    """What encoders of all families have. Widths of words, regions and labels come from the data."""

    model_config = ConfigDict(json_schema_extra=_require_family)

    family: str = Field(description="how words and regions become states")
    hidden_size: int = Field(default=768, ge=8, description="H")
    num_layers: int = Field(default=12, ge=1, description="Transformer layers")
    num_heads: int = Field(default=12, ge=1, description="attention heads of a layer; hidden_size is a multiple of it")
    intermediate_size: int = Field(default=3072, ge=8, description="width of the feed-forward layers")
    max_positions: int = Field(default=512, ge=4, description="length of the word position table")
    max_text_tokens: int = Field(
        default=43, ge=4, description="longest [CLS] words [SEP], tokens; longer captions lose their end"
    )
    max_regions: int = Field(default=100, ge=1, description="best-scored regions read per image")
    adaptive_regions: Annotated[AdaptiveRegions | None, Identity.UNLESS_DEFAULT] = Field(
        default=None,
        description="reads fewer than max_regions of an image where fewer score well, in training and scoring alike; "
        "features that were extracted with a fixed number have the others too. None: always the best max_regions",
    )
    pooler: bool = Field(
        default=False,
        description="BERT's pooler, a tanh layer, between [CLS] and the matching head. Unicoder-VL scores W o_CLS + b",
    )
    hidden_act: Annotated[Literal["gelu", "gelu_new", "relu", "silu"], Identity.UNLESS_DEFAULT] = Field(
        default="gelu",
        description="function between the feed-forward layers, BERT's of the same name; gelu_new is gelu's "
        "approximation by tanh",
    )
    layer_norm_eps: Annotated[float, Identity.UNLESS_DEFAULT] = Field(
        default=1e-12, gt=0, description="what LayerNorm adds to a variance, BERT's"
    )
    initializer_range: float = Field(default=0.02, gt=0, description="spread of new weights (normal)")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share of the states that training drops")
    attention_dropout: float = Field(default=0.1, ge=0, lt=1, description="share of the attention weights it drops")
    sequences: Annotated[Literal["auto", "padded", "packed"], Identity.NEVER] = Field(
        default="auto",
        description="how captions and region lists of unequal length go through the layers; the result is the same. "
        "padded: as one rectangle; packed: without padding, on a GPU in half precision with attention_dropout=0 in "
        "the attention too; auto: packed where there is padding",
    )
    bert: Annotated[str | None, Identity.BY_CONTENT] = Field(
        default=None,
        description="BERT that training from scratch starts from, its first num_layers layers: a folder with "
        "config.json and model.safetensors or pytorch_model.bin, or a name on the Hugging Face hub such as "
        "google-bert/bert-base-uncased. Its heads are new where it has none; its vocabulary and settings must be "
        "vocabulary_path's and the encoder's. None: new weights",
    )

    @property
    def closing_marks(self) -> int:
        """Tokens that the encoder itself puts behind words and regions."""
        return 0

    @property
    def picture_regions(self) -> int:
        """Regions that the encoder itself puts before the detector's: 1 where the whole picture is one."""
        return 0

    @property
    def reads_text(self) -> bool:
        """Whether it reads rows of text without any picture, too."""
        return False

    @model_validator(mode="after")
    def _check_sizes(self) -> EncoderConfig:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size={self.hidden_size} is not a multiple of num_heads={self.num_heads}")
        if (adaptive := self.adaptive_regions) is not None and adaptive.least > self.max_regions:
            raise ValueError(f"adaptive_regions.least={adaptive.least} exceeds max_regions={self.max_regions}")
        if self.max_text_tokens >= self.max_positions:
            raise ValueError(
                f"max_text_tokens={self.max_text_tokens} must be below max_positions={self.max_positions}: "
                "the closing [SEP] takes one position"
            )
        return self
