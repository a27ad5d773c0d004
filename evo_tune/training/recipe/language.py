"""Training of a GPT on a text, as options and numbers: length, phases and cost.

Arithmetic only, without torch, so that a search can estimate a training before it starts. `training.reading` builds
the training. This module does not know where the numbers come from.
"""

import contextlib
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import evo_tune.training.recipe.plan as plans
from evo_tune.errors import OptionError, RecipeError
from evo_tune.plugins.cost import Cost
from evo_tune.training.recipe.data.corpus import Corpus, TextOptions, bytes_to_train_on, validation_bytes
from evo_tune.training.recipe.hardware.computing import gpt_work
from evo_tune.training.recipe.hardware.memory import predict_memory
from evo_tune.training.recipe.models.gpt_config import GPTConfig, GPTShapeOptions, flops_per_token
from evo_tune.training.recipe.models.rules import ParametrisationOptions
from evo_tune.training.recipe.optim.optimisation import GroupRateOptions
from evo_tune.training.recipe.optim.schedule import RampOptions, ScheduleOptions

# Minimum number of scored bytes; with fewer, sampling noise hides differences of 0.01 nats between genomes.
FEWEST_SCORED_BYTES = 8192

# Passes over a text up to which repeated text is about as useful as new text (arXiv:2305.16264).
MOST_EPOCHS = 4.0

# Longest n-grams with embeddings by default, and the passes over a text up to which they are used. Of a text that is
# read more often they learn the training part by heart (benchmarks/LOG.md).
NGRAMS, NGRAM_EPOCHS = 5, 2.0


