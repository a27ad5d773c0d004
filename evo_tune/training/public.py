"""The public names of `evo_tune.training`. Importing this module loads torch."""

from evo_tune.plugins.ranks import RankFailed
from evo_tune.training.base_training import ready_base, small_base
from evo_tune.training.baselines import boosted, linear_on_pixels, linear_on_words, metrics_of
from evo_tune.training.checkpoint import load_checkpoint, save_checkpoint
from evo_tune.training.data.epochs import Epochs, augment_images, mix, soft_targets
from evo_tune.training.data.windows import TextMaterial, TrainingWindows, evaluation_blocks, evaluation_windows
from evo_tune.training.evaluation import (
    Errors,
    Evaluation,
    Scores,
    auc,
    evaluate,
    evaluate_by_position,
    outputs_of,
    score,
)
from evo_tune.training.extension import extend_context, extend_trainer, grow_trainer
from evo_tune.training.forecasting import Forecasted
from evo_tune.training.hardware.device import IGNORE, keep_freed_memory, reproducible, seed_for
from evo_tune.training.hardware.distributed import Ranks, RanksDiffer, launch, process_group
from evo_tune.training.hardware.memory import calibrate_memory, device_memory, fit_device, measured_peak
from evo_tune.training.hardware.precision import Precision, fastest_precision
from evo_tune.training.hardware.throughput import Throughput, mfu, peak_flops
from evo_tune.training.models.dropout import Dropout, DropPath
from evo_tune.training.models.encoder import Encoder, FTTransformer, TextClassifier, ViT
from evo_tune.training.models.forecaster import Forecaster
from evo_tune.training.models.gpt import GPT
from evo_tune.training.models.growth import carry_state, grow
from evo_tune.training.ngrams import ngram_entropy
from evo_tune.training.optim.gradient import accumulate, clip, gradient_norm
from evo_tune.training.optim.losses import CrossEntropy, Loss, QuantileLoss, SquaredError
from evo_tune.training.optim.optimizer import SGD, AdamW, Muon, decay_groups
from evo_tune.training.optim.watching import Diverged, DivergenceWatch, EarlyStopping
from evo_tune.training.probing.coordinates import check_coordinates
from evo_tune.training.reading import Material, Reading, export_language
from evo_tune.training.samples import Classified, Regressed, Samples, export_encoder
from evo_tune.training.session import Place, evaluate_task, train, train_together
from evo_tune.training.stepping.averaging import average_of
from evo_tune.training.stepping.recipe import Recipe, optimizer_of, recipe_of
from evo_tune.training.trainer import Step, Trainer
from evo_tune.training.training_run import Fitting, Judged, Task, TrainingRun, Whole
from evo_tune.training.tuned import Tuned, TuningTask
from evo_tune.training.tuned_files import export_tuned
from evo_tune.training.tuning.pretrained import TuningText, encode, load_pretrained, save_merged, tuning_text
from evo_tune.training.tuning.weights import (
    Adapters,
    LoRA,
    add_adapter,
    add_adapters,
    add_lora,
    fold_lora,
    load_adapter,
    merge_lora,
    save_adapter,
    trained_weights,
)
