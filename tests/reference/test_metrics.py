"""Every figure of merit against the reference's numbers: predictions, models, soups, and what its runs logged."""

import re
from typing import NamedTuple

import jax
import numpy as np
import pytest

from ssoup_jax import models
from ssoup_jax.interop.state_dict import entries, from_state_dict, torch_name
from ssoup_jax.metrics import (
    distance_to_origin,
    distance_to_pruned,
    ensemble_metrics,
    flops,
    norm_drop,
    prediction_metrics,
    pruning_instability,
    soup_distances,
    sparsity,
)
from ssoup_jax.metrics.predictions import N_BINS, bin_boundaries, bin_index
from ssoup_jax.models.layers import Network
from ssoup_jax.pruning import full_mask, prunable_leaves
from ssoup_jax.soups import average
from tests.reference import golden
from tests.reference.deviations import largest, record, relative_max

METRICS = golden.load_json("metrics")
TRAJECTORIES = ("trajectory_simple", "trajectory_simple_length", "trajectory_resnet")

# The reference's figures are float32: some roundings of 6e-8.
FLOAT32 = 1e-6


# ---- predictions


@pytest.fixture(params=METRICS["predictions"], ids=lambda case: case["name"])
def prediction(request):
    arrays, prefix = golden.load_npz("metrics"), f"predictions/{request.param['name']}/"
    return request.param, {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)}


def worst_class_accuracy(predicted: np.ndarray, labels: np.ndarray, n_classes: int) -> float:
    """The reference's variant: a class that is no label of any example counts as 0."""
    correct = np.bincount(labels[predicted == labels], minlength=n_classes)
    return float(np.min(correct / np.maximum(np.bincount(labels, minlength=n_classes), 1)))


def check_predictions(logits: np.ndarray, labels: np.ndarray, expected: dict, abs_tolerance: float = 0) -> None:
    """Compares with what the reference reports under `accuracy`, `ece`, `mce`, `worst_class_accuracy`, maybe `loss`."""
    found = prediction_metrics(logits, labels)
    worst = worst_class_accuracy(logits.argmax(-1), labels, logits.shape[-1])
    if len(np.unique(labels)) == logits.shape[-1]:
        assert found["worst_class_accuracy"] == worst
    theirs = found | {"accuracy": found["macro_accuracy"], "worst_class_accuracy": worst}
    assert {key: theirs[key] for key in expected} == pytest.approx(expected, rel=FLOAT32, abs=abs_tolerance)
    largest_seen = max(abs(theirs[key] - expected[key]) for key in expected)
    record("metrics of predictions: absolute", largest_seen, FLOAT32 * max(1, *expected.values()) + abs_tolerance)


def test_predictions(prediction):
    case, arrays = prediction
    check_predictions(
        arrays["logits"],
        arrays["labels"],
        {key: case[key] for key in ("loss", "accuracy", "worst_class_accuracy", "ece", "mce")},
    )
    plain = prediction_metrics(arrays["logits"], arrays["labels"])["accuracy"]
    assert plain == pytest.approx(case["micro_accuracy_for_contrast"], rel=FLOAT32)


def test_predictions_of_an_ensemble_of_copies(prediction):
    _, arrays = prediction
    alone = prediction_metrics(arrays["logits"], arrays["labels"])
    assert ensemble_metrics(np.stack([arrays["logits"]] * 3), arrays["labels"]) == pytest.approx(alone, rel=FLOAT32)


def test_bins(prediction):
    case, arrays = prediction
    bins = bin_index(arrays["confidences"])
    correct = arrays["predicted"] == arrays["labels"]
    np.testing.assert_array_equal(bin_boundaries(), np.float32(case["bins"]["boundaries"]))
    np.testing.assert_array_equal(np.bincount(bins, minlength=N_BINS), case["bins"]["count"])
    np.testing.assert_array_equal(np.bincount(bins, correct, minlength=N_BINS), case["bins"]["correct_sum"])
    confidence_sum = np.bincount(bins, arrays["confidences"], minlength=N_BINS)
    np.testing.assert_allclose(confidence_sum, case["bins"]["confidence_sum"], rtol=FLOAT32, atol=0)


# ---- models


