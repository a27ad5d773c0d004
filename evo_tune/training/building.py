"""Builds the training of a GPT on a text: model, recipe, batches that fit the device, and the course along its phases.

From a `LanguageTask`, which says what it is, and a `Run`, which says where it stands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from evo_tune.recipe.hardware.computing import in_memory
from evo_tune.recipe.hardware.memory import Fit, predict_memory
from evo_tune.recipe.language import LanguageTask
from evo_tune.recipe.plan import Phase
from evo_tune.training.course import Course
from evo_tune.training.data.material import TextMaterial
from evo_tune.training.hardware.device import seed_for
from evo_tune.training.hardware.memory import fit_device
from evo_tune.training.hardware.throughput import SAFE, TIMED, steps_in
from evo_tune.training.models.gpt import GPT
from evo_tune.training.optim.watching import EarlyStopping
from evo_tune.training.reading import Reading
from evo_tune.training.session import Run, told_to, train
from evo_tune.training.stepping.recipe import recipe_of
from evo_tune.training.trainer import Trainer

if TYPE_CHECKING:
    from evo_tune.training.hardware.distributed import Ranks

__all__ = ["export_language", "language_course"]


def language_course(
    task: LanguageTask, run: Run, precision: str, saved: dict[str, Any], ranks: Ranks | None = None
) -> Course:
    """Return the training at step 0, or where a checkpoint ends.

    Args:
        task: What is trained.
        run: Where; its budget does not matter.
        precision: In what it computes, by name.
        saved: What was saved of it; empty: nothing.
        ranks: The processes that train it together.

    Raises:
        RecipeError: A number is out of its range.
    """
    return _Builder(task.in_precision(precision), run, ranks).course(saved)


USAGE = """# A GPT, found by evo-tune

    from evo_tune.training import GPT
    model = GPT.load({folder!r})
    print(model.generate("The ", 200))

`generate` takes `temperature`, `top_k` and `seed` as well. model.safetensors holds the weights, config.json
the shape, the genome, the options and the metrics: {test_bpb:.3f} bits per byte on the test text.{more}
"""

TOKENS = " tokenizer.json has\nits tokens; `pip install tokenizers` reads it."
AVERAGED = "\n\nThe folder averaged has the moving average of the weights, as a model of its own."


def export_language(task: LanguageTask, run: Run, folder: Path | str) -> dict[str, float]:
    """Train once more, in one process; write weights, config.json and README.md; return the metrics.

    Args:
        task: What is trained.
        run: Where.
        folder: Where to write; made if it is not there. Its `averaged` has the average of the weights, if there is one.
    """
    course, metrics = train(task, run, language_course)
    average, folder, options = course.trainer.averaged, Path(folder), task.options
    notes = {"genome": dict(task.genome), "options": options.to_json(), "seed": run.seed, "metrics": metrics}
    for model, into in ((course.model, folder), (average and average.module, folder / "averaged")):
        if model is not None:
            cast(GPT, model).tokenizer = task.corpus.tokenizer
            cast(GPT, model).save(into, **notes)
    more = (TOKENS if options.vocab != 256 else "") + (AVERAGED if average is not None else "")
    text = USAGE.format(folder=str(folder), test_bpb=metrics["test_bpb"], more=more)
    (folder / "README.md").write_text(text, encoding="utf-8")
    return metrics


@dataclass(frozen=True)
class _Builder:
    task: LanguageTask
    run: Run
    ranks: Ranks | None

    def course(self, saved: dict[str, Any]) -> Course:
        options, phases = self.task.options, self.task.phases()
        if phases is None:  # a clock was asked once, and its answer stands
            windows = saved["windows"] if saved else self._windows_in(options.seconds or 0.0)
            phases = (self.task.phase(windows),)
        step = saved["trainer"]["step"] if saved else 0
        phase = next((phase for phase in phases if step <= phase.end), phases[-1])
        course = Course(
            self._trainer(phase, phases[-1].end, ranks=self.ranks),
            Reading(phases, self.material, extension=options.extension, recompute=self._recompute),
            evaluations=options.evaluations,
            stopping=EarlyStopping.of(options),
            report=told_to(self.run),
        )
        if saved:
            course.restore(saved)
        return course

    @cached_property
    def material(self) -> TextMaterial:
        return self._material({})

    def _material(self, fits: dict[Phase, Fit]) -> TextMaterial:
        """Return the text in micro-batches by given fits, else by the device's memory, which is looked at once."""

        def micro_batch(phase: Phase) -> int:
            return (fits[phase] if phase in fits else self._fit(phase)).micro_batch

        return TextMaterial(self.task.corpus, count=self.task.scored, seed=self.run.seed, micro_batch=micro_batch)

    def _fit(self, phase: Phase) -> Fit:
        if phase not in self._fits:
            self._fits[phase] = self._look_at(phase)
        return self._fits[phase]

    @cached_property
    def _fits(self) -> dict[Phase, Fit]:
        return {}

    def _look_at(self, phase: Phase) -> Fit:
        options, config, size = self.task.options, phase.config, self.ranks.size if self.ranks else 1
        each = -(-phase.per_step // size)
        if options.micro_batch != "auto":
            micro = min(each, max(1, (options.micro_batch or each * config.context) // config.context))
            return Fit(micro, None, predict_memory(config, micro))
        fit = fit_device(
            config,
            each,
            self.run.device,
            sharing=size,
            probe=lambda fit: self._one_step(phase, each, fit),
            optimizer=options.optimizer_name,
            ema=options.ema is not None,
            precision=in_memory(options.precision),
            z_loss=options.z_loss > 0.0,
            ranks=size,
        )
        if self.ranks is None:
            return fit
        # What one rank has no memory for none does: in the middle of a training the others would wait for it.
        micro, plain = self.ranks.least(fit.micro_batch, fit.recompute is None)
        return fit._replace(micro_batch=micro, recompute=None if plain else 1)

    def _recompute(self, phase: Phase) -> int | None:
        return self.task.options.recompute or self._fit(phase).recompute

    def _one_step(self, phase: Phase, windows: int, fit: Fit) -> None:
        one = replace(phase, windows=windows, per_step=windows, first_step=0, ramp=None)
        self._trainer(one, 1, lr=SAFE, fit=fit).run(1)

    def _windows_in(self, seconds: float) -> int:
        """Return how many windows fit in so many seconds, by the median of ten steps after three."""
        phase = self.task.phase(1)
        phase = replace(phase, windows=phase.per_step * TIMED)
        trial = self._trainer(phase, TIMED, lr=SAFE)  # one of its own, to be thrown away
        return phase.per_step * steps_in(seconds, trial)

    def _trainer(
        self,
        phase: Phase,
        steps: int,
        *,
        lr: float | None = None,
        fit: Fit | None = None,
        ranks: Ranks | None = None,
    ) -> Trainer:
        """Return a trainer of a phase at step 0, its schedules laid over all `steps`."""
        task, options = self.task, self.task.options
        recipe = recipe_of(
            options,
            steps,
            lr=task.lr if lr is None else lr,
            batch=task.batch,
            reference=task.reference,
            weight_decay=task.weight_decay,
            warmup=task.warmup,
            ceiling=1.5 * math.log(options.vocab),
        )
        material = self.material if fit is None else self._material({phase: fit})
        recompute = self._recompute(phase) if fit is None else options.recompute or fit.recompute
        source, seed, device = material.source(phase), self.run.seed, self.run.device
        model = GPT(phase.config, seed=seed_for(seed, "weights"), recompute=recompute).to(device)
        return Trainer(model, source, recipe, seed=seed, device=device, ranks=ranks, compiled=options.compile)
