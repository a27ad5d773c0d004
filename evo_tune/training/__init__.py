"""The engine: models, optimizers and the training itself, on torch. What it is told lies in `evo_tune.recipe`."""

from evo_tune.training.base_training import ready_base, small_base
from evo_tune.training.batch import IGNORE
from evo_tune.training.building import export_language, language_course
from evo_tune.training.checkpoint import load_checkpoint, save_checkpoint
from evo_tune.training.classification import Scores, auc, score
from evo_tune.training.classifier_building import (
    classifier_course,
    classify_together,
    evaluate_classifier,
    export_classifier,
    write_classifier,
)
from evo_tune.training.course import Course
from evo_tune.training.data.augment import augmented
from evo_tune.training.data.epochs import Epochs, mix, soft_targets
from evo_tune.training.data.material import TextMaterial
from evo_tune.training.data.windows import TrainingWindows, fixed_windows, held_out_blocks
from evo_tune.training.evaluation import Evaluation, evaluate, evaluate_by_position, losses_by_position
from evo_tune.training.examples import Examples
from evo_tune.training.extension import extend_context, extend_trainer, grow_trainer
from evo_tune.training.hardware.allocator import keep_freed_memory
from evo_tune.training.hardware.capacity import calibrate_memory, device_memory, fit_device, measured_peak
from evo_tune.training.hardware.determinism import reproducible, seed_for
from evo_tune.training.hardware.distributed import Ranks, RanksDiffer, process_group
from evo_tune.training.hardware.launcher import RankFailed, launch
from evo_tune.training.hardware.precision import Precision
from evo_tune.training.hardware.probe import fastest_precision
from evo_tune.training.hardware.throughput import Throughput, mfu, peak_flops
from evo_tune.training.models.dropout import Dropout, DropPath
from evo_tune.training.models.encoder import Classifier
from evo_tune.training.models.ft_transformer import FTTransformer
from evo_tune.training.models.gpt import GPT
from evo_tune.training.models.reshaping import grow
from evo_tune.training.models.text_classifier import TextClassifier
from evo_tune.training.models.vit import ViT
from evo_tune.training.models.widening import carry_state
from evo_tune.training.optim.divergence import Diverged, DivergenceWatch
from evo_tune.training.optim.early_stopping import EarlyStopping
from evo_tune.training.optim.gradient import accumulate, clip, gradient_norm
from evo_tune.training.optim.losses import CrossEntropy, Loss, SquaredError
from evo_tune.training.optim.muon import Muon
from evo_tune.training.optim.optimizer import SGD, AdamW, decay_groups
from evo_tune.training.reading import Material, Reading
from evo_tune.training.session import Place, train, train_together
from evo_tune.training.stepping.averaging import average_of
from evo_tune.training.stepping.recipe import Recipe, optimizer_of, recipe_of
from evo_tune.training.trainer import Step, Trainer
from evo_tune.training.tune import TuningTask, tuning_course
from evo_tune.training.tuned_files import write_tuned
from evo_tune.training.tuning.adapter import add_adapter, load_adapter, save_adapter, trained_weights
from evo_tune.training.tuning.houlsby import Adapters, add_adapters
from evo_tune.training.tuning.lora import LoRA, add_lora, fold_lora, merge_lora
from evo_tune.training.tuning.pretrained import encode, load_pretrained, save_merged
from evo_tune.training.tuning.tuning_text import TuningText, tuning_text