class Model(NamedTuple):
    """A rule-filled, masked model in our layout, and its parameters in the reference's order and layout."""

    case: dict
    network: Network
    image_shape: tuple[int, int, int]
    params: dict
    tensors: list[np.ndarray]
    prunable: list[np.ndarray]


def network_of(case: dict) -> tuple[Network, tuple[int, int, int]]:
    """Builds a case's network and returns it with the shape of its images."""
    for listed in golden.load_json("models")["cases"]:
        if (listed["dataset"], listed["arch"]) == (case["dataset"], case["arch"]):
            channels, height, width = case.get("input", listed["input"])
            image_shape = height, width, channels
            return models.build(case["arch"], listed["n_classes"], image_shape), image_shape
    pytest.fail(f"models.json in {golden.DIR} lacks {case['dataset']} {case['arch']}, which metrics.json needs")


def kept(case: dict, position: int, shape: tuple[int, ...]) -> np.ndarray:
    """Which weights the rule keeps of the prunable tensor at that position."""
    fractions = case["layer_sparsities"]
    threshold = np.float32(fractions[position % len(fractions)])
    return golden.uniform_rule(case["seed"] + 300000, position, shape) >= threshold


@pytest.fixture(
    scope="module",
    params=METRICS["models"],
    ids=lambda case: f"{case['key']}-{'masked' if case['masked'] else 'dense'}",
)
def model(request):
    case = request.param
    network, image_shape = network_of(case)
    state, tensors, prunable = {}, [], []
    for k, entry in enumerate(entries(network, image_shape)):
        array = golden.rule_filled_entry(entry.name, entry.shape, k, case["seed"], case["gain"])
        if entry.path[-1:] == ("kernel",):
            array = array * kept(case, len(prunable), entry.shape) if case["layer_sparsities"] else array
            prunable.append(array)
        if entry.collection == "params":
            tensors.append(array)
        state[entry.name] = array
    params, _ = from_state_dict(network, image_shape, state)
    return Model(case, network, image_shape, jax.device_get(params), tensors, prunable)


def layer_name(path: str) -> str:
    """The reference's name of the module that owns the leaf at that path."""
    return torch_name(tuple(path.split("/"))).rpartition(".")[0]


def test_sparsity(model):
    case, found = model.case, sparsity(model.params, full_mask(model.params))
    assert found["n_params"] == case["n_total_params"]
    assert found["n_nonzero_params"] == case["n_nonzero_params"]
    record("parameters, total and non-zero: count", abs(found["n_nonzero_params"] - case["n_nonzero_params"]), 0)
    # Ratios of integers: one rounding of float64 each.
    assert found["global"] == pytest.approx(case["global_sparsity"], rel=1e-12)
    assert found["prunable"] == pytest.approx(case["modular_sparsity"], rel=1e-12)
    per_layer = {layer_name(path): fraction for path, fraction in found["per_layer"].items()}
    assert per_layer == pytest.approx(case["per_layer_sparsity"], rel=1e-12)


def test_flops(model):
    case, found = model.case, flops(model.network, model.params, model.image_shape)
    assert {layer_name(path): count for path, count in found["per_layer"].items()} == case["flops_by_layer"]
    assert found["dense"] == case["baseline_inference_flops"]
    assert found["nonzero"] == case["nonzero_inference_flops"]
    record("multiply-adds, dense and non-zero: count", abs(found["nonzero"] - case["nonzero_inference_flops"]), 0)
    # The reference logs {} where nothing is left.
    assert found["speedup"] == (pytest.approx(case["theoretical_speedup"], rel=1e-12) if found["nonzero"] else None)


def test_speedup_of_a_model_without_weights(model):
    assert METRICS["all_zero_model_speedup"] == {}
    nothing = jax.tree.map(np.zeros_like, model.params)
    assert flops(model.network, nothing, model.image_shape)["speedup"] is None


def norm(array: np.ndarray, dtype: type) -> np.floating:
    """The L2 norm; in float32 with PyTorch's eight running sums, off by up to 1e-3 for millions of entries."""
    flat = np.ravel(array)
    if dtype is np.float64:
        return np.sqrt(np.einsum("i,i->", flat, flat, dtype=dtype))
    whole = len(flat) // 8 * 8
    sums = np.add.reduce(np.square(flat[:whole]).reshape(-1, 8), axis=0)
    return np.sqrt(np.add.accumulate(np.concatenate([sums, np.square(flat[whole:])]))[-1])


