"""UNITER's recipes (arXiv:1909.11740): what its program was run with, by its published configs."""

from __future__ import annotations

from feature_extraction.config import ExtractorConfig
from flows.params.datasets import COCO, FLICKR30K, RetrievalData
from flows.params.experiment import RebuildParams
from model.config import OptimConfig
from model.downstream.retrieval.config import FinetuneConfig, ScoringConfig
from model.families.uniter_config import UniterConfig
from model.objectives.config import PretrainConfig, RegionMasking, TokenBatches, WordMasking
from tasks.config import DatasetConfig

_BERT, _BERT_LARGE = "bert-base-cased", "bert-large-cased"
_MICRO_BATCHES, _GPUS, _PAIRS = 2, 8, 88
"""Of a step of its in-domain pretraining. A micro-batch of 10,240 tokens came out as 88 pairs."""


def optimiser(learning_rate: float, warmup_share: float, max_grad_norm: float, gradient_scale: float) -> OptimConfig:
    """Its optimiser: AdamW with eps before bias correction, its own rule of decay, rates from step 1."""
    return OptimConfig(
        learning_rate=learning_rate,
        beta2=0.98,
        eps=1e-6,
        eps_at="uncorrected",
        decays="uniter",
        warmup_share=warmup_share,
        schedule="from_one",
        gradient_scale=gradient_scale,
        max_grad_norm=max_grad_norm,
    )


def uniter_base(root_uri: str, retrieval: RetrievalData = FLICKR30K) -> RebuildParams:
    """UNITER-base on COCO, Visual Genome, Conceptual Captions and SBU, then retrieval with hard negatives.

    Shares of corpora and objectives are those of the published config. A step is 48 batches of 10,240 tokens, as many
    as 8 GPUs make of 6; ours are full, while the program's hold two fifths of that. What paper and program leave open
    or do with files that are gone: its regions came from a detector in Caffe; pictures of COCO and Visual Genome that
    are in the test sets of retrieval were left out, and the lists here must leave them out too. Expects what
    `uniter_base_cc` does, COCO as `flows/params/datasets.py` says, and visual-genome.tsv and sbu.tsv, a caption TAB url
    a line.
    """
    return _experiment(root_uri, retrieval, UniterConfig(bert=_BERT), _pretraining_of_all(200_000, 10_240, 8, 6))


def uniter_large(root_uri: str, retrieval: RetrievalData = FLICKR30K) -> RebuildParams:
    """UNITER-large: the data of `uniter_base`, 24 layers, 500,000 steps of 64 batches of 6,144 tokens.

    Finetuning has the rate of its config for COCO on every dataset: that for Flickr30K names base's checkpoint, which
    does not fit. Expects the folder bert-large-cased, too.
    """
    encoder = UniterConfig(bert=_BERT_LARGE, hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=4096)
    finetune = hard_negatives(learning_rate=3e-5)
    return _experiment(root_uri, retrieval, encoder, _pretraining_of_all(500_000, 6_144, 16, 4), finetune)


def uniter_base_plain(root_uri: str, retrieval: RetrievalData = FLICKR30K) -> RebuildParams:
    """`uniter_base`, and so the same pretraining run, with one wrong image and one wrong caption a pair.

    The program averages the two hinges, ours adds them: hence their weights. It adds the gradients of 4 micro-batches
    up. The published config is for Flickr30K; on COCO there is none.
    """
    return _with_finetuning(uniter_base(root_uri, retrieval), plain_negatives())


def uniter_base_cc(root_uri: str, retrieval: RetrievalData = FLICKR30K) -> RebuildParams:
    """UNITER-base on Conceptual Captions alone, then retrieval with hard negatives.

    The published model saw COCO, Visual Genome and SBU as well. There is no published config for one corpus: steps and
    batch are those of its in-domain pretraining, the shares of objectives those that it gives Conceptual Captions. Its
    batches are tokens, ours as many pairs as came of them. Expects what `unicoder_vl_v3` does, with the folder
    bert-base-cased in the place of bert-base-uncased, and the Visual Genome detector, faster_rcnn_from_caffe.pkl and
    objects_vocab.txt. Its regions of Conceptual Captions, which are gone, came from a detector in Caffe.
    """
    pretrain = _pretraining(200_000, _MICRO_BATCHES).model_copy(
        update={"batch_size": _MICRO_BATCHES * _GPUS * _PAIRS, "device_batch_size": _PAIRS}
    )
    return _experiment(root_uri, retrieval, UniterConfig(bert=_BERT), pretrain)


