"""The training recipe, which knows nothing of runs. Names are imported on first use: arithmetic needs no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evo_tune.options.bounds import check_integer as check_integer
    from evo_tune.options.bounds import check_name as check_name
    from evo_tune.options.bounds import check_number as check_number
    from evo_tune.training.accounting import optimizer_steps as optimizer_steps
    from evo_tune.training.accounting import stop_step as stop_step
    from evo_tune.training.building import export_language as export_language
    from evo_tune.training.building import language_course as language_course
    from evo_tune.training.checkpoint import load_checkpoint as load_checkpoint
    from evo_tune.training.checkpoint import save_checkpoint as save_checkpoint
    from evo_tune.training.classification import Scores as Scores
    from evo_tune.training.classification import auc as auc
    from evo_tune.training.classification import score as score
    from evo_tune.training.classifier_building import classifier_course as classifier_course
    from evo_tune.training.classifier_building import classify_together as classify_together
    from evo_tune.training.classifier_building import evaluate_classifier as evaluate_classifier
    from evo_tune.training.classifier_building import export_classifier as export_classifier
    from evo_tune.training.classifying import ClassifierTask as ClassifierTask
    from evo_tune.training.classifying import Classifying as Classifying
    from evo_tune.training.classifying import divided as divided
    from evo_tune.training.classifying import known_before as known_before
    from evo_tune.training.classifying import write_classifier as write_classifier
    from evo_tune.training.course import Course as Course
    from evo_tune.training.data.augment import Augmenting as Augmenting
    from evo_tune.training.data.batch import IGNORE as IGNORE
    from evo_tune.training.data.columns import Columns as Columns
    from evo_tune.training.data.corpus import Corpus as Corpus
    from evo_tune.training.data.corpus import TextMaterial as TextMaterial
    from evo_tune.training.data.corpus import Texts as Texts
    from evo_tune.training.data.docstrings import docstrings as docstrings
    from evo_tune.training.data.epochs import Epochs as Epochs
    from evo_tune.training.data.epochs import mix as mix
    from evo_tune.training.data.epochs import soft_targets as soft_targets
    from evo_tune.training.data.images import Images as Images
    from evo_tune.training.data.images import read_images as read_images
    from evo_tune.training.data.labelled_texts import LabelledTexts as LabelledTexts
    from evo_tune.training.data.labelled_texts import read_labelled_texts as read_labelled_texts
    from evo_tune.training.data.splits import hash_of as hash_of
    from evo_tune.training.data.splits import stratified as stratified
    from evo_tune.training.data.tables import Table as Table
    from evo_tune.training.data.tables import read_table as read_table
    from evo_tune.training.data.text import python_paragraphs as python_paragraphs
    from evo_tune.training.data.text import read_text as read_text
    from evo_tune.training.data.text import split_text as split_text
    from evo_tune.training.data.texts import encode_texts as encode_texts
    from evo_tune.training.data.texts import tokens_of as tokens_of
    from evo_tune.training.data.tokenizer import BPE as BPE
    from evo_tune.training.data.tokenizer import Bytes as Bytes
    from evo_tune.training.data.tokenizer import Tokenizer as Tokenizer
    from evo_tune.training.data.tokenizer import tokenizer_for as tokenizer_for
    from evo_tune.training.data.windows import TrainingWindows as TrainingWindows
    from evo_tune.training.data.windows import fixed_windows as fixed_windows
    from evo_tune.training.data.windows import held_out_blocks as held_out_blocks
    from evo_tune.training.evaluation import Evaluation as Evaluation
    from evo_tune.training.evaluation import evaluate as evaluate
    from evo_tune.training.evaluation import evaluate_by_position as evaluate_by_position
    from evo_tune.training.evaluation import losses_by_position as losses_by_position
    from evo_tune.training.extension import extend_context as extend_context
    from evo_tune.training.extension import extend_trainer as extend_trainer
    from evo_tune.training.extension import grow_trainer as grow_trainer
    from evo_tune.training.hardware.allocator import keep_freed_memory as keep_freed_memory
    from evo_tune.training.hardware.capacity import calibrate_memory as calibrate_memory
    from evo_tune.training.hardware.capacity import device_memory as device_memory
    from evo_tune.training.hardware.capacity import fit_device as fit_device
    from evo_tune.training.hardware.capacity import measured_peak as measured_peak
    from evo_tune.training.hardware.computing import Computing as Computing
    from evo_tune.training.hardware.computing import Passes as Passes
    from evo_tune.training.hardware.computing import Processes as Processes
    from evo_tune.training.hardware.computing import has_gpu as has_gpu
    from evo_tune.training.hardware.determinism import reproducible as reproducible
    from evo_tune.training.hardware.determinism import seed_for as seed_for
    from evo_tune.training.hardware.distributed import Ranks as Ranks
    from evo_tune.training.hardware.distributed import RanksDiffer as RanksDiffer
    from evo_tune.training.hardware.distributed import process_group as process_group
    from evo_tune.training.hardware.flops import flops_per_token as flops_per_token
    from evo_tune.training.hardware.flops import recompute_flops_per_token as recompute_flops_per_token
    from evo_tune.training.hardware.launcher import RankFailed as RankFailed
    from evo_tune.training.hardware.launcher import launch as launch
    from evo_tune.training.hardware.memory import Fit as Fit
    from evo_tune.training.hardware.memory import Memory as Memory
    from evo_tune.training.hardware.memory import encoder_memory as encoder_memory
    from evo_tune.training.hardware.memory import fit_memory as fit_memory
    from evo_tune.training.hardware.memory import fitting_micro_batch as fitting_micro_batch
    from evo_tune.training.hardware.memory import predict_memory as predict_memory
    from evo_tune.training.hardware.precision import Precision as Precision
    from evo_tune.training.hardware.probe import fastest_precision as fastest_precision
    from evo_tune.training.hardware.throughput import Throughput as Throughput
    from evo_tune.training.hardware.throughput import mfu as mfu
    from evo_tune.training.hardware.throughput import peak_flops as peak_flops
    from evo_tune.training.language import LanguageOptions as LanguageOptions
    from evo_tune.training.language import LanguageTask as LanguageTask
    from evo_tune.training.metrics import CLASSIFIER_METRICS as CLASSIFIER_METRICS
    from evo_tune.training.metrics import METRICS as METRICS
    from evo_tune.training.metrics import Metric as Metric
    from evo_tune.training.metrics import measured as measured
    from evo_tune.training.metrics import tests_of as tests_of
    from evo_tune.training.metrics import units_of as units_of
    from evo_tune.training.models.dropout import Dropout as Dropout
    from evo_tune.training.models.dropout import DropPath as DropPath
    from evo_tune.training.models.encoder import Classifier as Classifier
    from evo_tune.training.models.encoder_config import EncoderConfig as EncoderConfig
    from evo_tune.training.models.encoder_config import FTConfig as FTConfig
    from evo_tune.training.models.encoder_config import Quantiling as Quantiling
    from evo_tune.training.models.encoder_config import TextConfig as TextConfig
    from evo_tune.training.models.encoder_config import ViTConfig as ViTConfig
    from evo_tune.training.models.encoder_config import nearest_divisor as nearest_divisor
    from evo_tune.training.models.ft_transformer import FTTransformer as FTTransformer
    from evo_tune.training.models.gpt import GPT as GPT
    from evo_tune.training.models.gpt_config import Architecture as Architecture
    from evo_tune.training.models.gpt_config import Decoder as Decoder
    from evo_tune.training.models.gpt_config import Extending as Extending
    from evo_tune.training.models.gpt_config import GPTConfig as GPTConfig
    from evo_tune.training.models.gpt_config import Positions as Positions
    from evo_tune.training.models.gpt_config import Windows as Windows
    from evo_tune.training.models.gpt_config import divisor_below as divisor_below
    from evo_tune.training.models.gpt_config import hidden_width as hidden_width
    from evo_tune.training.models.growth.reshaping import grow as grow
    from evo_tune.training.models.growth.reshaping import reshape as reshape
    from evo_tune.training.models.growth.widening import carry_state as carry_state
    from evo_tune.training.models.text_classifier import TextClassifier as TextClassifier
    from evo_tune.training.models.transfer.carrying import carry_language as carry_language
    from evo_tune.training.models.vit import ViT as ViT
    from evo_tune.training.optim.accumulation import accumulate as accumulate
    from evo_tune.training.optim.clipping import Clipping as Clipping
    from evo_tune.training.optim.clipping import clip as clip
    from evo_tune.training.optim.clipping import gradient_norm as gradient_norm
    from evo_tune.training.optim.divergence import Diverged as Diverged
    from evo_tune.training.optim.divergence import DivergenceWatch as DivergenceWatch
    from evo_tune.training.optim.early_stopping import EarlyStopping as EarlyStopping
    from evo_tune.training.optim.early_stopping import Stopping as Stopping
    from evo_tune.training.optim.ema import Averaging as Averaging
    from evo_tune.training.optim.gap_decay import Decaying as Decaying
    from evo_tune.training.optim.gap_decay import GapDecay as GapDecay
    from evo_tune.training.optim.gap_decay import GapWatch as GapWatch
    from evo_tune.training.optim.muon import Muon as Muon
    from evo_tune.training.optim.optimisation import Optimisation as Optimisation
    from evo_tune.training.optim.optimizer import SGD as SGD
    from evo_tune.training.optim.optimizer import AdamW as AdamW
    from evo_tune.training.optim.optimizer import decay_groups as decay_groups
    from evo_tune.training.optim.ramp import BatchRamp as BatchRamp
    from evo_tune.training.optim.ramp import Ramping as Ramping
    from evo_tune.training.optim.scaling import scale_betas as scale_betas
    from evo_tune.training.optim.scaling import scale_lr as scale_lr
    from evo_tune.training.optim.schedule import SCHEDULES as SCHEDULES
    from evo_tune.training.optim.schedule import Schedule as Schedule
    from evo_tune.training.optim.schedule import Scheduling as Scheduling
    from evo_tune.training.optim.schedule import idle_fields as idle_fields
    from evo_tune.training.optim.schedule import shape as shape
    from evo_tune.training.optim.weight_decay import WeightDecay as WeightDecay
    from evo_tune.training.phases import Budget as Budget
    from evo_tune.training.phases import Phase as Phase
    from evo_tune.training.phases import plan_phases as plan_phases
    from evo_tune.training.phases import spent as spent
    from evo_tune.training.plan import Plan as Plan
    from evo_tune.training.plan import ToZero as ToZero
    from evo_tune.training.plan import Training as Training
    from evo_tune.training.session import Place as Place
    from evo_tune.training.session import train as train
    from evo_tune.training.session import train_together as train_together
    from evo_tune.training.stepping.averaging import average_of as average_of
    from evo_tune.training.stepping.recipe import Recipe as Recipe
    from evo_tune.training.stepping.taken import Step as Step
    from evo_tune.training.subjects.examples import Examples as Examples
    from evo_tune.training.subjects.reading import Material as Material
    from evo_tune.training.subjects.reading import Reading as Reading
    from evo_tune.training.trainer import Trainer as Trainer
    from evo_tune.training.tuning.adapter import add_adapter as add_adapter
    from evo_tune.training.tuning.adapter import load_adapter as load_adapter
    from evo_tune.training.tuning.adapter import save_adapter as save_adapter
    from evo_tune.training.tuning.adapter import trained_weights as trained_weights
    from evo_tune.training.tuning.base import TARGETS as TARGETS
    from evo_tune.training.tuning.base import Base as Base
    from evo_tune.training.tuning.base import read_base as read_base
    from evo_tune.training.tuning.houlsby import Adapters as Adapters
    from evo_tune.training.tuning.houlsby import add_adapters as add_adapters
    from evo_tune.training.tuning.lora import LoRA as LoRA
    from evo_tune.training.tuning.lora import add_lora as add_lora
    from evo_tune.training.tuning.lora import fold_lora as fold_lora
    from evo_tune.training.tuning.lora import merge_lora as merge_lora
    from evo_tune.training.tuning.pretrained import encode as encode
    from evo_tune.training.tuning.pretrained import load_pretrained as load_pretrained
    from evo_tune.training.tuning.pretrained import save_merged as save_merged
    from evo_tune.training.tuning.small_base import built_in_text as built_in_text
    from evo_tune.training.tuning.small_base import planned_small_base as planned_small_base
    from evo_tune.training.tuning.small_base import read_tuning_text as read_tuning_text
    from evo_tune.training.tuning.small_base import small_base as small_base
    from evo_tune.training.tuning.small_base import small_base_key as small_base_key
    from evo_tune.training.tuning.targets import matching_names as matching_names
    from evo_tune.training.tuning.tune import TuningTask as TuningTask
    from evo_tune.training.tuning.tune import tuning_course as tuning_course
    from evo_tune.training.tuning.tuned_files import write_tuned as write_tuned
    from evo_tune.training.tuning.tuning_memory import NewWeights as NewWeights
    from evo_tune.training.tuning.tuning_memory import tuning_memory as tuning_memory
    from evo_tune.training.tuning.tuning_options import Tuning as Tuning
    from evo_tune.training.tuning.tuning_text import TuningText as TuningText
    from evo_tune.training.tuning.tuning_text import tuning_text as tuning_text

_NAMES = {
    ".options.bounds": "check_integer check_name check_number",
    "accounting": "optimizer_steps stop_step",
    "building": "export_language language_course",
    "checkpoint": "load_checkpoint save_checkpoint",
    "classification": "auc score Scores",
    "classifier_building": "classifier_course classify_together evaluate_classifier export_classifier",
    "classifying": "ClassifierTask Classifying divided known_before write_classifier",
    "course": "Course",
    "data.augment": "Augmenting",
    "data.batch": "IGNORE",
    "data.columns": "Columns",
    "data.corpus": "Corpus TextMaterial Texts",
    "data.docstrings": "docstrings",
    "data.epochs": "Epochs mix soft_targets",
    "data.images": "Images read_images",
    "data.labelled_texts": "LabelledTexts read_labelled_texts",
    "data.splits": "hash_of stratified",
    "data.tables": "read_table Table",
    "data.text": "python_paragraphs read_text split_text",
    "data.texts": "encode_texts tokens_of",
    "data.tokenizer": "BPE Bytes Tokenizer tokenizer_for",
    "data.windows": "fixed_windows held_out_blocks TrainingWindows",
    "evaluation": "evaluate evaluate_by_position Evaluation losses_by_position",
    "extension": "extend_context extend_trainer grow_trainer",
    "hardware.allocator": "keep_freed_memory",
    "hardware.capacity": "calibrate_memory device_memory fit_device measured_peak",
    "hardware.computing": "Computing has_gpu Passes Processes",
    "hardware.determinism": "reproducible seed_for",
    "hardware.distributed": "process_group Ranks RanksDiffer",
    "hardware.flops": "flops_per_token recompute_flops_per_token",
    "hardware.launcher": "launch RankFailed",
    "hardware.memory": "encoder_memory Fit fit_memory fitting_micro_batch Memory predict_memory",
    "hardware.precision": "Precision",
    "hardware.probe": "fastest_precision",
    "hardware.throughput": "mfu peak_flops Throughput",
    "language": "LanguageOptions LanguageTask",
    "metrics": "CLASSIFIER_METRICS measured Metric METRICS tests_of units_of",
    "models.dropout": "Dropout DropPath",
    "models.encoder": "Classifier",
    "models.encoder_config": "EncoderConfig FTConfig nearest_divisor Quantiling TextConfig ViTConfig",
    "models.ft_transformer": "FTTransformer",
    "models.gpt": "GPT",
    "models.gpt_config": "Architecture Decoder divisor_below Extending GPTConfig hidden_width Positions Windows",
    "models.growth.reshaping": "grow reshape",
    "models.growth.widening": "carry_state",
    "models.text_classifier": "TextClassifier",
    "models.transfer.carrying": "carry_language",
    "models.vit": "ViT",
    "optim.accumulation": "accumulate",
    "optim.clipping": "clip Clipping gradient_norm",
    "optim.divergence": "Diverged DivergenceWatch",
    "optim.early_stopping": "EarlyStopping Stopping",
    "optim.ema": "Averaging",
    "optim.gap_decay": "Decaying GapDecay GapWatch",
    "optim.muon": "Muon",
    "optim.optimisation": "Optimisation",
    "optim.optimizer": "AdamW decay_groups SGD",
    "optim.ramp": "BatchRamp Ramping",
    "optim.scaling": "scale_betas scale_lr",
    "optim.schedule": "idle_fields Schedule SCHEDULES Scheduling shape",
    "optim.weight_decay": "WeightDecay",
    "phases": "Budget Phase plan_phases spent",
    "plan": "Plan ToZero Training",
    "session": "Place train train_together",
    "stepping.averaging": "average_of",
    "stepping.recipe": "Recipe",
    "stepping.taken": "Step",
    "subjects.examples": "Examples",
    "subjects.reading": "Material Reading",
    "trainer": "Trainer",
    "tuning.adapter": "add_adapter load_adapter save_adapter trained_weights",
    "tuning.base": "Base read_base TARGETS",
    "tuning.houlsby": "Adapters add_adapters",
    "tuning.lora": "add_lora fold_lora LoRA merge_lora",
    "tuning.pretrained": "encode load_pretrained save_merged",
    "tuning.small_base": "built_in_text planned_small_base read_tuning_text small_base small_base_key",
    "tuning.targets": "matching_names",
    "tuning.tune": "tuning_course TuningTask",
    "tuning.tuned_files": "write_tuned",
    "tuning.tuning_memory": "NewWeights tuning_memory",
    "tuning.tuning_options": "Tuning",
    "tuning.tuning_text": "tuning_text TuningText",
}
"""The public names of each module."""

_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
