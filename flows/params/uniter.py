"""UNITER's recipes (arXiv:1909.11740): what its program was run with, by its published configs."""

from __future__ import annotations

from feature_extraction.config import ExtractorConfig
from flows.params.datasets import FLICKR30K, RetrievalData
from flows.params.experiment import RebuildParams
from model.config import OptimConfig
from model.downstream.retrieval.config import FinetuneConfig, ScoringConfig
from model.families.uniter_config import UniterConfig
from model.objectives.config import PretrainConfig, RegionMasking, WordMasking
from tasks.config import DatasetConfig

_BERT = "bert-base-cased"
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


def uniter_base_cc(root_uri: str, retrieval: RetrievalData = FLICKR30K) -> RebuildParams:
    """UNITER-base on Conceptual Captions alone, then retrieval with hard negatives.

    The published model saw COCO, Visual Genome and SBU as well. There is no published config for one corpus: steps and
    batch are those of its in-domain pretraining, the shares of objectives those that it gives Conceptual Captions. Its
    batches are tokens, ours pairs. Expects what `unicoder_vl_v3` does, with the folder bert-base-cased in the place of
    bert-base-uncased, and the Visual Genome detector, faster_rcnn_from_caffe.pkl and objects_vocab.txt. Its regions of
    Conceptual Captions, which are gone, came from a detector in Caffe.
    """
    finetune = FinetuneConfig(
        steps=5_000,
        batch_size=128,
        device_batch_size=1,
        optim=optimiser(5e-5, warmup_share=0.1, max_grad_norm=2.0, gradient_scale=1.0),
        score="sigmoid",
        margin=0.2,
        negatives=399,
        hardest=31,
        mean_hinge_share=1.0,
        validation_steps=1_000,
        validation_images=200,
        keep_best="validation_recall_sum",
        precision="bf16",
    )
    return RebuildParams(
        root_uri=root_uri,
        pretraining_dataset=DatasetConfig(
            name="cc3m",
            splits={"train": "Train_GCC-training.tsv", "val": "Validation_GCC-1.1.0-Validation.tsv"},
        ),
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
        vocabulary_path=_BERT,
        encoder=UniterConfig(bert=_BERT),
        pretrain=PretrainConfig(
            steps=200_000,
            batch_size=_MICRO_BATCHES * _GPUS * _PAIRS,
            device_batch_size=_PAIRS,
            optim=optimiser(5e-5, warmup_share=0.05, max_grad_norm=5.0, gradient_scale=_MICRO_BATCHES),
            objectives={"itm": 9.0, "mlm": 12.0, "mrfr": 6.0, "mrc-kl": 6.0},
            combine="draw",
            word_masking=WordMasking(mask_share=0.8, random_share=0.1, forced="first", random_from="!"),
            region_masking=RegionMasking(zero_share=1.0, at_least_one=True),
            negative="image",
            validation_steps=5_000,
            precision="bf16",
        ),
        finetune=finetune,
        task_specific=finetune.model_copy(update={"start": "scratch"}),
        scoring=ScoringConfig(precision="bf16", protocols=retrieval.protocols),
    )
