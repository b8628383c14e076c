"""Amounts, counts and masks of three pruning phases against the reference's numbers, bit by bit."""

import hashlib

import jax
import numpy as np
import pytest

from ssoup_jax.pruning import full_mask, phase_amount, prunable_leaves, prune_count, select
from tests.reference import golden
from tests.reference.deviations import record

MASKS = golden.load_json("masks")


def layer_name(name: str) -> str:
    return name.removesuffix(".weight")


def tree_of(weights: dict[str, np.ndarray]) -> dict:
    """A tree with our names and torch's layouts: which weight is small does not depend on where it lies."""
    return {layer_name(name): {"kernel": weight} for name, weight in weights.items()}


def kernels_of(tree: dict, prunable: list) -> dict[str, np.ndarray]:
    return {name: np.asarray(tree[layer_name(name)]["kernel"]) for name, _ in prunable}


def model(dataset: str, arch: str) -> dict:
    for case in golden.load_json("models")["cases"]:
        if (case["dataset"], case["arch"]) == (dataset, arch):
            return case
    pytest.fail(f"models.json in {golden.DIR} lacks {dataset} {arch}, which masks.json needs")


def initial_weights(case: dict) -> dict[str, np.ndarray]:
    """The rule-filled prunable tensors; the rule's counter runs over the whole state dict."""
    prunable = dict(case["prunable"])
    state_dict = model(case["dataset"], case["arch"])["state_dict"]
    return {
        name: golden.rule_filled_entry(name, tuple(shape), k, case["seed"], MASKS["gain"])
        for k, (name, shape, _) in enumerate(state_dict)
        if name in prunable
    }


def retrained(weights: dict, mask: dict, case: dict, phase: int) -> dict[str, np.ndarray]:
    """The recording's stand-in for retraining after `phase`, in the order of its float32 operations."""

    def moved(k: int, name: str) -> np.ndarray:
        kept, shape = mask[name].astype(np.float32), weights[name].shape
        z = golden.rule(case["seed"] + 1000 * phase, k, shape)
        c = np.float32(MASKS["perturbation"]) / np.float32(np.sqrt(np.prod(shape[1:])))
        return weights[name] * kept + (c * z) * kept

    return {name: moved(k, name) for k, (name, _) in enumerate(case["prunable"])}


def digest(weights: dict[str, np.ndarray]) -> str:
    return hashlib.sha256(b"".join(weight.tobytes() for weight in weights.values())).hexdigest()


@pytest.mark.parametrize("case", MASKS["cases"], ids=lambda case: case["key"])
def test_every_mask_of_every_phase(case):
    weights = initial_weights(case)
    mask = full_mask(tree_of(weights))
    assert list(weights) == [name for name, _ in case["prunable"]]
    for number, phase in enumerate(case["phases"], start=1):
        assert digest(weights) == phase["weights_before_sha256"], (
            f"weights of phase {number} are not rebuilt bit-exactly"
        )
        amount = phase_amount(case["goal_sparsity"], case["n_phases"])
        assert amount == phase["amount"]

        before = kernels_of(mask, case["prunable"])
        mask = select(case["pruning_selector"], tree_of(weights), mask, amount, jax.random.key(0))
        after = kernels_of(mask, case["prunable"])

        expected = golden.unpack_mask(golden.load_npz("masks")[f"{case['key']}/phase{number}/mask"], case["prunable"])
        for name, kept in after.items():
            np.testing.assert_array_equal(kept, expected[name], err_msg=f"{name}, phase {number}")
            record(f"masks, {case['pruning_selector']}: different entries", np.sum(kept != expected[name]), 0)
        assert [kept.sum() for kept in before.values()] == phase["remaining_before"]
        assert [kept.sum() for kept in after.values()] == phase["kept"]
        assert [(before[name] & ~after[name]).sum() for name in after] == phase["pruned_now"]
        assert sum(kept.sum() for kept in after.values()) == phase["total_kept"]
        assert sum(kept.size for kept in after.values()) == phase["total"]
        weights = retrained(weights, after, case, number)


@pytest.mark.parametrize("case", MASKS["ties"], ids=lambda case: case["name"])
@pytest.mark.parametrize("selector", ["global", "uniform"])
def test_ties(case, selector):
    # Which of several equal weights goes is not defined in the reference: compare what is.
    values = np.float32(case["values"])
    params = {"layer": {"kernel": values}}
    kept = np.asarray(select(selector, params, full_mask(params), case["amount"], jax.random.key(0))["layer"]["kernel"])
    assert prune_count(case["amount"], values.size) == case["n_pruned"]
    assert np.sum(~kept) == case["n_pruned"]
    assert np.max(np.abs(values[~kept]), initial=0) <= np.min(np.abs(values[kept]), initial=np.inf)
    seen = values[np.array(case["mask_seen"], bool)]
    np.testing.assert_array_equal(np.sort(np.abs(values[kept])), np.sort(np.abs(seen)))


def test_random_selector_counts():
    case = MASKS["random_selector"]
    params = tree_of(
        {name: np.zeros(shape, np.float32) for name, shape in model(case["dataset"], case["arch"])["prunable"]}
    )
    mask = full_mask(params)
    assert sum(leaf.size for leaf in prunable_leaves(params, mask).values()) == case["total"]
    for phase, n_kept in enumerate(case["kept_after_each_phase"]):
        mask = select("random", params, mask, case["amount"], jax.random.key(phase))
        assert sum(int(np.sum(leaf)) for leaf in prunable_leaves(mask, mask).values()) == n_kept
