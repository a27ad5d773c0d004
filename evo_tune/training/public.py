"""The public names of `evo_tune.training`. Importing this module loads torch."""

import os

from evo_tune.plugins.ranks import RankFailed
from evo_tune.training.baselines import image_baseline, ngram_baseline, table_baseline, text_baseline
from evo_tune.training.checkpoint import load_checkpoint, save_checkpoint
from evo_tune.training.data.batches import (
    Epochs,
    TextMaterial,
    TrainingWindows,
    augment_images,
    evaluation_blocks,
    evaluation_windows,
)
from evo_tune.training.evaluation import Errors, Evaluation, Scores, auc, evaluate, model_outputs, score_classifier
from evo_tune.training.extension import extend_context, grow
from evo_tune.training.fitting import export_fitted, fit_task, score_metrics
from evo_tune.training.hardware.device import (
    IGNORE,
    Throughput,
    device_memory,
    fit_device,
    keep_freed_memory,
    measure_peak_memory,
    mfu,
    peak_flops,
    reproducible,
    seed_for,
)
from evo_tune.training.hardware.distributed import Ranks, RanksDiffer, launch, process_group
from evo_tune.training.hardware.precision import Precision, fastest_precision
from evo_tune.training.models.dropout import Dropout, DropPath
from evo_tune.training.models.encoder import ConvNet, Encoder, FTTransformer, TextClassifier, ViT
from evo_tune.training.models.forecaster import Forecaster
from evo_tune.training.models.gpt import GPT
from evo_tune.training.models.linear import LinearModel
from evo_tune.training.models.linear_texts import LinearTextClassifier
from evo_tune.training.models.trees import BoostedTrees
from evo_tune.training.optim.gradient import accumulate, clip
from evo_tune.training.optim.losses import CrossEntropy, Loss, QuantileLoss, SquaredError
from evo_tune.training.optim.optimizer import SGD, AdamW, Muon
from evo_tune.training.optim.watching import Diverged, EarlyStopping
from evo_tune.training.reading import LanguageTraining, export_language
from evo_tune.training.samples import (
    ClassifierTraining,
    ForecastTraining,
    RegressionTraining,
    SampleTraining,
    export_encoder,
)
from evo_tune.training.session import RankRun, evaluate_task, train
from evo_tune.training.stepping.recipe import Recipe, recipe_of
from evo_tune.training.trainer import Step, Trainer
from evo_tune.training.training_run import SinglePhase, StepSplit, Task, TrainingResult, TrainingRun
from evo_tune.training.tuned import TuningPlan, TuningTraining, export_tuning, prepare_base, small_base_folder
from evo_tune.training.tuning.pretrained import TuningText, encode, load_pretrained, load_tuning_text
from evo_tune.training.tuning.weights import (
    Adapters,
    LoRA,
    add_adapter,
    add_adapters,
    add_lora,
    fold_lora,
    load_adapter,
    save_adapter,
    trainable_weights,
)
