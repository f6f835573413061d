"""The families' configs, told apart by their field `family`. Imports no torch.

A new family is its config here, and its encoder in `model.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Discriminator, GetJsonSchemaHandler, Tag, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

from model.families.config import OLDEST_FAMILY, EncoderConfig
from model.families.unicoder_vl_config import UnicoderVLConfig
from model.families.uniter_config import UniterConfig
from model.families.vl_bert_config import VLBertConfig


def _family(values: Any) -> Any:
    if isinstance(values, BaseModel):
        return getattr(values, "family", None)
    return values.get("family", OLDEST_FAMILY) if isinstance(values, Mapping) else None


_Configs = (
    Annotated[UnicoderVLConfig, Tag("unicoder-vl")]
    | Annotated[UniterConfig, Tag("uniter")]
    | Annotated[VLBertConfig, Tag("vl-bert")]
)
FAMILIES = tuple(get_args(one)[1].tag for one in get_args(_Configs))
"""Their names."""


class _AnyOf:
    """One of several in a JSON schema.

    Prefect's server validates what a deployment sets without regard to fields that must be there, so that a config that
    names no family fits each: "oneOf" would refuse it.
    """

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        made = handler(schema)
        made["anyOf"] = made.pop("oneOf")
        return made


AnyEncoderConfig = Annotated[
    _Configs, Discriminator(_family, "unknown_family", f"family is none of {', '.join(FAMILIES)}"), _AnyOf()
]
"""An encoder's config, of whichever family; a field of this type reads JSON."""
_ADAPTER: TypeAdapter[AnyEncoderConfig] = TypeAdapter(AnyEncoderConfig)


def read_encoder(values: Mapping[str, Any]) -> AnyEncoderConfig:
    """Read an encoder's config from JSON.

    Raises:
        ValidationError: there is no such family, or a field is wrong.
    """
    return _ADAPTER.validate_python(values)


def of_family(encoder: EncoderConfig, family: str) -> AnyEncoderConfig:
    """The same encoder in another family: fields that both have keep values other than their default.

    The rest are the other family's defaults.

    Raises:
        ValidationError: there is no such family, or it does not take a value.
    """
    kept = {
        name: getattr(encoder, name)
        for name, field in type(encoder).model_fields.items()
        if name in EncoderConfig.model_fields and name != "family" and getattr(encoder, name) != field.default
    }
    return read_encoder(kept | {"family": family})
