"""The public names of `evo_tune.recipe`."""

from evo_tune.options.bounds import check_integer, check_name, check_number
from evo_tune.recipe.carrying import carry_language
from evo_tune.recipe.classifying import ClassifierTask, Classifying, divided, known_before
from evo_tune.recipe.data.augmenting import Augment, Augmenting
from evo_tune.recipe.data.columns import Columns
from evo_tune.recipe.data.corpus import Corpus, Texts
from evo_tune.recipe.data.docstrings import docstrings
from evo_tune.recipe.data.images import Images, read_images
from evo_tune.recipe.data.labelled_texts import LabelledTexts, read_labelled_texts
from evo_tune.recipe.data.splits import hash_of, stratified
from evo_tune.recipe.data.tables import Table, read_table
from evo_tune.recipe.data.text import python_paragraphs, read_text, split_text
from evo_tune.recipe.data.texts import encode_texts, tokens_of
from evo_tune.recipe.data.tokenizer import BPE, Bytes, Tokenizer, tokenizer_for
from evo_tune.recipe.hardware.computing import Computing, Passes, Processes, has_gpu
from evo_tune.recipe.hardware.flops import flops_per_token, recompute_flops_per_token
from evo_tune.recipe.hardware.memory import Fit, Memory, encoder_memory, fit_memory, fitting_micro_batch, predict_memory
from evo_tune.recipe.language import LanguageOptions, LanguageTask
from evo_tune.recipe.metrics import CLASSIFIER_METRICS, METRICS, Metric, measured, tests_of, units_of
from evo_tune.recipe.models.encoder_config import (
    EncoderConfig,
    FTConfig,
    Quantiling,
    TextConfig,
    ViTConfig,
    nearest_divisor,
)
from evo_tune.recipe.models.gpt_config import (
    Architecture,
    Decoder,
    Extending,
    GPTConfig,
    Positions,
    Windows,
    divisor_below,
    hidden_width,
)
from evo_tune.recipe.optim.accounting import optimizer_steps, stop_step
from evo_tune.recipe.optim.clipping import Clipping
from evo_tune.recipe.optim.ema import Averaging
from evo_tune.recipe.optim.gap_decay import Decaying, GapDecay, GapWatch
from evo_tune.recipe.optim.optimisation import Optimisation
from evo_tune.recipe.optim.ramp import BatchRamp, Ramping
from evo_tune.recipe.optim.scaling import scale_betas, scale_lr
from evo_tune.recipe.optim.schedule import SCHEDULES, Schedule, Scheduling, idle_fields, shape
from evo_tune.recipe.optim.stopping import Stopping
from evo_tune.recipe.optim.weight_decay import WeightDecay
from evo_tune.recipe.phases import Budget, Phase, plan_phases, spent
from evo_tune.recipe.plan import Plan, ToZero, Training
from evo_tune.recipe.tuning.base import TARGETS, Base, read_base
from evo_tune.recipe.tuning.small_base import built_in_text, planned_small_base, read_tuning_text, small_base_key
from evo_tune.recipe.tuning.targets import matching_names
from evo_tune.recipe.tuning.tuning_memory import NewWeights, tuning_memory
from evo_tune.recipe.tuning_options import Tuning
