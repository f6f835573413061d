"""Recipes are complete, agree with themselves, and survive the trip through JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.params.experiment import RebuildParams
from flows.params.recipes import DEMOS, RECIPES, recipe
from flows.steps.world import uses_world
from model.families.config import EncoderConfig
from model.objectives.config import TokenBatches
from tasks.errors import UserError


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_survives_json(name: str) -> None:
    params = recipe(name, "data")
    assert RebuildParams.model_validate_json(params.model_dump_json()) == params


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_flows_parameters_follow_from_a_recipe(name: str) -> None:
    params = recipe(name, "data")
    params.for_download(), params.for_extract(), params.for_pretrain()
    assert params.for_finetune().pretraining == params.for_pretrain()
    assert params.for_finetune(params.task_specific).pretraining is None
    assert [params.for_evaluate(setting).setting for setting in params.settings] == list(params.settings)


@pytest.mark.parametrize("name", ["unicoder-vl-v1", "unicoder-vl-v3"])
def test_what_both_versions_of_the_paper_say(name: str) -> None:
    params = recipe(name, "data")
    encoder, pretrain, finetune = params.encoder, params.pretrain, params.finetune
    assert (encoder.num_layers, encoder.hidden_size, encoder.num_heads) == (12, 768, 12)
    # 144 positions: 100 regions, three marks, 41 word pieces.
    assert encoder.max_text_tokens + encoder.max_regions + encoder.closing_sep == 144
    assert encoder.max_text_tokens == 41 + 2 and encoder.max_regions == params.extractor.max_regions == 100
    assert encoder.bert == "bert-base-uncased" and not encoder.pooler and encoder.feature_norm == "none"
    assert pretrain.batch_size == finetune.batch_size == 192 and pretrain.steps * 192 == 10 * 3_000_000
    assert pretrain.word_masking.rate == pretrain.region_masking.rate == 0.15 and pretrain.hide == "both"
    assert pretrain.matching == "replace" and not pretrain.mismatched_losses and pretrain.min_label_score == 0
    assert pretrain.objectives == {"mlm": 1, "moc": 1, "vlm": 1} and pretrain.combine == "sum"
    assert finetune.negatives == 3 and finetune.mean_hinge_share == 0
    assert params.task_specific is not None and params.task_specific.start == "scratch"
    assert params.extractor.backend == "detectron2" and not params.download.allow_private_addresses


def test_how_the_two_versions_of_the_paper_differ() -> None:
    def wiring(name: str) -> dict[str, object]:
        params = recipe(name, "data")
        words, regions = params.pretrain.word_masking, params.pretrain.region_masking
        return {
            "box": params.encoder.box_code,
            "fusion": params.encoder.region_fusion,
            "segments": params.encoder.segments,
            "image token": params.encoder.image_token,
            "words masked, random": (words.mask_share, words.random_share),
            "regions zeroed, noised, swapped": (regions.zero_share, regions.noise_share, regions.swap_share),
            "negative": params.pretrain.negative,
            "learning rate": params.pretrain.optim.learning_rate,
            "warm-up steps": round(params.pretrain.optim.warmup_share * params.pretrain.steps),
            "score, margin": (params.finetune.score, params.finetune.margin),
            "hinge weights": (params.finetune.text_weight, params.finetune.image_weight),
            "least score of a region": params.extractor.min_score,
        }

    assert wiring("unicoder-vl-v1") == {
        "box": "corners",
        "fusion": "concat",
        "segments": "modality",
        "image token": False,
        "words masked, random": (0.8, 0.1),
        "regions zeroed, noised, swapped": (0.0, 0.8, 0.1),
        "negative": "image",
        "learning rate": 5e-5,
        "warm-up steps": 20_000,
        "score, margin": ("logit", 0.5),
        "hinge weights": (1.0, 1.5),
        "least score of a region": 0.0,
    }
    assert wiring("unicoder-vl-v3") == {
        "box": "corners_area",
        "fusion": "sum",
        "segments": "none",
        "image token": True,
        "words masked, random": (1.0, 0.0),
        "regions zeroed, noised, swapped": (0.9, 0.0, 0.0),
        "negative": "image_or_caption",
        "learning rate": 1e-4,
        "warm-up steps": 15_625,
        "score, margin": ("sigmoid", 0.2),
        "hinge weights": (1.0, 1.0),
        "least score of a region": 0.2,
    }
    assert recipe("cc3m", "data") == recipe("unicoder-vl-v3", "data")


@pytest.mark.parametrize("version", ["unicoder-vl-v1", "unicoder-vl-v3"])
@pytest.mark.parametrize("dataset", ["coco", "flickr8k"])
def test_another_retrieval_dataset_changes_nothing_but_the_data_and_its_protocols(version: str, dataset: str) -> None:
    flickr30k, other = recipe(version, "data"), recipe(f"{version}-{dataset}", "data")
    assert (flickr30k.retrieval_dataset.name, other.retrieval_dataset.name) == ("flickr30k", dataset)
    scoring = flickr30k.scoring.model_copy(update={"protocols": other.scoring.protocols})
    expected = flickr30k.model_copy(update={"retrieval_dataset": other.retrieval_dataset, "scoring": scoring})
    assert other == expected


def test_coco_is_measured_by_all_protocols_in_use_and_the_others_by_one() -> None:
    assert recipe("unicoder-vl-v1-coco", "data").scoring.protocols == ("all", "folds:1000", "first:1000")
    for name in ("unicoder-vl-v1", "unicoder-vl-v3-flickr8k", "demo"):
        assert recipe(name, "data").scoring.protocols == ("all",)


@pytest.mark.parametrize("name", sorted(set(RECIPES) - set(DEMOS.values())))
def test_the_best_checkpoint_by_recall_on_held_out_images_is_the_result(name: str) -> None:
    params = recipe(name, "data")
    for finetune in (params.finetune, params.task_specific):
        assert finetune is not None and finetune.keep_best == "validation_recall_sum"
        # So that every value that is measured belongs to a checkpoint that is there.
        assert finetune.validation_steps == finetune.checkpoint_steps and finetune.best_is == "largest"
        assert params.for_finetune(finetune).validation_split == "val"


def test_demo_differs_between_full_and_task_specific_in_the_start_alone() -> None:
    params = recipe("demo", "data")
    assert params.task_specific is not None
    assert params.task_specific.model_copy(update={"start": "pretrained"}) == params.finetune


def test_demos_of_other_families_differ_in_the_encoder_and_what_it_is_pretrained_on_alone() -> None:
    first = recipe("demo", "data")
    for name in sorted(set(DEMOS.values()) - {"demo"}):
        params = recipe(name, "data")
        assert params.for_extract() == first.for_extract()
        assert params.for_download() == first.for_download().model_copy(update={"texts": params.texts})
        # Evaluations under one root are not held against those of another family.
        assert params.variant is not None and params.name.endswith(f" to retrieval, {params.variant}")
        own = {field: getattr(params, field) for field in ("encoder", "pretrain", "text_dataset", "variant")}
        assert params == first.model_copy(update=own)
        common = [field for field in type(first.encoder).model_fields if field in EncoderConfig.model_fields]
        for field in set(common) - {"family"}:
            assert getattr(params.encoder, field) == getattr(first.encoder, field)


def test_demo_brings_its_detector() -> None:
    extractor = recipe("demo", "data").extractor
    assert extractor.weights is not None and Path(extractor.weights).is_file()
    assert extractor.vocabulary is not None and Path(extractor.vocabulary).is_file()


def test_demo_reads_the_world_under_its_root_and_cc3m_does_not() -> None:
    assert uses_world(recipe("demo", "elsewhere/"))
    assert not uses_world(recipe("demo", "elsewhere").with_root("moved"))
    assert not uses_world(recipe("cc3m", "data"))


def test_seed_reaches_every_training_run_and_no_data() -> None:
    params = recipe("demo", "data").with_seed(7)
    assert params.task_specific is not None
    assert {params.pretrain.seed, params.finetune.seed, params.task_specific.seed} == {7}
    assert params.for_download() == recipe("demo", "data").for_download()
    assert params.for_extract() == recipe("demo", "data").for_extract()


def test_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="no recipe 'demmo'; known are cc3m, demo"):
        recipe("demmo", "data")


def test_what_uniters_published_configs_say() -> None:
    params = recipe("uniter-base-cc", "data")
    encoder, pretrain, finetune = params.encoder, params.pretrain, params.finetune
    assert encoder.family == "uniter" and (encoder.num_layers, encoder.hidden_size, encoder.num_heads) == (12, 768, 12)
    assert encoder.bert == params.vocabulary_path == "bert-base-cased" and encoder.max_text_tokens == 60 + 2
    assert pretrain.objectives == {"itm": 9, "mlm": 12, "mrfr": 6, "mrc-kl": 6} and pretrain.combine == "draw"
    assert (pretrain.negative, pretrain.alignment_weight, pretrain.vector_losses) == ("image", 0.1, "mean")
    words, regions = pretrain.word_masking, pretrain.region_masking
    assert (words.rate, words.mask_share, words.random_share, words.forced) == (0.15, 0.8, 0.1, "first")
    assert (regions.rate, regions.zero_share, regions.at_least_one) == (0.15, 1, True)
    optim = pretrain.optim
    assert (optim.learning_rate, optim.beta1, optim.beta2, optim.weight_decay) == (5e-5, 0.9, 0.98, 0.01)
    assert (pretrain.steps, optim.warmup_share * pretrain.steps, optim.max_grad_norm) == (200_000, 10_000, 5)
    assert optim.gradient_scale * pretrain.device_batch_size * 8 == pretrain.batch_size
    assert (finetune.negatives, finetune.hardest, finetune.averages(4_999), finetune.mines(0)) == (399, 31, True, True)
    assert (finetune.steps, finetune.optim.warmup_share * finetune.steps, finetune.optim.max_grad_norm) == (
        5_000,
        500,
        2,
    )
    # Its detector's distributions are what mrc-kl learns.
    assert params.extractor.class_scores == "all" and params.settings[0] == "zero-shot"
    assert pretrain.long_texts == finetune.long_texts == "drop"


def test_uniter_reads_four_corpora_with_the_published_shares() -> None:
    base, large = recipe("uniter-base", "data"), recipe("uniter-large", "data")
    smaller, larger = ({"itm": 3 * n, "mlm": 4 * n, "mrfr": 2 * n, "mrc-kl": 2 * n} for n in (2, 3))
    for params, steps, tokens, micro_batches, gpus in ((base, 200_000, 10_240, 6, 8), (large, 500_000, 6_144, 4, 16)):
        pretrain, optim = params.pretrain, params.pretrain.optim
        assert [corpus.name for corpus in params.corpora] == ["coco", "vg", "cc3m", "sbu"]
        assert pretrain.corpora == {
            "coco/train": smaller,
            "vg/train": larger,
            "cc3m/train": larger,
            "sbu/train": smaller,
        }
        assert (pretrain.steps, round(optim.warmup_share * steps)) == (steps, 10_000)
        assert pretrain.token_batches == TokenBatches(tokens=tokens, buckets=gpus * micro_batches)
        assert (optim.gradient_scale, optim.max_grad_norm, optim.learning_rate) == (micro_batches, 5, 5e-5)
        assert params.vocabulary_path == params.encoder.bert
    encoder = large.encoder
    assert (encoder.num_layers, encoder.hidden_size, encoder.num_heads, encoder.intermediate_size) == (
        24,
        1024,
        16,
        4096,
    )
    assert (base.finetune.optim.learning_rate, large.finetune.optim.learning_rate) == (5e-5, 3e-5)


def test_uniter_with_plain_negatives_goes_on_from_the_same_pretraining() -> None:
    hard, plain = recipe("uniter-base", "data"), recipe("uniter-base-plain", "data")
    assert plain.for_pretrain() == hard.for_pretrain()
    finetune = plain.finetune
    assert (finetune.steps, finetune.batch_size, finetune.optim.gradient_scale) == (20_000, 40 * 4 * 8, 4)
    assert (finetune.negatives, finetune.hardest, finetune.mines(0)) == (1, None, False)
    assert finetune.text_weight + finetune.image_weight == 1


def test_what_vl_berts_published_configs_say() -> None:
    params = recipe("vl-bert-base", "data")
    encoder, pretrain, optim = params.encoder, params.pretrain, params.pretrain.optim
    assert encoder.family == "vl-bert" and (encoder.num_layers, encoder.hidden_size, encoder.num_heads) == (12, 768, 12)
    assert encoder.bert == "bert-base-uncased" and params.vocabulary_path == "bert-base-uncased/vocab.txt"
    assert pretrain.objectives == {"mlm": 1, "mvrc": 1, "mlm-text": 1} and pretrain.combine == "sum"
    assert (pretrain.matching, pretrain.hide, pretrain.joint_length) == ("none", "both", 64)
    words, regions = pretrain.word_masking, pretrain.region_masking
    assert (words.rate, words.mask_share, words.random_share) == (0.15, 0.8, 0.1)
    assert words.whole_words and not words.at_least_one
    assert (regions.rate, regions.zero_share, regions.at_least_one) == (0.15, 0.9, False)
    # As many rows of text as pairs, so 256 rows a step; 32 and 32 on each GPU.
    assert (pretrain.batch_size, pretrain.device_batch_size) == (128, 32)
    assert (optim.learning_rate, optim.beta1, optim.beta2) == (pytest.approx(2.56e-5), 0.9, 0.999)
    assert (optim.eps, optim.eps_at, optim.decay_at, optim.decays) == (1e-6, "uncorrected", "after", "all")
    assert (optim.weight_decay, optim.max_grad_norm, optim.schedule) == (1e-4, 10, "from_one")
    assert (pretrain.steps, round(optim.warmup_share * pretrain.steps)) == (250_000, 16_000)
    extractor = params.extractor
    assert (extractor.min_score, extractor.min_regions, extractor.max_regions) == (0.5, 10, 100)
    assert (extractor.nms_threshold, extractor.class_scores) == (0.3, "all")
    assert params.settings == ("task-specific", "pretrain+finetune")
    assert params.for_pretrain().learnt_from == "cc3m/train + books-wiki/train"


def test_vl_bert_without_text_sees_as_many_pairs_in_half_the_steps() -> None:
    base, without = recipe("vl-bert-base", "data"), recipe("vl-bert-base-no-text", "data")
    assert without == base.model_copy(update={"text_dataset": None, "pretrain": without.pretrain})
    own = ("steps", "batch_size", "device_batch_size", "optim", "objectives")
    assert without.pretrain == base.pretrain.model_copy(update={name: getattr(without.pretrain, name) for name in own})
    assert without.pretrain.objectives == {"mlm": 1, "mvrc": 1} and without.pretrain.batch_size == 256
    assert without.pretrain.steps * 256 == base.pretrain.steps * 128
    share = without.pretrain.optim.warmup_share
    assert round(share * without.pretrain.steps) == 8_000
    assert without.pretrain.optim == base.pretrain.optim.model_copy(update={"warmup_share": share})


def test_vl_bert_large_differs_in_bert_and_its_sizes_alone() -> None:
    base, large = recipe("vl-bert-base", "data"), recipe("vl-bert-large", "data")
    sizes = {"hidden_size": 1024, "num_layers": 24, "num_heads": 16, "intermediate_size": 4096}
    encoder = base.encoder.model_copy(update={"bert": "bert-large-uncased", **sizes})
    changed = {"encoder": encoder, "vocabulary_path": "bert-large-uncased/vocab.txt"}
    assert large == base.model_copy(update=changed)
