"""`run --for-scale WIDTHxDEPTH`: a search that is meant to be carried to another size, and what it cost beside it.

Its parametrisation is on, genes that no rule carries are fixed, and genomes are trained at two widths and two budgets,
so that the loss at the target can be told from them (see `forecast.loss`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evo_tune.errors import OptionError

if TYPE_CHECKING:
    from evo_tune.genome.genes import Gene
    from evo_tune.plugins.evaluator import Evaluator
    from evo_tune.store.run import Run

__all__ = ["Aim", "parse_aim"]

WIDER = 1.5
"""The second width by the first: far enough apart that size tells, and not much dearer."""

BUDGETS = "1/4,1"
"""Trainings in part, each a whole one in small."""

UNTRANSFERABLE = {"dropout": 0.0, "context": None, "window": None}
"""Genes that follow the text and not the size: at this value, or at the space's default."""


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What a search is for.

    Args:
        width: Of the target.
        depth: Of the target.
        tokens: Of its training; None: 20 a weight.
    """

    width: int
    depth: int
    tokens: int | None = None

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the evaluator's options with the parametrisation in them, unless one is given."""
        return {"param": "completep", **given}

    def genes(self, plugin: Evaluator, options: Mapping[str, Any], given: Mapping[str, Gene | None]) -> dict[str, Any]:
        """Return the genes of the search: those given, two widths, one depth, and fixed ones.

        Args:
            plugin: The evaluator.
            options: Its options, with the parametrisation.
            given: What the user gave.

        Raises:
            OptionError: The evaluator carries no recipe to another size.
        """
        from evo_tune.genome.genes import Choice

        if not hasattr(plugin.module, "carry") or "param" not in plugin.options:
            raise OptionError(
                f"--for-scale: evaluator {plugin.name} has no carry(genome, target, options), or no parametrisation; "
                "language_model has both"
            )
        bound = plugin.settled(plugin.bind(options), rungs=True)
        space = plugin.space(bound)
        usual = space.default()
        head = bound["base_head"] or 1
        width, depth = int(usual["width"]), int(usual["depth"])
        wider = -(-int(WIDER * width) // head) * head
        if self.width < wider or self.depth < depth:
            raise OptionError(
                f"--for-scale {self.width}x{self.depth}: expected more than the search's own {wider}x{depth}; "
                "what is no larger needs no scaling"
            )
        fixed = {
            name: Choice((usual[name] if value is None else value,))
            for name, value in UNTRANSFERABLE.items()
            if name in space.genes
        }
        sizes = {"width": Choice((width, wider), ordered=True, default=width), "depth": Choice((depth,))}
        return {**fixed, **sizes, **given}

    def said(self, run: Run, plugin: Evaluator) -> str:
        """Return what the recipe cost as a share of the target's training, and what to type next; '' without one."""
        from evo_tune.report.calibration import recommended
        from evo_tune.store.places import as_typed

        best = recommended(run)
        if best is None:
            return ""
        wanted = {"width": self.width, "depth": self.depth, "tokens": self.tokens or 1, "batch": None, "memory": None}
        told = plugin.carry(best.genome, wanted, run.manifest.options)
        tokens = self.tokens or 20 * told["target"]["parameters"]
        target = told["target"]["flops"] / told["target"]["tokens"] * tokens
        spent = sum(trial.outcome.metrics.get("flops", 0.0) for trial in run.trials())
        enough = "" if self.tokens else ", 20 a weight"
        return (
            f"the search took {spent:.3g} FLOPs, {spent / target:.3g} of the {target:.3g} that the target, "
            f"{self.width}x{self.depth} on {tokens:,} tokens{enough}, takes\n"
            f"carry it: evo-tune scale {as_typed(run.folder)} --width {self.width} --depth {self.depth} "
            f"--tokens {tokens} --probe 3"
        )


def parse_aim(text: str) -> Aim:
    """Read what stands behind `--for-scale`.

    Args:
        text: 1024x24: width and depth; or 1024x24x1e9, with the tokens of the training.

    Raises:
        OptionError: It is something else.
    """
    match = re.fullmatch(r"(\d+)x(\d+)(?:x([\d.]+(?:e\d+)?))?", text)
    tokens = float(match[3]) if match and match[3] and match[3].count(".") < 2 else None
    if match is None or not int(match[1]) or not int(match[2]) or (match[3] and (tokens is None or tokens < 1)):
        raise OptionError(f"--for-scale {text}: expected WIDTHxDEPTH or WIDTHxDEPTHxTOKENS, such as 1024x24x1e9")
    return Aim(width=int(match[1]), depth=int(match[2]), tokens=None if tokens is None else int(tokens))