def squared_norm(arrays: list[np.ndarray], dtype: type) -> float:
    """The squared norm of a whole model, summed array by array as the reference does."""
    return float(sum((norm(array, dtype) ** 2 for array in arrays), start=dtype(0)))


def check_against_float32_sums(found: float, logged: float, exact: float, in_float32: float) -> None:
    """Asserts `found` to be `exact`, and `logged` to be no further from it than the reference's own rounding."""
    assert found == pytest.approx(exact, rel=FLOAT32, abs=1e-12)
    rounding = abs(in_float32 - exact)
    assert found == pytest.approx(logged, rel=FLOAT32, abs=1.01 * rounding)


def check_distances(params: dict, prunable: list[np.ndarray], origin: float, to_pruned: list) -> None:
    """Compares both distances; `to_pruned` lists (sparsity, distance, relative distance) as the reference logs them."""
    mask, flat = full_mask(params), np.concatenate([np.ravel(kernel) for kernel in prunable])
    largest_first = np.sort(np.abs(flat))[::-1]
    exact, in_float32 = (float(norm(flat, dtype)) for dtype in (np.float64, np.float32))
    check_against_float32_sums(distance_to_origin(params, mask), origin, exact, in_float32)
    for fraction, distance, relative in to_pruned:
        n_kept = int((1 - fraction) * flat.size)
        removed = norm(largest_first[n_kept:], np.float64)
        lost_in_float32 = np.sqrt(abs(in_float32**2 - float(norm(largest_first[:n_kept], np.float32)) ** 2))
        found = distance_to_pruned(params, mask, fraction)
        check_against_float32_sums(found.absolute, distance, removed, lost_in_float32)
        check_against_float32_sums(found.relative, relative, removed / exact, lost_in_float32 / in_float32)


def test_distances(model):
    case = model.case
    check_distances(model.params, model.prunable, case["distance_to_origin"], case["distance_to_pruned"])


def test_norm_of_all_parameters(model):
    found = norm_drop(model.params, jax.tree.map(np.zeros_like, model.params))
    exact, in_float32 = (squared_norm(model.tensors, dtype) for dtype in (np.float64, np.float32))
    check_against_float32_sums(found.absolute**2, model.case["squared_model_norm"], exact, in_float32)
    assert found.relative == 1


# ---- soups


class Soup(NamedTuple):
    """Candidates with the reference's names and layouts, stacked."""

    case: dict
    stacked: dict[str, np.ndarray]


