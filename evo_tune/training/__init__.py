"""The training recipe: how one Transformer is trained, step by step and reproducibly.

An island: it knows torch and `evo_tune.errors`, and nothing of genomes, trials or runs. One topic a
file; what each name is for stands in its own module. Names are imported on first use, so the parts
that are plain arithmetic (`GPTConfig`, `flops_per_token`, `Schedule`) can be had without loading torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evo_tune.training._check import check_integer as check_integer
    from evo_tune.training._check import check_name as check_name
    from evo_tune.training._check import check_number as check_number
    from evo_tune.training.accounting import optimizer_steps as optimizer_steps
    from evo_tune.training.accounting import stop_step as stop_step
    from evo_tune.training.accumulation import IGNORE as IGNORE
    from evo_tune.training.accumulation import accumulate as accumulate
    from evo_tune.training.adapter import add_adapter as add_adapter
    from evo_tune.training.adapter import load_adapter as load_adapter
    from evo_tune.training.adapter import save_adapter as save_adapter
    from evo_tune.training.adapter import trained_weights as trained_weights
    from evo_tune.training.allocator import keep_freed_memory as keep_freed_memory
    from evo_tune.training.base import TARGETS as TARGETS
    from evo_tune.training.base import Base as Base
    from evo_tune.training.base import read_base as read_base
    from evo_tune.training.capacity import calibrate_memory as calibrate_memory
    from evo_tune.training.capacity import device_memory as device_memory
    from evo_tune.training.capacity import fit_device as fit_device
    from evo_tune.training.capacity import measured_peak as measured_peak
    from evo_tune.training.checkpoint import load_checkpoint as load_checkpoint
    from evo_tune.training.checkpoint import save_checkpoint as save_checkpoint
    from evo_tune.training.classification import Scores as Scores
    from evo_tune.training.classification import auc as auc
    from evo_tune.training.classification import score as score
    from evo_tune.training.clipping import clip as clip
    from evo_tune.training.clipping import gradient_norm as gradient_norm
    from evo_tune.training.columns import Columns as Columns
    from evo_tune.training.comparison import check_comparable as check_comparable
    from evo_tune.training.course import Course as Course
    from evo_tune.training.course import Material as Material
    from evo_tune.training.determinism import reproducible as reproducible
    from evo_tune.training.determinism import seed_for as seed_for
    from evo_tune.training.distributed import Ranks as Ranks
    from evo_tune.training.distributed import RanksDiffer as RanksDiffer
    from evo_tune.training.distributed import process_group as process_group
    from evo_tune.training.divergence import Diverged as Diverged
    from evo_tune.training.divergence import DivergenceWatch as DivergenceWatch
    from evo_tune.training.early_stopping import EarlyStopping as EarlyStopping
    from evo_tune.training.ema import average_of as average_of
    from evo_tune.training.encoder import Classifier as Classifier
    from evo_tune.training.encoder import DropPath as DropPath
    from evo_tune.training.encoder_config import EncoderConfig as EncoderConfig
    from evo_tune.training.encoder_config import FTConfig as FTConfig
    from evo_tune.training.encoder_config import TextConfig as TextConfig
    from evo_tune.training.encoder_config import ViTConfig as ViTConfig
    from evo_tune.training.encoder_config import nearest_divisor as nearest_divisor
    from evo_tune.training.epochs import Epochs as Epochs
    from evo_tune.training.epochs import mix as mix
    from evo_tune.training.epochs import soft_targets as soft_targets
    from evo_tune.training.evaluation import Evaluation as Evaluation
    from evo_tune.training.evaluation import evaluate as evaluate
    from evo_tune.training.evaluation import evaluate_by_position as evaluate_by_position
    from evo_tune.training.evaluation import losses_by_position as losses_by_position
    from evo_tune.training.extension import extend_context as extend_context
    from evo_tune.training.extension import extend_trainer as extend_trainer
    from evo_tune.training.fitting import Examples as Examples
    from evo_tune.training.fitting import fit as fit
    from evo_tune.training.flops import flops_per_token as flops_per_token
    from evo_tune.training.flops import recompute_flops_per_token as recompute_flops_per_token
    from evo_tune.training.ft_transformer import FTTransformer as FTTransformer
    from evo_tune.training.gap_decay import GapDecay as GapDecay
    from evo_tune.training.gap_decay import GapWatch as GapWatch
    from evo_tune.training.gpt import GPT as GPT
    from evo_tune.training.gpt_config import GPTConfig as GPTConfig
    from evo_tune.training.growth import carry_state as carry_state
    from evo_tune.training.growth import grow as grow
    from evo_tune.training.growth import reshape as reshape
    from evo_tune.training.houlsby import Adapters as Adapters
    from evo_tune.training.houlsby import add_adapters as add_adapters
    from evo_tune.training.launcher import RankFailed as RankFailed
    from evo_tune.training.launcher import launch as launch
    from evo_tune.training.lora import LoRA as LoRA
    from evo_tune.training.lora import add_lora as add_lora
    from evo_tune.training.lora import fold_lora as fold_lora
    from evo_tune.training.lora import merge_lora as merge_lora
    from evo_tune.training.memory import Fit as Fit
    from evo_tune.training.memory import Memory as Memory
    from evo_tune.training.memory import fit_memory as fit_memory
    from evo_tune.training.memory import fitting_micro_batch as fitting_micro_batch
    from evo_tune.training.memory import predict_memory as predict_memory
    from evo_tune.training.muon import Muon as Muon
    from evo_tune.training.optimizer import SGD as SGD
    from evo_tune.training.optimizer import AdamW as AdamW
    from evo_tune.training.optimizer import decay_groups as decay_groups
    from evo_tune.training.phases import Phase as Phase
    from evo_tune.training.phases import plan_phases as plan_phases
    from evo_tune.training.phases import spent as spent
    from evo_tune.training.plan import CLASSIFIER_METRICS as CLASSIFIER_METRICS
    from evo_tune.training.plan import Plan as Plan
    from evo_tune.training.precision import Precision as Precision
    from evo_tune.training.pretrained import encode as encode
    from evo_tune.training.pretrained import load_pretrained as load_pretrained
    from evo_tune.training.pretrained import save_merged as save_merged
    from evo_tune.training.probe import fastest_precision as fastest_precision
    from evo_tune.training.ramp import BatchRamp as BatchRamp
    from evo_tune.training.scaling import scale_betas as scale_betas
    from evo_tune.training.scaling import scale_lr as scale_lr
    from evo_tune.training.schedule import SCHEDULES as SCHEDULES
    from evo_tune.training.schedule import Schedule as Schedule
    from evo_tune.training.splits import stratified as stratified
    from evo_tune.training.targets import matching_names as matching_names
    from evo_tune.training.text import python_paragraphs as python_paragraphs
    from evo_tune.training.text import read_text as read_text
    from evo_tune.training.text import split_text as split_text
    from evo_tune.training.text_classifier import TextClassifier as TextClassifier
    from evo_tune.training.texts import encode_texts as encode_texts
    from evo_tune.training.texts import tokens_of as tokens_of
    from evo_tune.training.throughput import Throughput as Throughput
    from evo_tune.training.throughput import mfu as mfu
    from evo_tune.training.throughput import peak_flops as peak_flops
    from evo_tune.training.tokenizer import BPE as BPE
    from evo_tune.training.tokenizer import Bytes as Bytes
    from evo_tune.training.tokenizer import Tokenizer as Tokenizer
    from evo_tune.training.tokenizer import tokenizer_for as tokenizer_for
    from evo_tune.training.trainer import Recipe as Recipe
    from evo_tune.training.trainer import Step as Step
    from evo_tune.training.trainer import Trainer as Trainer
    from evo_tune.training.vit import ViT as ViT
    from evo_tune.training.weight_decay import WeightDecay as WeightDecay
    from evo_tune.training.windows import TrainingWindows as TrainingWindows
    from evo_tune.training.windows import fixed_windows as fixed_windows
    from evo_tune.training.windows import held_out_blocks as held_out_blocks

_HOMES = {
    "AdamW": "optimizer",
    "Adapters": "houlsby",
    "BPE": "tokenizer",
    "Base": "base",
    "BatchRamp": "ramp",
    "Bytes": "tokenizer",
    "CLASSIFIER_METRICS": "plan",
    "Classifier": "encoder",
    "Columns": "columns",
    "Course": "course",
    "Diverged": "divergence",
    "DivergenceWatch": "divergence",
    "DropPath": "encoder",
    "EarlyStopping": "early_stopping",
    "EncoderConfig": "encoder_config",
    "Epochs": "epochs",
    "Evaluation": "evaluation",
    "Examples": "fitting",
    "FTConfig": "encoder_config",
    "FTTransformer": "ft_transformer",
    "Fit": "memory",
    "GPT": "gpt",
    "GPTConfig": "gpt_config",
    "GapDecay": "gap_decay",
    "GapWatch": "gap_decay",
    "IGNORE": "accumulation",
    "LoRA": "lora",
    "Material": "course",
    "Memory": "memory",
    "Muon": "muon",
    "Phase": "phases",
    "Plan": "plan",
    "Precision": "precision",
    "RankFailed": "launcher",
    "Ranks": "distributed",
    "RanksDiffer": "distributed",
    "Recipe": "trainer",
    "SCHEDULES": "schedule",
    "SGD": "optimizer",
    "Schedule": "schedule",
    "Scores": "classification",
    "Step": "trainer",
    "TARGETS": "base",
    "TextClassifier": "text_classifier",
    "TextConfig": "encoder_config",
    "Throughput": "throughput",
    "Tokenizer": "tokenizer",
    "Trainer": "trainer",
    "TrainingWindows": "windows",
    "ViT": "vit",
    "ViTConfig": "encoder_config",
    "WeightDecay": "weight_decay",
    "accumulate": "accumulation",
    "add_adapter": "adapter",
    "add_adapters": "houlsby",
    "add_lora": "lora",
    "auc": "classification",
    "average_of": "ema",
    "calibrate_memory": "capacity",
    "carry_state": "growth",
    "check_comparable": "comparison",
    "check_integer": "_check",
    "check_name": "_check",
    "check_number": "_check",
    "clip": "clipping",
    "decay_groups": "optimizer",
    "device_memory": "capacity",
    "encode": "pretrained",
    "encode_texts": "texts",
    "evaluate": "evaluation",
    "evaluate_by_position": "evaluation",
    "extend_context": "extension",
    "extend_trainer": "extension",
    "fastest_precision": "probe",
    "fit": "fitting",
    "fit_device": "capacity",
    "fit_memory": "memory",
    "fitting_micro_batch": "memory",
    "fixed_windows": "windows",
    "flops_per_token": "flops",
    "fold_lora": "lora",
    "gradient_norm": "clipping",
    "grow": "growth",
    "held_out_blocks": "windows",
    "keep_freed_memory": "allocator",
    "launch": "launcher",
    "load_adapter": "adapter",
    "load_checkpoint": "checkpoint",
    "load_pretrained": "pretrained",
    "losses_by_position": "evaluation",
    "matching_names": "targets",
    "measured_peak": "capacity",
    "merge_lora": "lora",
    "mfu": "throughput",
    "mix": "epochs",
    "nearest_divisor": "encoder_config",
    "optimizer_steps": "accounting",
    "peak_flops": "throughput",
    "plan_phases": "phases",
    "predict_memory": "memory",
    "process_group": "distributed",
    "python_paragraphs": "text",
    "read_base": "base",
    "read_text": "text",
    "recompute_flops_per_token": "flops",
    "reproducible": "determinism",
    "reshape": "growth",
    "save_adapter": "adapter",
    "save_checkpoint": "checkpoint",
    "save_merged": "pretrained",
    "scale_betas": "scaling",
    "scale_lr": "scaling",
    "score": "classification",
    "seed_for": "determinism",
    "soft_targets": "epochs",
    "spent": "phases",
    "split_text": "text",
    "stop_step": "accounting",
    "stratified": "splits",
    "tokenizer_for": "tokenizer",
    "tokens_of": "texts",
    "trained_weights": "adapter",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
