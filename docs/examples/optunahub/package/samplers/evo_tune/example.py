"""Minimize a function with a conditional parameter."""

import optuna
import optunahub


def objective(trial: optuna.Trial) -> float:
    """Return a loss; momentum exists for one of the optimizers only."""
    lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    optimizer = trial.suggest_categorical("optimizer", ["adam", "sgd"])
    momentum = trial.suggest_float("momentum", 0.0, 0.99) if optimizer == "sgd" else 0.0
    return abs(lr - 1e-3) + (optimizer == "adam") + abs(momentum - 0.9)


if __name__ == "__main__":
    module = optunahub.load_module("samplers/evo_tune")
    study = optuna.create_study(sampler=module.StrategySampler("saea", seed=1))
    study.optimize(objective, n_trials=40)
    print(study.best_trial.value, study.best_trial.params)
