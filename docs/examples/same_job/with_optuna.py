"""The job with Optuna."""

import optuna
from job import train


def objective(trial):
    """Train the values that Optuna suggests."""
    return train(lr=trial.suggest_float("lr", 1e-3, 0.5, log=True), degree=trial.suggest_int("degree", 1, 9))


if __name__ == "__main__":
    study = optuna.create_study(study_name="tools", storage="sqlite:///tools.db", load_if_exists=True)
    study.optimize(objective, n_trials=20)
    print(study.best_params)