def hard_negatives(learning_rate: float = 5e-5) -> FinetuneConfig:
    """Retrieval with the 31 hardest of 399 wrong images and captions: 8 pairs on each of 16 GPUs."""
    return FinetuneConfig(
        steps=5_000,
        batch_size=128,
        device_batch_size=1,
        optim=optimiser(learning_rate, warmup_share=0.1, max_grad_norm=2.0, gradient_scale=1.0),
        score="sigmoid",
        margin=0.2,
        negatives=399,
        hardest=31,
        mean_hinge_share=1.0,
        long_texts="drop",
        validation_steps=1_000,
        validation_images=200,
        keep_best="validation_recall_sum",
        precision="bf16",
    )


def plain_negatives() -> FinetuneConfig:
    """Retrieval with one wrong image and one wrong caption: 40 pairs, 4 times, on each of 8 GPUs."""
    return hard_negatives().model_copy(
        update={
            "steps": 20_000,
            "batch_size": 40 * 4 * 8,
            "device_batch_size": 40,
            "optim": optimiser(5e-5, warmup_share=0.1, max_grad_norm=2.0, gradient_scale=4.0),
            "negatives": 1,
            "hardest": None,
            "text_weight": 0.5,
            "image_weight": 0.5,
        }
    )


_CC3M = DatasetConfig(
    name="cc3m", splits={"train": "Train_GCC-training.tsv", "val": "Validation_GCC-1.1.0-Validation.tsv"}
)
_CORPORA = (
    COCO.dataset,
    DatasetConfig(name="vg", splits={"train": "visual-genome.tsv"}),
    _CC3M,
    DatasetConfig(name="sbu", splits={"train": "sbu.tsv"}),
)
_SMALLER = {"itm": 6.0, "mlm": 8.0, "mrfr": 4.0, "mrc-kl": 4.0}
_LARGER = {"itm": 9.0, "mlm": 12.0, "mrfr": 6.0, "mrc-kl": 6.0}
"""Shares of the objectives in smaller and larger corpora."""


def _pretraining_of_all(steps: int, tokens: int, gpus: int, micro_batches: int) -> PretrainConfig:
    """Pretraining on the four corpora, with the published shares."""
    return _pretraining(steps, micro_batches).model_copy(
        update={
            "corpora": {"coco/train": _SMALLER, "vg/train": _LARGER, "cc3m/train": _LARGER, "sbu/train": _SMALLER},
            "token_batches": TokenBatches(tokens=tokens, buckets=gpus * micro_batches),
        }
    )


def _pretraining(steps: int, micro_batches: int) -> PretrainConfig:
    """What all of its pretraining has in common: 10,000 steps warm up, and micro-batches' gradients are added up."""
    return PretrainConfig(
        steps=steps,
        optim=optimiser(5e-5, warmup_share=10_000 / steps, max_grad_norm=5.0, gradient_scale=float(micro_batches)),
        objectives=_LARGER,
        combine="draw",
        word_masking=WordMasking(mask_share=0.8, random_share=0.1, forced="first", random_from="!"),
        region_masking=RegionMasking(zero_share=1.0, at_least_one=True),
        negative="image",
        long_texts="drop",
        validation_steps=5_000,
        precision="bf16",
    )


def _experiment(
    root_uri: str,
    retrieval: RetrievalData,
    encoder: UniterConfig,
    pretrain: PretrainConfig,
    finetune: FinetuneConfig | None = None,
) -> RebuildParams:
    """The data and the detector of all of them."""
    finetune = finetune or hard_negatives()
    return RebuildParams(
        root_uri=root_uri,
        pretraining_dataset=None if pretrain.corpora else _CC3M,
        pretraining_datasets=_CORPORA if pretrain.corpora else (),
        retrieval_dataset=retrieval.dataset,
        extractor=ExtractorConfig(
            model="vg-r101-c4",
            weights="faster_rcnn_from_caffe.pkl",
            vocabulary="objects_vocab.txt",
            selection="maxconf",
            box="proposal",
            nms_threshold=0.3,
            min_score=0.2,
            min_regions=10,
            class_scores="all",
        ),
        vocabulary_path=encoder.bert or _BERT,
        encoder=encoder,
        pretrain=pretrain,
        finetune=finetune,
        task_specific=finetune.model_copy(update={"start": "scratch"}),
        scoring=ScoringConfig(precision="bf16", protocols=retrieval.protocols),
    )


def _with_finetuning(params: RebuildParams, finetune: FinetuneConfig) -> RebuildParams:
    specific = finetune.model_copy(update={"start": "scratch"})
    return params.model_copy(update={"finetune": finetune, "task_specific": specific})
