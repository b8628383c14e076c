"""Summaries of made-up runs, in the shape that a run writes."""

from ssoup_jax.report.summary import mean_and_max


def candidate(index: int, accuracy: float, **more: object) -> dict:
    split = {"accuracy": accuracy, "loss": 1 - accuracy}
    return {"split_val": index, "test": dict(split), "val": dict(split), **more}


def phase(number: int, sparsity: float, accuracies: list[float], soup: float | None, **more: object) -> dict:
    candidates = [candidate(i, accuracy) for i, accuracy in enumerate(accuracies)]
    mean, best = mean_and_max(candidates)
    report = {"accuracy": soup}
    return {
        "phase": number,
        "sparsity": {"prunable": sparsity, "global": 0.9 * sparsity},
        "candidates": candidates,
        "candidates_mean": mean,
        "candidates_max": best,
        "soup": None if soup is None else {"test": report, "val": report, "ingredients": [*range(len(accuracies))]},
        "prediction_ensemble": None,
        "distances": None,
        **more,
    }


def settings(m: int = 3, **more: object) -> dict:
    return {"dataset": "cifar100", "arch": "WideResNet20", "n_splits_total": m, "ensemble_by": "pruned_seed", **more}


def run(*phases: dict, dense: float | None = 0.7632, **more: object) -> dict:
    report = None if dense is None else {"test": {"accuracy": dense}, "val": {"accuracy": dense}}
    return {"settings": settings(**more), "dense": report, "phases": list(phases)}


ENSEMBLE = {"test": {"accuracy": 0.7701}}
FULL = run(
    phase(1, 0.7286, [0.7531, 0.7545, 0.7560], 0.7650, prediction_ensemble=ENSEMBLE),
    phase(2, 0.9263, [0.7410, 0.7445, 0.7451], 0.7555, prediction_ensemble={"test": {"accuracy": 0.762}}),
    phase(3, 0.9800, [0.7140, 0.7150, 0.7177], 0.7267, prediction_ensemble={"test": {"accuracy": 0.735}}),
)
IMP_ONLY = run(phase(1, 0.7, [0.75], None), phase(2, 0.9, [0.74], None), m=1)
EMPTY = {"settings": {}, "dense": None, "phases": []}
