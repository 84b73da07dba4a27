"""An ordinary Optuna objective: nothing in it knows of hpsearch.

On a cluster: ``hpsearch run trials/quadratic.py:objective --direction minimize --trials 50``.
In one process, by Optuna alone: ``python trials/quadratic.py``.
"""

import optuna


def objective(trial: optuna.Trial) -> float:
    """A parabola or a hyperbola, whichever the sampler picks; the minimum, 0, lies at x = 2 of the parabola."""
    if trial.suggest_categorical("shape", ["parabola", "hyperbola"]) == "parabola":
        x = trial.suggest_float("x", -10, 10)
        return (x - 2) ** 2
    return 1 / trial.suggest_float("slope", 0.1, 10, log=True)


if __name__ == "__main__":
    study = optuna.create_study()
    study.optimize(objective, n_trials=50)
    print("best", study.best_value, study.best_params)
