"""Where the tests of a module are: `python -m tests.where evo_tune/store/journal.py` (or evo_tune.store.journal).

The tests of `evo_tune/a/b/c.py` are in `tests/a/b/test_c.py`, or in a folder above, `tests/a/test_c.py`. Where they are
elsewhere, `ELSEWHERE` says so. Test files beside these that import the module are printed after them.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGE = ROOT / "evo_tune"

ELSEWHERE = {
    "__init__": "test_architecture test_public",
    "__main__": "test_wheel",
    "cli/__init__": "cli/test_commands cli/test_help",
    "cli/shared": "cli/test_printing",
    "cli/agents": "cli/test_mcp",
    "cli/commands": "cli/test_commands cli/test_formats",
    "cli/training/final_training": "cli/test_auto",
    "cli/training/model_training": "cli/test_ensemble cli/test_details",
    "cli/flags": "test_settings cli/test_config",
    "cli/results": "cli/test_verdict",
    "cli/output": "cli/test_live cli/test_formats",
    "cli/session": "cli/test_commands cli/test_ends cli/test_planning",
    "dispatch/__init__": "dispatch/test_slots",
    "dispatch/clusters": "dispatch/test_clusters",
    "dispatch/log": "dispatch/test_telling",
    "dispatch/local": "dispatch/test_local dispatch/test_orphans",
    "dispatch/slot": "dispatch/test_slots",
    "dispatch/devices": "dispatch/test_devices dispatch/test_local",
    "dispatch/worker": "dispatch/test_slots dispatch/test_keeping",
    "forecast/__init__": "forecast/test_run_forecast",
    "cli/training/scaling": "cli/test_for_scale cli/test_scale training/scale/test_transfer",
    "forecast/clock": "loop/test_limits loop/test_ending forecast/test_run_forecast",
    "forecast/timing": "cli/test_planning forecast/test_run_forecast",
    "integrations/boards": "integrations/test_tracking",
    "integrations/_cross_validation": "integrations/test_sklearn",
    "integrations/optuna": "integrations/test_optuna_sampler",
    "integrations/ray": "integrations/test_ray_searcher",
    "integrations/optuna_journal": "integrations/test_tracking",
    "integrations/rows": "integrations/test_tracking",
    "options/target_size": "cli/test_for_scale",
    "loop/deadline": "loop/test_limits loop/test_hours test_settings",
    "loop/budget": "cli/test_planning",
    "plugins/patches/__init__": "plugins/patches/test_patches",
    "plugins/patches/project": "loop/test_patched_runs",
    "plugins/code": "plugins/test_scripts plugins/test_plugins",
    "plugins/command": "plugins/test_scripts",
    "plugins/context": "plugins/test_evaluator",
    "plugins/find": "plugins/test_plugins plugins/test_template",
    "plugins/ranks": "training/hardware/test_launcher integrations/test_ranks",
    "plugins/scripts": "plugins/test_scripts plugins/test_launch",
    "plugins/strategy": "plugins/test_plugins strategies/test_contract",
    "training/prediction": "training/prediction/test_contract training/prediction/test_predicting",
    "training/prediction/about": "training/prediction/test_card",
    "training/recipe/__init__": "training/test_package",
    "training/recipe/transferring": "training/scale/test_transfer",
    "training/scale/laws": "training/scale/test_laws training/scale/test_loss",
    "training/scale/recipe": "training/scale/test_transfer",
    "training/public": "training/test_package",
    "cli/training/devices": "cli/test_formats",
    "cli/training/auto": "cli/test_auto",
    "plugins/cost": "training/recipe/hardware/test_cost",
    "training/recipe/classifying": "training/test_classifier_building evaluators/test_classification_data",
    "training/recipe/data/corpus": "evaluators/test_language_model training/recipe/data/test_prepared",
    "training/recipe/data/forecasts": "training/recipe/data/test_forecasts training/recipe/data/test_bands "
    "training/recipe/data/test_smoothing",
    "training/recipe/data/kinds": "training/recipe/data/test_tables",
    "training/recipe/data/reading": "training/recipe/data/test_tables training/recipe/data/test_labelled_texts",
    "training/recipe/data/tables": "training/recipe/data/test_tables training/recipe/data/test_telling",
    "training/recipe/data/texts": "training/recipe/data/test_text",
    "training/recipe/data/tokens": "training/recipe/data/test_tokenizer",
    "training/recipe/forecasting": "evaluators/test_forecasting",
    "training/recipe/hardware/computing": "training/recipe/hardware/test_cost",
    "training/recipe/language": "evaluators/test_language_model",
    "training/recipe/models/base": "training/tuning/test_pretrained",
    "training/recipe/models/encoder_config": "training/recipe/hardware/test_cost training/models/test_encoder",
    "training/recipe/models/gpt_config": "training/recipe/hardware/test_flops training/models/test_gpt",
    "training/evaluation": "training/test_evaluation training/test_classification",
    "training/extension": "training/test_extension training/models/test_positions",
    "training/recipe/optim/optimisation": "training/recipe/optim/test_scaling training/optim/test_optimizer",
    "training/recipe/optim/schedule": "training/recipe/optim/test_schedule training/recipe/optim/test_weight_decay "
    "training/recipe/optim/test_accounting training/recipe/optim/test_fork training/recipe/optim/test_ramp",
    "training/recipe/plan": "training/recipe/test_phases",
    "training/recipe/public": "training/test_package",
    "training/recipe/sizes": "evaluators/test_language_model training/recipe/test_proxies",
    "training/recipe/tuning": "evaluators/test_fine_tuning",
    "report/charts": "report/test_charts report/test_page",
    "report/charts/__init__": "report/test_charts report/test_page",
    "report/charts/next_steps": "report/test_advice",
    "report/charts/scale": "cli/test_for_scale",
    "report/connections": "report/test_serving",
    "report/data": "report/test_advice cli/test_formats",
    "report/page": "report/test_loading",
    "report/recommendation": "report/test_recommendation loop/test_baseline",
    "report/run_data": "report/test_model report/test_charts",
    "report/summary": "report/test_summary report/test_further loop/test_comparison cli/test_widening",
    "rules/promotions": "rules/test_extra_seeds rules/test_fidelity rules/test_learned",
    "sklearn": "integrations/test_sklearn",
    "store/manifest": "store/test_events",
    "store/run": "loop/test_learning",
    "store/table": "loop/test_comparison",
    "strategies/__init__": "strategies/test_proposals",
    "strategies/_breeder": "strategies/test_ga",
    "strategies/_models": "strategies/test_models strategies/test_acquisition",
    "strategies/random": "strategies/test_contract",
    "trust/decide": "trust/test_outside",
    "training/__init__": "training/test_package",
    "training/data/batches": "training/data/test_epochs training/data/test_windows training/data/test_augment",
    "training/baselines": "evaluators/test_bundled evaluators/test_classification_data training/test_ngrams",
    "training/checkpoint": "training/test_resume test_hostile evaluators/test_unfinished",
    "training/hardware/device": "training/hardware/test_capacity training/hardware/test_throughput training/test_noise "
    "training/hardware/test_distributed evaluators/test_gpu_memory",
    "training/models/block": "training/models/test_attention training/models/test_functions "
    "training/recipe/models/test_rules",
    "training/models/dropout": "training/models/test_dropout training/models/test_encoder",
    "training/models/removed": "test_upgrading",
    "training/models/model_files": "training/models/test_unfilled training/models/test_trees "
    "training/models/test_linear",
    "training/optim/gradient": "training/optim/test_gradient training/optim/test_losses",
    "training/optim/losses": "training/optim/test_losses training/test_class_weights training/models/test_forecaster",
    "training/optim/optimizer": "training/optim/test_optimizer training/recipe/models/test_rules training/test_resume",
    "training/optim/watching": "training/optim/test_divergence training/optim/test_early_stopping",
    "training/hardware/timing": "training/probing/test_probing",
    "training/reading": "training/test_building training/test_training_run evaluators/test_language_model",
    "training/fitting": "evaluators/test_families evaluators/test_text_families",
    "training/recipe/families": "evaluators/test_families evaluators/test_image_families evaluators/test_text_families",
    "training/samples": "training/test_classifier_building evaluators/test_regression evaluators/test_forecasting",
    "training/session": "training/test_building training/test_ranks_out_of_memory",
    "training/stepping/feeding": "training/stepping/test_late training/test_noise",
    "training/stepping/recipe": "training/stepping/test_recipe training/test_building training/test_trainer",
    "training/trainer": "training/test_trainer training/test_resume training/test_noise training/stepping/test_late "
    "training/hardware/test_precision training/optim/test_ema training/recipe/optim/test_weight_decay",
    "training/tuned": "evaluators/test_fine_tuning training/test_base_training training/prediction/test_contract",
    "training/tuning/weights": "training/tuning/test_lora",
}
"""Module or folder, from `evo_tune/`, and its test files, from `tests/`; a folder's row is for each of its modules."""


