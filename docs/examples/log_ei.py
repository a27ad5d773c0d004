"""Bayesian optimisation with BoTorch."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evo_tune import History, Proposal, Strategy
from evo_tune.strategies import fresh, spread


@dataclass(frozen=True)
class LogEI(Strategy):
    """A Gaussian process and the logarithm of the expected improvement, by BoTorch."""

    needs: ClassVar[dict[str, str]] = {"botorch": "botorch"}

    def propose(self, history: History, rng: np.random.Generator) -> Proposal | None:
        import torch
        from botorch import acquisition, fit, models, optim
        from gpytorch.mlls import ExactMarginalLogLikelihood

        arrays = history.arrays()
        if history.fresh_count < 6 or len(arrays.x) < 2:
            return spread(history, rng)
        x = torch.tensor(np.concatenate([arrays.x, arrays.failed]))
        y = -torch.tensor(np.append(arrays.y, np.full(len(arrays.failed), arrays.y.max())))[:, None]
        with torch.random.fork_rng(devices=[]):  # torch has one global generator
            torch.manual_seed(int(rng.integers(2**31)))
            gp = models.SingleTaskGP(x, y)
            fit.fit_gpytorch_mll(ExactMarginalLogLikelihood(gp.likelihood, gp))
            pending = torch.tensor(arrays.pending) if len(arrays.pending) else None
            gain = acquisition.qLogExpectedImprovement(gp, best_f=y.max(), X_pending=pending)
            box = torch.tensor([[0.0], [1.0]], dtype=x.dtype).expand(2, x.shape[1])
            best, _ = optim.optimize_acqf(gain, box, q=1, num_restarts=4, raw_samples=64)
        return fresh(history, rng, [Proposal(history.space.from_features(best[0].numpy()), "log-ei")])
