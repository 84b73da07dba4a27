"""Grow boosted trees that recognise breast tumours (569 patients, 30 measurements each, from scikit-learn).

A step is the number of trees: ``warm_start`` adds to the ensemble that is there, so a poor one is stopped early.
Searched by ``hpsearch run studies/boosting.yaml``; once, by hand: ``python trials/boosting.py``.
"""

import optuna
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

import hpsearch


def train(trial: hpsearch.Trial) -> float:
    """Validation log loss with all trees grown."""
    params = trial.params
    features, labels = load_breast_cancer(return_X_y=True)
    x_train, x_valid, y_train, y_valid = train_test_split(
        features, labels, test_size=0.3, stratify=labels, random_state=0
    )
    model = GradientBoostingClassifier(
        learning_rate=params["learning_rate"],
        max_depth=params["max_depth"],
        min_samples_leaf=params["min_samples_leaf"],
        subsample=params["subsample"],
        warm_start=True,
        random_state=0,
    )
    loss = float("inf")
    for n_trees in range(params["trees_a_step"], params["max_trees"] + 1, params["trees_a_step"]):
        model.set_params(n_estimators=n_trees)
        model.fit(x_train, y_train)  # grows only the trees that are missing
        predicted = model.predict_proba(x_valid)
        loss = log_loss(y_valid, predicted)
        trial.report(loss, step=n_trees, accuracy=float((predicted.argmax(axis=1) == y_valid).mean()))
        if trial.should_prune():
            raise optuna.TrialPruned
    return loss


if __name__ == "__main__":
    example = {"learning_rate": 0.1, "max_depth": 2, "min_samples_leaf": 5, "subsample": 0.8}
    print("log loss", train(hpsearch.current(**example, trees_a_step=10, max_trees=200)))
