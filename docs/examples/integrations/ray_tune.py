"""A strategy of evo-tune as the search algorithm of a Ray Tune program, whose scheduler stops bad trials."""

from typing import Any

from evo_tune.integrations.ray import StrategySearcher


def train(config: dict[str, Any]) -> None:
    """Train a classifier of digits, and report its accuracy on held-out data after each epoch."""
    from ray import tune
    from sklearn.datasets import load_digits
    from sklearn.linear_model import SGDClassifier
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x_train, x_valid, y_train, y_valid = train_test_split(x / 16, y, random_state=0)
    model = SGDClassifier(alpha=config["alpha"], random_state=0, **config["schedule"])
    for _ in range(9):
        model.partial_fit(x_train, y_train, classes=range(10))
        tune.report({"accuracy": model.score(x_valid, y_valid)})


def main(trials: int = 30, storage: str | None = None) -> Any:
    """Search, print the best configuration, and return all results."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import ConcurrencyLimiter

    space = {
        "alpha": tune.loguniform(1e-7, 1e-1),
        "schedule": tune.choice(
            [{"learning_rate": "optimal"}, {"learning_rate": "constant", "eta0": tune.loguniform(1e-4, 1.0)}]
        ),
    }
    default = {"alpha": 1e-4, "schedule": {"learning_rate": "optimal"}}
    searcher = StrategySearcher("saea", seed=1, points_to_evaluate=[default])
    tuner = tune.Tuner(
        train,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            num_samples=trials,
            search_alg=ConcurrencyLimiter(searcher, max_concurrent=2),
            scheduler=ASHAScheduler(max_t=9, grace_period=1, reduction_factor=3),
        ),
        run_config=tune.RunConfig(name="evo-tune", storage_path=storage, verbose=0),
    )
    results = tuner.fit()
    best = results.get_best_result()
    print(f"best accuracy {best.metrics['accuracy']:.4f} with {best.config}")
    return results


if __name__ == "__main__":
    main()
