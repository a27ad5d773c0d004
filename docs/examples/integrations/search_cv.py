"""EvoSearchCV: a support vector machine in a pipeline, tuned as GridSearchCV would be."""

from evo_tune import Float
from evo_tune.sklearn import EvoSearchCV


def main(trials: int = 30) -> None:
    """Search, and print the best parameters and their score on data that no fit has seen."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    x, y = load_breast_cancer(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0)
    space = {
        "svc__C": Float(1e-2, 1e3, log=True),
        "svc__gamma": Float(1e-5, 1e0, log=True),
        "svc__class_weight": [None, "balanced"],
    }
    search = EvoSearchCV(make_pipeline(StandardScaler(), SVC()), space, n_iter=trials, cv=3, random_state=0)
    search.fit(x_train, y_train)
    print(search.best_params_)
    print(f"cross-validated {search.best_score_:.4f}, on the test set {search.score(x_test, y_test):.4f}")


if __name__ == "__main__":
    main()
