"""The public names of `evo_tune.training.recipe`.

The names are stable, so some words in them need a note. `check_integer`, `check_number` and `redeclare` are helpers for
the options of an evaluator.

Tuning is fine-tuning of a base, a pretrained model; its targets are the layers that get adapters, and `NewWeights`
counts the weights that these add.
A sample is a row, a text or an image, of which encoders learn. `RegressionTask` predicts one number per sample;
`NumbersTask` is its base class, also for several numbers. A rank is a process. A pass is one micro-batch. To fit is to
find what fits into a device's memory. Work is the operations of a step by kind, whose seconds are in `UNIT_COSTS`.
`predict_memory` and `hidden_width`, of the MLP, are for the GPT. A proxy is a small model in place of a large one,
`LargeTraining`; `second_width` is the larger of the two widths of its search.

`SeriesData` is a file of series, `Series` one of them on a grid of times, and `SplitSeries` all of them with their
split. `GroupRateOptions` are learning rates of groups of parameters. The gap in `GapDecay` is that of the losses on
training and held-out data.
"""

from evo_tune.options.declare import check_integer, check_number, redeclare
from evo_tune.training.recipe.classifying import (
    ClassifierOptions,
    ClassifierTask,
    EncoderOptions,
    EncoderSize,
    NumbersTask,
    RegressionTask,
    SplitOptions,
    TableOptions,
    encoder_estimate,
    encoder_step_work,
    repair_heads,
)
from evo_tune.training.recipe.data.corpus import Corpus, TextOptions
from evo_tune.training.recipe.data.forecasts import (
    ForecastScores,
    SplitSeries,
    fit_smoothing,
    seasonal_naive,
    split_series,
    theta_forecast,
)
from evo_tune.training.recipe.data.images import Augmentation, AugmentationOptions, Images, read_images
from evo_tune.training.recipe.data.labelled_texts import (
    LabelledTexts,
    encode_pieces,
    encode_texts,
    read_docstrings,
    read_labelled_texts,
)
from evo_tune.training.recipe.data.series import Series, SeriesData
from evo_tune.training.recipe.data.splitting import split_rows, split_stratified
from evo_tune.training.recipe.data.tables import (
    Columns,
    Table,
    TableSource,
    data_hash,
    describe_classes,
    describe_table,
    read_table,
)
from evo_tune.training.recipe.data.texts import describe_text, encoding_warnings, python_paragraphs
from evo_tune.training.recipe.data.tokens import Tokenizer
from evo_tune.training.recipe.families import (
    BOOSTING,
    CONVOLUTION,
    FAMILY_COSTS,
    IMAGE_RIVALS,
    TABLE_RIVALS,
    TEXT_RIVALS,
    TRANSFORMER,
    FamilyOptions,
    FittedFamilyOptions,
    LinearConfig,
    LinearTextConfig,
    TableConfig,
    TreesConfig,
    fitted_estimate,
    full_steps,
)
from evo_tune.training.recipe.forecasting import PATCH_LENGTHS, ForecastOptions, ForecastTask
from evo_tune.training.recipe.hardware.computing import UNIT_COSTS, ComputeOptions, PassOptions, RankOptions, has_gpu
from evo_tune.training.recipe.hardware.memory import (
    Memory,
    NewWeights,
    encoder_memory,
    fit_memory,
    predict_memory,
    tuning_memory,
)
from evo_tune.training.recipe.language import LanguageOptions, LanguageTask
from evo_tune.training.recipe.metrics import METRICS, metric_units, metric_values, names_on_test_set
from evo_tune.training.recipe.models.base import TARGET_PRESETS, BaseModel, matching_layers
from evo_tune.training.recipe.models.encoder_config import (
    LARGEST_SMOOTHING,
    ConvConfig,
    FTConfig,
    PatchConfig,
    QuantileOptions,
    TextConfig,
    ViTConfig,
    most_blocks,
)
from evo_tune.training.recipe.models.gpt_config import (
    GPTConfig,
    GPTShapeOptions,
    flops_per_token,
    hidden_width,
    largest_head_divisor,
)
from evo_tune.training.recipe.optim.optimisation import (
    AveragingOptions,
    ClippingOptions,
    GroupRateOptions,
    OptimizerOptions,
    StoppingOptions,
)
from evo_tune.training.recipe.optim.schedule import (
    BatchRamp,
    GapDecay,
    GapDecayState,
    RampOptions,
    Schedule,
    ScheduleOptions,
    WeightDecay,
    WeightDecayOptions,
    register_schedule,
    unused_schedule_fields,
)
from evo_tune.training.recipe.plan import SampleOptions, SaveOptions, TextBudget, TrainingOptions, tokens_and_flops
from evo_tune.training.recipe.sizes import (
    GPT_SIZES,
    MAX_DEPTH_FACTOR,
    MAX_WIDTH_FACTOR,
    SIZE_LADDER,
    GPTSize,
    LargeTraining,
    Proxy,
    default_batch,
    default_context_and_batch,
    default_head_dim,
    fitting_size,
    proxy_for,
    second_width,
)
from evo_tune.training.recipe.transferring import transfer_language_recipe
from evo_tune.training.recipe.tuning import TuningOptions
