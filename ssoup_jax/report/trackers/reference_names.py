"""Figures under the names of the authors' PyTorch code, so that dashboards and queries made for it find them.

Its `accuracy` is the macro average; ours is the share of correct answers, and the macro average is beside it. What it
has no name for keeps ours.
"""

from collections.abc import Mapping
from typing import Any

from ssoup_jax.report.trackers.tracker import Line, Record

Figures = dict[str, Any]


def epoch(kind: str, line: Line) -> Figures:
    """Returns an epoch's figures; those of retraining are under `finetune`.

    Args:
        kind: 'Dense' or 'IMP'.
        line: see `docs/records.md`.
    """
    trained = {"loss": line.get("train_loss"), "accuracy": line.get("train_accuracy")}
    figures = {
        "train": trained | {"ips_throughput": line.get("images_per_second")},
        "val": _scores(line.get("val")),
        "global_sparsity": _dig(line, "sparsity", "global"),
        "modular_sparsity": _dig(line, "sparsity", "prunable"),
        "epoch_run_time": line.get("seconds"),
        **{name: line.get(name) for name in ("learning_rate", "distance_to_origin", "distance_to_start")},
    }
    figures = _known(figures)
    return {"epoch": line["epoch"], **(figures if kind == "Dense" else {"finetune": figures})}


def final(record: Record) -> Figures:
    """Returns what came out: `final.*`, and `pruned.*` of what pruning alone did.

    Args:
        record: a stage's or a part of it, see `docs/records.md`; a soup's `candidates` and `selected` with the `mean`
            and `max` of their metrics.
    """
    training, scores = record.get("training") or {}, record.get("metrics") or {}
    speed = {
        "train": training.get("images_per_second"),
        "val": _dig(training, "val", "images_per_second"),
    }
    found = {
        **{split: _scores(own) | {"ips_throughput": speed.get(split)} for split, own in scores.items()},
        "ood": _scores(record.get("ood")),
        "global_sparsity": _dig(record, "sparsity", "global"),
        "modular_sparsity": _dig(record, "sparsity", "prunable"),
        "n_total_params": _dig(record, "sparsity", "n_params"),
        "n_nonzero_params": _dig(record, "sparsity", "n_nonzero_params"),
        "baseline_inference_flops": _dig(record, "flops", "dense"),
        "nonzero_inference_flops": _dig(record, "flops", "nonzero"),
        "theoretical_speedup": _dig(record, "flops", "speedup"),
        "learning_rate": training.get("learning_rate"),
        "distance_to_origin": record.get("distance_to_origin"),
        "distance_to_pruned": _dig(record, "distance_to_pruned", "absolute"),
        "rel_distance_to_pruned": _dig(record, "distance_to_pruned", "relative"),
        "epoch_run_time": training.get("seconds"),
        "soup_metrics": _soup(record),
        "diverged": record.get("diverged"),
    }
    return {
        **{f"final.{name}": value for name, value in _known(found).items()},
        **{f"pruned.{name}": value for name, value in _known(_pruned(record.get("pruned") or {})).items()},
    }


def _pruned(pruned: Mapping[str, Any]) -> Figures:
    instability = pruned.get("instability")
    return {
        **{split: _scores(own) for split, own in (pruned.get("metrics") or {}).items()},
        "norm_drop": pruned.get("norm_drop"),
        "relative_norm_drop": pruned.get("relative_norm_drop"),
        "pruning_instability": instability,
        "pruning_stability": None if instability is None else 1 - instability,
    }


def _soup(record: Record) -> Figures:
    groups = {name: record[name] for name in ("candidates", "selected") if name in record}
    return {name: _known(_group(group)) for name, group in groups.items()}


def _group(group: Mapping[str, Any]) -> Figures:
    """Names what is known of candidates as a group."""
    found: Figures = {}
    for name, value in (group.get("distances") or {}).items():
        what, _, which = name.rpartition("_")
        found[f"{which}_{what}" + ("" if what == "angle" else "_distance")] = value
    for reduced in ("mean", "max"):
        for split in ("test", "ood"):
            for metric, value in (_dig(group, reduced, split) or {}).items():
                found[f"{split}.{metric}_{reduced}"] = value
    for split, scores in (group.get("prediction_ensemble") or {}).items():
        found[f"pred_ensemble.{split}"] = _scores(scores)
    return found


def _scores(scores: Mapping[str, Any] | None) -> Figures:
    """Returns metrics of one split; their names are the same, that of speed is not."""
    found = dict(scores or {})
    found.pop("seconds", None)
    if "images_per_second" in found:
        found["ips_throughput"] = found.pop("images_per_second")
    return _known(found)


def _known(figures: Mapping[str, Any]) -> Figures:
    """Leaves out what there is not."""
    found = {name: _known(value) if isinstance(value, Mapping) else value for name, value in figures.items()}
    return {name: value for name, value in found.items() if value is not None and value != {}}


def _dig(node: Any, *keys: str) -> Any:
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node