@functools.cache
def modules() -> list[str]:
    """Return the modules of the package with more than a docstring, as paths from it without `.py`."""
    files = [path for path in PACKAGE.rglob("*.py") if len(ast.parse(path.read_bytes()).body) > 1]
    return sorted(path.relative_to(PACKAGE).with_suffix("").as_posix() for path in files)


def named(module: str) -> list[Path]:
    """Return the files with the tests of a module: at the mirrored path, or a folder above, and those of its row.

    Args:
        module: Path from `evo_tune/` without `.py`, as `modules` has it.
    """
    path = Path(module)
    mirrored = [folder / f"test_{path.name.lstrip('_')}.py" for folder in path.parents if path.parts[1:]]
    mirrored = mirrored or [Path(f"test_{path.name}.py")]
    found = [TESTS / one for one in mirrored[: max(1, len(mirrored) - 1)] if (TESTS / one).is_file()]
    row = ELSEWHERE.get(module) or ELSEWHERE.get(path.parent.as_posix(), "")
    return [*found, *(TESTS / f"{name}.py" for name in row.split() if TESTS / f"{name}.py" not in found)]


def importing(module: str) -> Iterator[Path]:
    """Yield the test files that import a module by its own name."""
    name = ".".join(["evo_tune", *Path(module).parts]).removesuffix(".__init__")
    for path in sorted(TESTS.rglob("test_*.py")):
        text = path.read_bytes()
        for node in ast.walk(ast.parse(text)) if name.rpartition(".")[2].encode() in text else ():
            names = [one.name for one in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            source = node.module if isinstance(node, ast.ImportFrom) else None
            if name in (source, *names, *(f"{source}.{one}" for one in names)):
                yield path
                break


def known(text: str) -> str:
    """Return the module that a user typed, as `modules` has it: a path, or a dotted name.

    Raises:
        SystemExit: There is no such module.
    """
    path = text.removesuffix(".py").replace(".", "/").removeprefix(f"{PACKAGE}/").removeprefix("evo_tune/")
    for module in (path, f"{path}/__init__"):
        if (PACKAGE / f"{module}.py").is_file():
            return module
    raise SystemExit(f"there is no module {text!r}: expected a path such as evo_tune/store/journal.py")


def main(words: list[str]) -> None:
    """Print the test files of each module that was named."""
    if not words:
        raise SystemExit(__doc__)
    for module in map(known, words):
        found = named(module)
        for path in [*found, *(path for path in importing(module) if path not in found)]:
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main(sys.argv[1:])
