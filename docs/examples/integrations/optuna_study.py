"""A strategy of evo-tune as a sampler of Optuna: the study, its pruner and its storage stay as they are."""

from evo_tune.integrations.optuna import StrategySampler


def main(trials: int = 40, storage: str | None = None) -> None:
    """Optimize, and print the best value and its parameters."""
    import optuna
    from sklearn.datasets import load_digits
    from sklearn.linear_model import SGDClassifier
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x_train, x_valid, y_train, y_valid = train_test_split(x / 16, y, random_state=0)

    def objective(trial: optuna.Trial) -> float:
        schedule = trial.suggest_categorical("learning_rate", ["optimal", "constant"])
        eta0 = trial.suggest_float("eta0", 1e-4, 1.0, log=True) if schedule == "constant" else 0.1
        alpha = trial.suggest_float("alpha", 1e-7, 1e-1, log=True)
        model = SGDClassifier(learning_rate=schedule, eta0=eta0, alpha=alpha, random_state=0)
        for epoch in range(10):
            score = model.partial_fit(x_train, y_train, classes=range(10)).score(x_valid, y_valid)
            trial.report(score, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return score

    sampler = StrategySampler("saea", seed=1, priors={"alpha": (1e-4, 10.0)})
    pruner = optuna.pruners.SuccessiveHalvingPruner()
    study = optuna.create_study(
        study_name="digits", storage=storage, load_if_exists=True, direction="maximize", sampler=sampler, pruner=pruner
    )
    if not study.trials:
        study.enqueue_trial({"learning_rate": "optimal", "alpha": 1e-4})  # the default genome
    study.optimize(objective, n_trials=trials)
    print(f"{study.best_value:.4f}", study.best_params)


if __name__ == "__main__":
    main()