@pytest.fixture(scope="module", params=METRICS["soups"], ids=lambda case: case["key"])
def soup(request):
    case = request.param
    listed = entries(*network_of(case))
    assert [[e.name, list(e.shape)] for e in listed if e.collection] == case["index"]
    positions = {name: position for position, (name, _) in enumerate(case["prunable"])}

    def entry_of(candidate: int, k: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
        z = golden.rule(case["seed"] + 10000 * (candidate + 1), k, shape)
        z = np.abs(z) if name.endswith("running_var") else z
        array = golden.rule_filled_entry(name, shape, k, case["seed"], case["gain"]) + np.float32(case["spread"]) * z
        return array * kept(case, positions[name], shape) if name in positions else array

    stacked = {}
    for k, entry in enumerate(listed):
        if entry.collection is None:
            stacked[entry.name] = np.float32(case["counters"])
        else:
            candidates = range(case["n_candidates"])
            stacked[entry.name] = np.stack([entry_of(c, k, entry.name, entry.shape) for c in candidates])
    return Soup(case, stacked)


def with_reference_names(found: dict) -> dict:
    names = {"l2": "l2_distance", "angle": "angle", "barycentre": "barycentre_distance"}
    pairs = [(key.split("_"), value) for key, value in found.items()]
    return {f"{extreme}_{names[quantity]}": value for (quantity, extreme), value in pairs}


def test_soup_distances(soup):
    # The reference's variant: BatchNorm statistics and counters are entries like any other.
    found = with_reference_names(soup_distances(soup.stacked))
    assert found == pytest.approx(soup.case["soup_metrics"], rel=FLOAT32)
    record(
        "distances and angles between candidates: relative",
        relative_max([found[key] for key in soup.case["soup_metrics"]], list(soup.case["soup_metrics"].values())),
        FLOAT32,
    )


def test_soup_distances_of_one_candidate(soup):
    first = {name: leaves[:1] for name, leaves in soup.stacked.items()}
    assert with_reference_names(soup_distances(first)) == soup.case["soup_metrics_of_one_candidate"]


def test_uniform_soup(soup):
    case = soup.case
    expected = golden.split_flat(golden.load_npz("metrics")[f"{case['key']}/uniform"], case["index"])
    mask = golden.unpack_mask(golden.load_npz("metrics")[f"{case['key']}/mask"], case["prunable"])
    found = average({name: soup.stacked[name] for name in expected}, dict.fromkeys(range(case["n_candidates"]), 1.0))
    factor = np.float32(case["uniform_factor"])
    for name, theirs in expected.items():
        # The reference scales by float32(1/m) and adds in order: bit for bit, so these are its candidates.
        total = np.zeros_like(theirs)
        for candidate in soup.stacked[name]:
            total = total + factor * candidate
        np.testing.assert_array_equal(total, theirs)
        # Ours adds and divides: a rounding for each candidate, of numbers as large as the largest.
        ulp = np.finfo(np.float32).eps * np.abs(soup.stacked[name]).max()
        record(
            "uniform soup of rule-filled candidates: absolute", largest(found[name], theirs), case["n_candidates"] * ulp
        )
        if name in mask:
            np.testing.assert_array_equal(np.asarray(found[name]) != 0, mask[name])


# ---- what whole runs logged


class Run(NamedTuple):
    """One finished stage of a trajectory file."""

    file: str
    name: str

    def summary(self) -> dict:
        return golden.load_json(self.file)["stages"][self.name]["summary"]

    def phase(self) -> int:
        return int(re.search(r"/phase(\d+)/", self.name)[1])

    def mask(self) -> dict[str, np.ndarray]:
        prefix = self.name.rpartition("/")[0]
        return golden.unpack_mask(golden.load_npz(self.file)[f"{prefix}/mask"], golden.load_json(self.file)["prunable"])

    def start(self) -> "Run":
        """The stage whose model this one pruned."""
        before = re.sub(rf"/phase{self.phase()}/.*", f"/phase{self.phase() - 1}/ensemble", self.name)
        return Run(self.file, "dense" if self.phase() == 1 else before)

    def state(self) -> dict[str, np.ndarray]:
        """The model the stage ends with; of a soup, the BatchNorm statistics are those before recalibration."""
        last = next(end for end in ("dense", "ensemble", "") if self.name.endswith(end))
        key = {"dense": "trained", "ensemble": "soup_before_recalibration", "": "final"}[last]
        return golden.split_flat(golden.load_npz(self.file)[f"{self.name}/{key}"], golden.load_json(self.file)["index"])

    def params(self) -> dict:
        return as_tree(self.state(), dict(golden.load_json(self.file)["prunable"]))


def as_tree(state: dict[str, np.ndarray], prunable: dict) -> dict:
    """The parameters with our leaf names and the reference's layouts: no norm depends on those."""
    tree: dict[str, dict] = {}
    for name, array in state.items():
        module, _, leaf = name.rpartition(".")
        if not leaf.startswith("running"):
            leaf = leaf if leaf == "bias" else "kernel" if name in prunable else "scale"
            tree.setdefault(module, {})[leaf] = array
    return tree


def runs(file: str, pattern: str) -> list[Run]:
    found = [Run(file, name) for name in golden.load_json(file)["stages"] if re.search(pattern, name)]
    assert found, f"no stage of {file} matches {pattern}"
    return found


@pytest.mark.parametrize("file", TRAJECTORIES)
def test_drop_of_norm_and_accuracy_by_pruning(file):
    for run in runs(file, "/member"):
        prunable, mask, summary = dict(golden.load_json(file)["prunable"]), run.mask(), run.summary()
        state = {name: a for name, a in run.start().state().items() if "running" not in name}
        pruned = {name: array * mask[name] if name in mask else array for name, array in state.items()}
        before, after = as_tree(state, prunable), as_tree(pruned, prunable)
        squares = {
            dtype: [squared_norm(list(s.values()), dtype) for s in (state, pruned)]
            for dtype in (np.float32, np.float64)
        }
        drops = {dtype: np.sqrt(abs(a - b)) for dtype, (a, b) in squares.items()}
        norms = {dtype: np.sqrt(a) for dtype, (a, _) in squares.items()}
        found = norm_drop(before, after)
        check_against_float32_sums(found.absolute, summary["pruned.norm_drop"], drops[np.float64], drops[np.float32])
        check_against_float32_sums(
            found.relative,
            summary["pruned.relative_norm_drop"],
            drops[np.float64] / norms[np.float64],
            drops[np.float32] / norms[np.float32],
        )
        accuracies = run.start().summary()["final.test"]["accuracy"], summary["pruned.test"]["accuracy"]
        instability = pruning_instability(*accuracies)
        # The reference divides float32 accuracies.
        assert instability == pytest.approx(summary["pruned.pruning_instability"], abs=2e-7)
        assert 1 - instability == pytest.approx(summary["pruned.pruning_stability"], abs=2e-7)


@pytest.mark.parametrize("file", TRAJECTORIES)
def test_logged_sparsity_and_distances(file):
    goal = golden.load_json(file)["case"]["goal_sparsity"]
    for run in runs(file, "^dense$|/member|/ensemble"):
        params, summary = run.params(), run.summary()
        found = sparsity(params, full_mask(params))
        assert found["n_params"] == summary["final.n_total_params"]
        assert found["n_nonzero_params"] == summary["final.n_nonzero_params"]
        assert found["global"] == pytest.approx(summary["final.global_sparsity"], rel=1e-12)
        assert found["prunable"] == pytest.approx(summary["final.modular_sparsity"], rel=1e-12)
        distance, relative = summary["final.distance_to_pruned"], summary["final.rel_distance_to_pruned"]
        to_pruned = [(goal, distance, relative)] if distance else []
        prunable = list(prunable_leaves(params, full_mask(params)).values())
        check_distances(params, prunable, summary["final.distance_to_origin"], to_pruned)


@pytest.mark.parametrize("file", TRAJECTORIES)
def test_logged_soup_distances(file):
    arrays, counters = golden.load_npz(file), golden.load_json(file)["bn_counters"]
    for ensemble in runs(file, "/ensemble$"):
        prefix, stages = ensemble.name.removesuffix("ensemble"), golden.load_json(file)["stages"]
        names = [name for name in stages if name.startswith(f"{prefix}member")]
        stacked = {"flat": np.stack([arrays[f"{name}/final"] for name in names])}
        if counters:
            stacked["counters"] = np.stack([arrays[f"{name}/final_bn_counters"] for name in names])
        logged = ensemble.summary()["final.soup_metrics"]["candidates"]
        for key, value in with_reference_names(soup_distances(stacked)).items():
            if "angle" in key:
                # The logged angle is the arc cosine of a ratio of float32 sums, near 1 for candidates this close.
                assert np.cos(np.radians(value)) == pytest.approx(np.cos(np.radians(logged[key])), abs=1e-6)
            else:
                # The logged distance is a float32 sum over 4e5 entries.
                assert value == pytest.approx(logged[key], rel=1e-5)


@pytest.mark.parametrize("file", TRAJECTORIES)
def test_logged_evaluations_of_candidates(file):
    arrays = golden.load_npz(file)
    labels = {
        "test": arrays["data/test_labels"],
        "ood": arrays.get("data/ood_labels"),
        "val": arrays["data/train_labels"][arrays["split/val"]],
    }
    for ensemble in runs(file, "/ensemble$"):
        for i, evaluation in enumerate(golden.load_json(file)["stages"][ensemble.name]["evaluations"]):
            logits = arrays.get(f"{ensemble.name}/evaluation{i}_logits")
            if logits is not None and not evaluation["against_ensemble_labels"]:
                # A small calibration error is a difference of float32 sums that are near 1.
                check_predictions(logits, labels[evaluation["data"]], evaluation["result"], abs_tolerance=2e-7)
