"""Hydra's sweeper `evo_tune`: what Hydra finds, with its settings; `evo_tune.integrations.hydra` does the work.

Hydra imports this file in every application, so it imports nothing else of evo-tune.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper


@dataclass
class EvoTuneSweeperConf:
    """Settings below `hydra.sweeper`; docs/integrations.md describes them."""

    _target_: str = "hydra_plugins.evo_tune_sweeper.EvoTuneSweeper"
    objectives: list[str] = field(default_factory=lambda: ["loss:min"])
    n_trials: int = 20
    n_jobs: int = 1
    max_failure_rate: float = 0.0
    name: str | None = None
    store: str = "populations"
    strategy: str | None = None
    seed: int = 0
    accept_changes: bool = False
    search: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="evo_tune", node=EvoTuneSweeperConf, provider="evo_tune")


class EvoTuneSweeper(Sweeper):
    """Sweeper whose trials are those of an evo-tune run.

    Args:
        settings: Fields of `EvoTuneSweeperConf`; `run_sweep` reads them from Hydra's configuration.
    """

    def __init__(self, **settings: Any) -> None:
        del settings

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Prepare the launcher; Hydra calls it once before `sweep`."""
        from hydra.core.plugins import Plugins

        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep.

        Args:
            arguments: Overrides of the command line.
        """
        from evo_tune.integrations.hydra import run_sweep

        run_sweep(self, arguments)
