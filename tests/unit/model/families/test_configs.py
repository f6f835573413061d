"""Configs of all families: told apart by `family`, and carried from one family to another."""

import jsonschema
import pytest
from pydantic import TypeAdapter, ValidationError

from model.families.config import EncoderConfig
from model.families.configs import FAMILIES, AnyEncoderConfig, of_family, read_encoder
from model.families.unicoder_vl_config import UnicoderVLConfig
from model.families.uniter_config import UniterConfig


def test_a_config_without_family_is_unicoder_vls_and_each_family_has_its_own():
    assert read_encoder({"num_layers": 3}) == UnicoderVLConfig(num_layers=3)
    assert read_encoder({"family": "uniter", "type_rows": 3}) == UniterConfig(type_rows=3)
    for family in FAMILIES:
        encoder = read_encoder({"family": family})
        assert encoder.family == family and read_encoder(encoder.model_dump(mode="json")) == encoder
    with pytest.raises(ValidationError, match="box_code"):
        read_encoder({"family": "uniter", "box_code": "corners"})
    with pytest.raises(ValidationError, match="family is none of unicoder-vl, uniter"):
        read_encoder({"family": "vilt"})


def test_a_json_schema_takes_each_config_as_one_family():
    schema = TypeAdapter(AnyEncoderConfig).json_schema()
    for given in ({"bert": "bert-base-uncased"}, *({"family": family} for family in FAMILIES)):
        jsonschema.validate(given, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"type_rows": 3}, schema)


def test_no_two_families_share_an_identity():
    identities = [read_encoder({"family": family}).identity() for family in FAMILIES]
    assert all(one not in identities[number + 1 :] for number, one in enumerate(identities))
    # Runs of before there were families are found by an identity without one.
    assert "family" not in identities[0] and all("family" in one for one in identities[1:])


def test_another_family_keeps_what_both_have_and_was_set():
    encoder = UnicoderVLConfig(hidden_size=32, num_heads=4, bert="b", closing_sep=False, segments="modality")
    uniter = of_family(encoder, "uniter")
    assert uniter == UniterConfig(hidden_size=32, num_heads=4, bert="b") and uniter.max_text_tokens == 62
    assert of_family(uniter, "unicoder-vl") == UnicoderVLConfig(hidden_size=32, num_heads=4, bert="b")


def test_what_all_families_have_names_no_family_of_its_own():
    with pytest.raises(ValidationError, match="family"):
        EncoderConfig(hidden_size=32)
