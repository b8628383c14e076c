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


def whole(name: str = "plain") -> dict:
    """A summary with something in every place that a page shows, and a name wherever names come from the data."""
    scores = {"accuracy": 0.75, "macro_accuracy": 0.74, "worst_class_accuracy": 0.5, "ece": 0.02, "loss": 1.0}
    layers = {f"{name}/kernel": 0.0, "bn/scale": 0.0, "fc/kernel": 0.0}

    def model(sparsity: float, artifact: str, **more: object) -> dict:
        return {
            "artifact": artifact,
            **{split: dict(scores) for split in ("train", "val", "test", "ood")},
            "ood_by_corruption": {f"computed:{name}": dict(scores)},
            "sparsity": {"prunable": sparsity, "per_layer": {**layers, f"{name}/kernel": sparsity}},
            "flops": {"speedup": 2.5, "per_layer": {"fc/kernel": 640}},
            "provenance": {"versions": {"jax": "0.9"}, "host": name, "started": artifact},
            **more,
        }

    def cycle(number: int, sparsity: float) -> dict:
        candidates = [model(sparsity, f"phase{number}-imp-{i}", split_val=i, diverged=None) for i in (0, 1, 2)]
        trials = [
            {"split_val": 2, "soup": [1, 2], "accuracy": 0.76, "accepted": True},
            {"split_val": 0, "soup": [1, 2, 0], "accuracy": 0.71, "accepted": False},
        ]
        greedy = {"metric": "accuracy", "scores": {"0": 0.7, "1": 0.75, "2": 0.72}, "trials": trials}
        lengths = {f"{kind}_{which}": 1.5 for kind in ("l2", "angle", "barycentre") for which in ("min", "mean", "max")}
        return {
            "phase": number,
            "sparsity": {"prunable": sparsity, "global": sparsity},
            "candidates": candidates,
            "soup": model(sparsity, f"phase{number}-soup-0", ingredients=[1, 2], greedy=greedy),
            "prediction_ensemble": ENSEMBLE,
            "distances": lengths,
            "selected": {"distances": lengths},
        }

    return {
        "settings": settings(dataset=name, arch=name, learning_rate=name),
        "changed": {"dataset": {"default": "digits", "value": name}},
        "dense": model(0.0, "dense-0"),
        "phases": [cycle(1, 0.5), cycle(2, 0.75)],
        "warnings": [f"layer {name} has lost all its weights"],
        "data": {"description": f"{name}: images", "classes": ["cat", name], "notes": [f"a note on {name}"]},
    }
