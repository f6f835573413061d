import pytest
from pydantic import ValidationError

from feature_extraction.config import ExtractorConfig


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"min_regions": 11, "max_regions": 10}, "min_regions=11 exceeds max_regions=10"),
        ({"class_scores": "top:0"}, "class_scores"),
        ({"class_scores": "top:101"}, "class_scores"),
        ({"class_scores": "some"}, "class_scores"),
        ({"top_labels": -1}, "class_scores"),
        ({"weights": "random:x"}, "give 'random' or 'random:SEED'"),
        ({"weights": "random:-1"}, "give 'random' or 'random:SEED'"),
        ({"weights": f"random:{2**63}"}, "with a number from 0 to 9223372036854775807"),
        ({"model": "vg-r101-c4", "vocabulary": "objects.txt"}, "set weights to faster_rcnn_from_caffe.pkl"),
        ({"model": "vg-r101-c4", "weights": "w.pkl"}, "set vocabulary to the objects_vocab.txt of 1,600 lines"),
    ],
)
def test_what_does_not_go_together_is_refused(fields, problem):
    with pytest.raises(ValidationError, match=problem):
        ExtractorConfig(**fields)


@pytest.mark.parametrize(
    ("weights", "seed"), [(None, None), ("random", 0), ("random:17", 17), ("random.pth", None), ("a/random", None)]
)
def test_random_weights_are_only_those_asked_for_by_name(weights, seed):
    assert ExtractorConfig(weights=weights).random_seed == seed


def test_fields_that_came_later_are_fingerprinted_only_where_they_say_something_new():
    assert set(ExtractorConfig().fingerprinted()) == {
        "backend", "model", "max_regions", "min_score", "min_regions", "selection", "nms_threshold", "num_proposals",
        "encoding",
    }  # fmt: skip
    later = {"box": "proposal", "feature_at": "final", "class_scores": "all", "precision": "bf16"}
    for name, value in later.items():
        told = ExtractorConfig(**{name: value}).fingerprinted()
        assert told == ExtractorConfig().fingerprinted() | {name: value}


def test_best_classes_asked_for_by_the_field_of_before_are_the_same_extractor():
    old, new = ExtractorConfig.model_validate({"top_labels": 5}), ExtractorConfig(class_scores="top:5")
    assert old == new
    assert new.fingerprinted() == ExtractorConfig().fingerprinted() | {"top_labels": 5}
    assert ExtractorConfig.model_validate({"top_labels": 0}) == ExtractorConfig()
    assert (new.layout(8, 3).num_top, new.layout(8, 3).class_scores) == (3, "top:3")  # no more than there are classes
    assert ExtractorConfig(class_scores="all").layout(8, 3).num_classes == 3
    assert new.format == "rgn/1" != ExtractorConfig(class_scores="all").format


def test_speed_and_places_of_files_are_not_fingerprinted():
    moved = ExtractorConfig(batch_size=2, device="cpu", weights="w.pth", vocabulary="v.txt", trust_weights=True)
    assert moved.fingerprinted() == ExtractorConfig().fingerprinted()


def test_a_short_name_counts_as_the_model_that_it_is_short_for():
    assert ExtractorConfig(model="coco-r101-c4").fingerprinted() == ExtractorConfig().fingerprinted()
    assert ExtractorConfig(model="coco-r50-c4").fingerprinted() != ExtractorConfig().fingerprinted()


def test_a_login_in_the_url_of_weights_is_refused_since_records_would_show_it():
    ExtractorConfig(weights="https://example.org/w.pkl")
    for uri in ("https://me:secret@example.org/w.pkl", "https://example.org/w.pkl?X-Amz-Signature=secret"):
        with pytest.raises(ValueError, match="holds a login"):
            ExtractorConfig(weights=uri)
