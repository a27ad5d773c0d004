"""A random forest from scikit-learn on its breast cancer data, judged by cross-validation."""

from evo_tune import Choice, Context, Float, Int, Maximize, SearchSpace

SPACE = SearchSpace(
    max_features=Float(0.03, 1.0, log=True, default=0.18),
    max_depth=Int(1, 16, default=16),
    min_samples_leaf=Int(1, 32, log=True, default=1),
    criterion=Choice(["gini", "entropy"]),
)
OBJECTIVES = [Maximize("accuracy")]


def evaluate(genome: dict, context: Context, *, trees: int = 30, folds: int = 3) -> dict[str, float]:
    """Return the mean accuracy over the folds, and its spread."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import cross_val_score

    features, labels = load_breast_cancer(return_X_y=True)
    forest = RandomForestClassifier(trees, random_state=context.seed, n_jobs=context.threads, **genome)
    scores = cross_val_score(forest, features, labels, cv=folds)
    return {"accuracy": scores.mean(), "spread": scores.std()}