@dataclass(frozen=True, kw_only=True)
class LanguageOptions(
    ParametrisationOptions,
    GroupRateOptions,
    plans.TrainingOptions,
    RampOptions,
    GPTShapeOptions,
    ScheduleOptions,
    plans.TextBudget,
    TextOptions,
):
    """Training options of a GPT on a text.

    Option groups are listed in reverse order of the bases. Enabled genes are sampled in that order, so another order
    of the bases changes the genomes of a seed.
    """

    dropped: ClassVar[dict[str, object]] = {"grow_from": None, "grow_share": 0.5, "profile": "false"}

    def check(self) -> None:
        if self.extend_from is not None and (self.context is None or self.extend_from >= self.context):
            raise OptionError(f"-o extend_from={self.extend_from}: expected less than -o context, which must be given")
        if self.extend_from is not None and self.patience is not None:
            raise OptionError(
                "-o patience stops by a loss that -o extend_from changes the meaning of: give one of them"
            )

    def training_tokens(self, *, flops: float, context: int, batch: int, **shape: Any) -> float:
        """Return the tokens in a training of this shape, with the options' budget, or `flops` if there is none.

        Callers pass a size's default model, not a genome, so that all genomes of a search need the same text.
        """
        if self.tokens is not None:
            return float(self.tokens)
        config = GPTConfig(vocab_size=self.vocab, context=self.context or context, **shape)
        if self.seconds is not None and self.cost:
            windows = max(1, batch // config.context)
            work = gpt_work(config, windows, "muon" if self.optimizer == "auto" else self.optimizer)
            return self.steps_in_time(work) * windows * config.context
        return (self.flops or flops) / flops_per_token(config)

    def bytes_to_score(self, **usual: Any) -> int:
        """Return the number of held-out bytes scored at the end, given a size's default training.

        By default it is about 1 % of the training's FLOPs, since scoring a token costs a third of training on it. It is
        rounded up to a power of two, so that similar budgets score the same bytes, and is at least
        `FEWEST_SCORED_BYTES`.
        """
        about = 0.03 * self.training_tokens(**usual)
        return self.eval_tokens or max(FEWEST_SCORED_BYTES, 1 << math.ceil(math.log2(max(1.0, about))))

    def default_ngrams(self, **usual: Any) -> int:
        """Return the default length of the longest n-grams with embeddings, given a size's default training."""
        with contextlib.suppress(RecipeError):  # a text that cannot be read is refused where it is read
            if self.training_tokens(**usual) <= NGRAM_EPOCHS * bytes_to_train_on(self.data):  # a token is about a byte
                return NGRAMS
        return 1

    def short_text_warnings(self, **usual: Any) -> list[str]:
        """Return a warning if the text is too short for the budget, given a size's default training."""
        size = bytes_to_train_on(self.data)
        epochs = self.training_tokens(**usual) / size  # a token counts as a byte
        if epochs <= MOST_EPOCHS or (self.seconds is not None and not self.cost):
            return []
        return [
            f"a training reads the {size:,} bytes of text {epochs:.0f} times, and more than "
            f"{MOST_EPOCHS:.0f} times teaches little: give more text with -o data= or a smaller budget"
        ]


@dataclass(frozen=True, kw_only=True)
class LanguageTask(plans.TrainingPlan):
    """A training of a GPT; batches are in tokens.

    Args:
        options: See `TrainingPlan`; the default budget is `flops`.
        config: Shape of the model at the end.
        longest: Longest context of any genome, in tokens.
        flops: Budget in FLOPs if the options give none.
        scored: Approximate number of held-out bytes scored at the end.
    """

    options: LanguageOptions
    config: GPTConfig
    longest: int
    flops: float
    scored: int

    @property
    def corpus(self) -> Corpus:
        """The text.

        Raises:
            UsageError: See `Corpus`.
        """
        return Corpus.of(self.options, self.longest)

    @property
    def identity(self) -> dict[str, Any]:
        return {"genome": dict(self.genome), "data": self.corpus.fingerprint(), "model": self.config.to_json()}

    @property
    def judged(self) -> float:
        """Approximate number of tokens that all evaluations of the training score."""
        held_out = min(self.scored, validation_bytes(self.options.data))
        return held_out * (self.options.evaluations / 4 + 1.0) + self.scored / 4

    def work(self, config: GPTConfig | None = None) -> dict[str, float]:
        """Return the work of a step.

        Args:
            config: Shape of a phase; None: the final shape.
        """
        config = self.config if config is None else config
        windows = max(1, self.batch // config.context)
        return gpt_work(config, windows, self.options.optimizer_name, self.judged)

    def phases(self) -> tuple[plans.Phase, ...]:
        """Return the phases of the training.

        Raises:
            OptionError: The budget is in seconds, and the cost of a step was not measured.
        """
        options = self.options
        shares = [(1.0, self.config)]
        if options.extend_from is not None:
            short = replace(self.config, context=options.extend_from, extended_from=None)
            shares = [(1.0 - options.extend_share, short), (options.extend_share, self.config)]
        cost = Cost.parse(options.cost) if options.cost else None

        def window_cost(config: GPTConfig) -> float:  # in the unit of the budget
            if options.tokens is not None:
                return config.context
            if options.seconds is None or cost is None:
                return config.context * flops_per_token(config)
            return cost.step(self.work(config)) / max(1, self.batch // config.context)

        budget = options.tokens or options.flops or self.flops
        if options.seconds is not None:
            budget = options.steps_in_time(self.work()) * Cost.parse(options.cost).step(self.work())
        return plans.plan_phases(shares, self.batch, budget, window_cost, options.ramp)

    def estimate(self) -> dict[str, float]:
        """Return the figures known before training: params, gpu_memory; steps, flops, tokens, seconds of the full one.

        gpu_memory is the GPU memory per rank, in bytes, that a step needs in one pass (or in passes of micro_batch),
        without CUDA's own libraries, in bf16 unless precision says otherwise.

        Raises:
            RecipeError: A number is out of its range.
        """
        self.options.check_genes(lr=self.lr, weight_decay=self.weight_decay, warmup=self.warmup)
        phases, options, gpu_memory = self.phases(), self.options, 0.0
        for phase in phases:
            windows = options.pass_size(phase.per_step, phase.config.context)
            accumulated = windows * options.ranks < phase.per_step
            memory = predict_memory(phase.config, windows, accumulated=accumulated, **options.gpu_setup)
            gpu_memory = max(gpu_memory, memory.peak - memory.context)
        return {
            "params": float(self.config.parameters),
            "gpu_memory": gpu_memory,
            **options.seconds_estimate(self.work(), phases[-1].end),
            "steps": float(phases[-1].end),
            **plans.tokens_and_flops(phases, phases[-1].end),
        }
