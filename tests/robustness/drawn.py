"""Draws configurations: sound settings, broken ones, and odd words around them."""

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from configs import base
from ssoup_jax.config import Settings
from ssoup_jax.data import ood, sources
from ssoup_jax.data.settings import DataSettings
from ssoup_jax.schedules import retrain
from ssoup_jax.training.optimizer import OPTIMIZERS
from ssoup_jax.variants import VARIANTS


@dataclass(frozen=True)
class Case:
    """A configuration as its differences from `configs/base.py`.

    Attributes:
        changes: values by name; `data.NAME` for the nested ones.
        missing: settings that are left out of the mapping.
        file: what `--config` names, relative to the repository.
        words: further words of the command line.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    file: str = "configs/base.py"
    words: tuple[str, ...] = ()

    def mapping(self) -> dict[str, Any]:
        """Returns the whole configuration."""
        config = base.get_config().to_dict()
        for name, value in self.changes.items():
            outer, _, inner = name.partition(".")
            if inner and outer == "data" and isinstance(config["data"], dict):
                config["data"][inner] = value
            else:
                config[name] = value
        return {name: value for name, value in config.items() if name not in self.missing}

    def argv(self) -> list[str]:
        """Returns the command line that says the same, as far as text can."""
        words = [f"--config.{name}={_text(value)}" for name, value in self.changes.items()]
        # No process is ever given a NUL in its arguments.
        return ["launch.py", f"--config={self.file}", *(word.replace("\0", "") for word in (*words, *self.words))]

    def smaller(self) -> Iterator["Case"]:
        """Yields the cases with one difference less."""
        for name in self.changes:
            yield replace(self, changes={key: value for key, value in self.changes.items() if key != name})
        for name in self.missing:
            yield replace(self, missing=tuple(other for other in self.missing if other != name))
        for index in range(len(self.words)):
            yield replace(self, words=self.words[:index] + self.words[index + 1 :])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else spelled(value, str)


def spelled(value: Any, how: Callable[[Any], str] = ascii) -> str:
    """Spells anything, whole numbers of any length too."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return how(value)
    finally:
        sys.set_int_max_str_digits(limit)


_odd_texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", " ", "None", "nan", "inf", "-1", "1e999", "true", "0x10", "1_000", "()", "(,)", "[", "{}"]),
    st.sampled_from(["a\nb", "\r\n", "\u2028", "\x1b[31m", "\0", "é" * 3, "\ud800", "../..", "%s", "$HOME", "=,:"]),
    st.builds(lambda text, n: text * n, st.sampled_from(["x", "9", "(", "ab\n", "é", "\t,"]), st.integers(500, 20000)),
)
_numbers = st.one_of(
    st.sampled_from([0, -1, 1, 2**31 - 1, 2**31, 2**63, -(2**63), 10**9, 10**30, 10**400]),
    # Python itself refuses to spell this one.
    st.builds(pow, st.just(10), st.just(5000)),
    st.sampled_from([0.0, -0.0, 0.5, 1.0, math.nan, math.inf, -math.inf, 1e308, 5e-324, -1e-9]),
    st.sampled_from([np.int64(3), np.float32(0.5), np.float64(0.5), np.bool_(True), 1j]),
    st.integers(-5, 50),
    st.floats(-2, 2),
)
_atoms = st.one_of(st.none(), st.booleans(), _numbers, _odd_texts, st.binary(max_size=5))
_anything = st.recursive(
    _atoms,
    lambda inner: st.one_of(
        st.tuples(),
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=4), st.integers()), inner, max_size=3),
        st.frozensets(st.integers(0, 9), max_size=3),
        st.sampled_from([np.arange(6).reshape(2, 3), np.zeros(0), range(3), object, len, ...]),
    ),
    max_leaves=5,
)
_rates = st.sampled_from(["0.1", "1e-3", ".5", " 0.05 ", "1"])
_epochs = st.integers(1, 300).map(str)
_milestones = st.lists(st.integers(1, 90), min_size=1, max_size=4, unique=True).map(
    lambda epochs: f"[{'|'.join(map(str, sorted(epochs)))}]"
)
_schedules = st.one_of(
    st.builds("(Constant, {})".format, _rates),
    st.builds("(Linear, {})".format, _rates),
    st.builds("( Linear ,{}, {} )".format, _rates, _rates),
    st.builds("(Cosine, {})".format, _rates),
    st.builds("(ExponentialLR,{},{})".format, _rates, _rates),
    st.builds("(StepLR, {}, {}, {})".format, _rates, _epochs, _rates),
    st.builds("(MultiStepLR, {}, {}, {})".format, _rates, _milestones, _rates),
)
_seeds = st.lists(st.integers(0, 50), min_size=1, max_size=5, unique=True).map(tuple)
_positive = st.floats(1e-6, 2, allow_nan=False)
SOUND: dict[str, st.SearchStrategy] = {
    "strategy": st.sampled_from(["SMS", "Dense", "IMP", "Ensemble"]),
    "run_id": st.integers(0, 2**31 - 1),
    "phase": st.integers(1, 4),
    "dataset": st.sampled_from(["digits", *sources.ALIASES, "npz:a.npz", "folder:somewhere", "idx:a", "tfds:mnist:3d"]),
    "data_dir": st.sampled_from([None, "data", "/nowhere"]),
    "data.download": st.booleans(),
    "data.on_device": st.sampled_from([None, True, False]),
    "data.image_size": st.integers(8, 1024),
    "data.workers": st.integers(0, 64),
    "data.skip_undecodable": st.booleans(),
    "data.verify": st.booleans(),
    "data.follow_links": st.booleans(),
    "data.layout": st.sampled_from([None, "NHWC", "NCHW"]),
    "data.n_classes": st.one_of(st.none(), st.integers(2, 1000)),
    "data.split": st.sampled_from([None, "reference"]),
    "data.pad": st.one_of(st.none(), st.integers(0, 8)),
    "data.flip": st.sampled_from([None, True, False]),
    "data.rotate_degrees": st.one_of(st.none(), st.floats(0, 180)),
    "data.mean": st.one_of(st.none(), st.lists(st.floats(0, 1), min_size=1, max_size=3).map(tuple)),
    "data.std": st.one_of(st.none(), st.lists(st.floats(0.1, 1), min_size=1, max_size=3).map(tuple)),
    "ood": st.one_of(
        st.sampled_from([None, "default", "all", "all:3", "computed:all", "computed:all:5"]),
        st.lists(
            st.builds("computed:{}:{}".format, st.sampled_from(["gaussian_noise", "brightness"]), st.integers(1, 5)),
            min_size=1,
            max_size=3,
        ).map(", ".join),
    ),
    "evaluate_train": st.sampled_from([None, True, False]),
    "evaluate_every": st.sampled_from([None, 0, 1, 2, 7]),
    "stack_members": st.sampled_from([None, 0, 1, 5]),
    "trackers": st.sampled_from([None, None, "tensorboard"]),
    "arch": st.sampled_from(["Simple", "CNN", "ResNet20", "ResNet8", "ResNet14x2", "ResNet18", "VGG16", "ResNet110"]),
    "use_amp": st.booleans(),
    "init_from": st.sampled_from([None, None, "dense.pt"]),
    "init_mask": st.sampled_from(["auto", "zeros", "none"]),
    "init_head": st.sampled_from([None, None, "fresh"]),
    "loss": st.sampled_from([None, None, "optax:squared_error"]),
    "n_epochs": st.integers(1, 200),
    "batch_size": st.integers(1, 1024),
    "learning_rate": _schedules,
    "n_epochs_warmup": st.one_of(st.none(), st.integers(0, 5)),
    "optimizer": st.sampled_from(list(OPTIMIZERS)),
    "momentum": st.floats(0, 0.999),
    "weight_decay": st.floats(0, 1),
    "goal_sparsity": st.floats(0.01, 0.999),
    "n_phases": st.integers(1, 6),
    "pruning_selector": st.sampled_from(["global", "uniform", "random"]),
    "prune_only": st.sampled_from([None, "*", "layer1_*/*", "conv1/kernel, fc/kernel"]),
    "prune_except": st.sampled_from([None, None, "fc/kernel", "layer[12]_?/conv?/kernel"]),
    "n_epochs_per_phase": st.integers(0, 20),
    "retrain_schedule": st.sampled_from(retrain.NAMES),
    "retrain_batch_size": st.one_of(st.none(), st.integers(1, 1024)),
    "retrain_weight_decay": st.one_of(st.none(), st.floats(0, 1)),
    "retrain_momentum": st.one_of(st.none(), st.floats(0, 0.999)),
    "retrain_use_amp": st.sampled_from([None, True, False]),
    "ensemble_by": st.sampled_from(list(VARIANTS)),
    "n_splits_total": st.one_of(st.none(), st.integers(1, 9)),
    "split_vals": st.one_of(
        st.none(), _seeds, _seeds.map(list), st.lists(_positive, min_size=1, max_size=4, unique=True).map(tuple)
    ),
    "split_val": st.one_of(st.none(), st.integers(0, 4), _positive),
    "members": st.one_of(
        st.none(),
        st.lists(
            st.fixed_dictionaries(
                {}, optional={"seed": st.integers(0, 9), "weight_decay": st.floats(0, 1), "peak": _positive}
            ),
            min_size=1,
            max_size=4,
        ).map(tuple),
    ),
    "pool": st.sampled_from(
        [None, None, "weight_decay:log(1e-5,1e-3), retrain_length:5..15", "seed:0..5", "peak:0.1..1"]
    ),
    "pool_seed": st.integers(0, 2**31 - 1),
    "ensemble_method": st.sampled_from(["UniformEnsembling", "GreedySoup", None]),
    "greedy_metric": st.sampled_from(["accuracy", "macro_accuracy"]),
    "bn_recalibration": st.sampled_from(["moving", "exact", None]),
    "bn_recalibration_frac": st.one_of(st.none(), st.floats(0, 1)),
    "on_divergence": st.sampled_from(["exclude", "fail"]),
    "checkpoint_every": st.one_of(
        st.none(),
        st.builds("{} {}".format, st.integers(1, 999), st.sampled_from(["steps", "epochs", "minutes", "step"])),
        st.just("0.5 epochs"),
    ),
    "stop_signals": st.sampled_from([None, "SIGUSR1", "SIGUSR2, SIGXCPU", "SIGXCPU,SIGXCPU"]),
    "execution": st.one_of(
        st.sampled_from(["auto", "measured", "map", "vmap", "unroll", "loop", "shard", "shard:vmap"]),
        st.builds("{}:{}".format, st.sampled_from(["vmap", "unroll", "shard:vmap"]), st.integers(1, 20)),
    ),
    "remat": st.booleans(),
}
"""Values that are sound by themselves; together they need not fit."""

_lists_of_corruptions = st.lists(
    st.builds(
        "{}{}{}{}".format,
        st.sampled_from(["", "computed:", "computed", "Computed:", "default:"]),
        st.sampled_from([*ood.PUBLISHED, "all", "default", "nois", "", "a\nb", "*"]),
        st.sampled_from(["", ":3", "_3", ":0", ":6", ":-1", ":٣", ":3:3", ":99999999999"]),
        st.sampled_from(["", " ", "\n"]),
    ),
    max_size=5,
).map(",".join)
_broken: dict[str, st.SearchStrategy] = {
    "learning_rate": st.one_of(
        st.builds(
            lambda text, place, junk: text[: place % (len(text) + 1)] + junk + text[place % (len(text) + 1) + 1 :],
            _schedules,
            st.integers(0, 99),
            st.sampled_from(["", ",", "(", ")", "|", "[", "x", "-", "\n", "é", "e9999", "nan", "0" * 5000, "٣"]),
        ),
        st.builds(
            "({}, {}, {}, {})".format,
            st.sampled_from(["Linear", "StepLR", "MultiStepLR", "Cosine", "linear", "LambdaLR"]),
            st.sampled_from(["0.1", "-1", "nan", "inf", "1e-400", "1e308", "0x1", "1_0"]),
            st.sampled_from(["3", "[3|6]", "[6|3]", "[]", "[3||6]", "[1|" + "9" * 5000 + "]", "9" * 5000, "1e3"]),
            st.sampled_from(["0.1", "0", "2", "", ",,,"]),
        ),
    ),
    "ood": st.one_of(_lists_of_corruptions, _lists_of_corruptions.map(lambda text: text.split(","))),
    "checkpoint_every": st.builds(
        "{}{}{}".format,
        st.sampled_from(["0", "-1", "1.5", "1e3", "nan", "٣", "9" * 40, "10", ""]),
        st.sampled_from([" ", "", "\n", "  "]),
        st.sampled_from(["steps", "step s", "Minutes", "hours", "epoch", "minutes\n", ""]),
    ),
    "stop_signals": st.lists(
        st.sampled_from(["SIGUSR1", "SIGTERM", "SIGKILL", "sigusr1", "USR1", "", "10", "\n", "SIGUSR\u0661"]),
        max_size=3,
    ).map(",".join),
    "execution": st.builds(
        "{}{}{}".format,
        st.sampled_from(["", "shard:", "shard", "Shard:"]),
        st.sampled_from(["vmap", "map", "loop", "unroll", "auto", "measured", "pmap", "v map"]),
        st.sampled_from(["", ":", ":0", ":-1", ":3", ":03", ":٣", ":1.5", ":" + "9" * 5000, ":3:3", "\n"]),
    ),
    "arch": st.builds(
        "{}{}{}".format,
        st.sampled_from(["ResNet", "resnet", "ResNet20x", "VGG", "WideResNet", "Simple", "ResNet8x"]),
        st.sampled_from(["", "8", "21", "6000002", "9" * 400, "٨", "0", "-8", "9" * 5000, "2" + "0" * 30]),
        st.sampled_from(["", "x2", "x0", "\n", " ", "x" + "9" * 5000]),
    ),
    "dataset": st.builds(
        "{}{}".format,
        st.sampled_from(["npz:", "folder:", "tfds:", "tfds:mnist/", "tfds:mnist:", "NPZ:", "digits", "", "file://"]),
        _odd_texts,
    ),
    "split_vals": st.lists(_atoms, max_size=5).map(tuple),
    "members": st.one_of(
        st.lists(st.one_of(_atoms, st.dictionaries(st.sampled_from(["seed", "sed", "peak", 3]), _atoms)), max_size=3),
        st.sampled_from(['[{"seed": 1}]', "[{", "[" * 5000, '[{"seed": 1e999}]']),
    ).map(lambda given: tuple(given) if isinstance(given, list) else (given,)),
    "pool": st.lists(
        st.builds(
            "{}{}{}".format,
            st.sampled_from(["seed", "weight_decay", "peak", "sed", "", "retrain_schedule"]),
            st.sampled_from([":", "", "::"]),
            st.sampled_from(
                [
                    "0..5",
                    "5..0",
                    "log(0,1)",
                    "log(1e-5,1e-3)",
                    "1e999..2",
                    "9" * 5000 + "..1",
                    "\u0661..2",
                    "..",
                    "log(",
                ]
            ),
        ),
        max_size=3,
    ).map(",".join),
    "prune_only": st.sampled_from(["", ",", "a,,b", " ", "[", "\n"]),
    "n_phases": st.sampled_from([10**4, 10**6, 10**9, 10**30]),
    "n_splits_total": st.sampled_from([10**4, 10**6, 10**9, 10**30]),
    "n_epochs": st.sampled_from([10**9, 10**18, 10**30]),
    "goal_sparsity": st.sampled_from([5e-324, 1 - 2**-53, 1e-16, 1 - 1e-12]),
}
"""Values of the right type that are nearly right; any other setting is given anything at all."""

_names = st.one_of(
    st.builds(
        lambda name, place, junk: name[: place % len(name)] + junk + name[place % len(name) + 1 :],
        st.sampled_from([*Settings.model_fields, *(f"data.{name}" for name in DataSettings.model_fields)]),
        st.integers(0, 30),
        st.sampled_from(["", "_", "S", "x", ".", "-", " ", "[0]", "\n", "é", "x" * 5000]),
    ),
    st.sampled_from(["data.a.b", "data.", ".", "", "lock", "split_vals[0]", "arch[0]", "arch.x", "data[0]"]),
    st.text(max_size=5),
)
_files = st.one_of(
    st.just("configs/base.py"),
    st.builds(
        "configs/{}.py:{}".format,
        st.sampled_from(["mnist_imp", "cifar_imp", "imagenet_imp"]),
        st.lists(
            st.builds(
                "{}{}{}".format,
                st.sampled_from(["arch", "m", "goal", "phases", "smoke", "M", "", "path", "a\nb", "é"]),
                st.sampled_from(["=", "", "=="]),
                st.one_of(st.sampled_from(["Simple", "3", "0.9", "true", "-1", "nan", "1e9", "9" * 5000]), _odd_texts),
            ),
            max_size=3,
        ).map(",".join),
    ),
    st.sampled_from(["configs", "configs/base", "configs/bas.py", "README.md", "", ":", "configs/base.py:x"]),
)
_words = st.one_of(
    st.sampled_from(["--config.use_amp", "--noconfig.use_amp", "--config", "--config.", "-", "--", "extra"]),
    st.sampled_from(["--config.data.download", "--config.split_vals", "--wrkdir=x", "--config.data={}", "-config.m=3"]),
    _odd_texts.filter(lambda text: text.lstrip("-") and not text.lstrip("-").startswith("help")),
)


_settings_to_break = st.one_of(st.sampled_from([*SOUND, "data"]), st.sampled_from(list(_broken)))


@st.composite
def cases(draw) -> Case:
    """Draws a case: some sound changes, up to three broken ones, and odd words around them."""
    changes = {name: draw(SOUND[name]) for name in draw(st.lists(st.sampled_from(list(SOUND)), max_size=6))}
    for name in draw(st.lists(_settings_to_break, max_size=3)) if draw(st.booleans()) else ():
        changes[name] = draw(_broken[name] if name in _broken and draw(st.integers(0, 3)) else _anything)
    if draw(st.integers(0, 9)) == 0:
        changes[draw(_names)] = draw(_atoms)
    missing = (draw(st.sampled_from(list(Settings.model_fields))),) if draw(st.integers(0, 19)) == 0 else ()
    file = draw(_files) if draw(st.integers(0, 4)) == 0 else "configs/base.py"
    words = (draw(_words),) if draw(st.integers(0, 9)) == 0 else ()
    return Case(changes, missing, file, words)


TINY = st.fixed_dictionaries(
    {name: SOUND[name] for name in ("optimizer", "pruning_selector", "retrain_schedule")}
    | {name: SOUND[name] for name in ("greedy_metric", "ensemble_method")}
    | {name: SOUND[name] for name in ("bn_recalibration", "bn_recalibration_frac", "checkpoint_every", "execution")}
    | {name: SOUND[name] for name in ("on_divergence", "run_id", "use_amp", "remat", "evaluate_train", "stop_signals")}
    | {
        "strategy": st.sampled_from(["SMS", "SMS", "SMS", "Dense"]),
        "arch": st.just("Simple"),
        "prune_only": st.sampled_from([None, None, "fc*", "fc1/kernel"]),
        "prune_except": st.sampled_from([None, None, "fc2/*", "fc1*"]),
        "ood": st.sampled_from([None, "default", "computed:gaussian_noise:3"]),
        "n_epochs": st.just(1),
        "n_epochs_warmup": st.sampled_from([None, 0]),
        "n_epochs_per_phase": st.integers(0, 1),
        "n_phases": st.integers(1, 2),
        "batch_size": st.sampled_from([64, 100, 1293]),
        "retrain_batch_size": st.sampled_from([None, 100, 64]),
        "retrain_use_amp": SOUND["retrain_use_amp"],
        "momentum": st.sampled_from([0.0, 0.9]),
        "weight_decay": st.sampled_from([0.0, 1e-4]),
        "goal_sparsity": st.floats(0.01, 0.99),
        "learning_rate": st.sampled_from(["(Constant, 0.01)", "(Cosine, 0.1)", "(MultiStepLR, 0.1, [1|2], 0.1)"]),
        "data.on_device": SOUND["data.on_device"],
        "evaluate_every": SOUND["evaluate_every"],
        "data.workers": st.integers(0, 2),
        "members": st.sampled_from(
            [
                {"n_splits_total": 1},
                {"n_splits_total": 3},
                {"split_vals": (5, 0)},
                {"ensemble_by": "weight_decay", "split_vals": (0.0, 1e-3)},
                {"ensemble_by": "retrain_length", "split_vals": (2, 1)},
                {"ensemble_by": "retrain_schedule", "split_vals": (0.1, 0.01)},
                {"members": ({"seed": 1, "weight_decay": 0.0}, {"retrain_length": 2})},
                {"pool": "seed:0..9, peak:log(0.01,0.1)", "n_splits_total": 2},
            ]
        ),
    }
)
"""Whole experiments of seconds on the digits; `members` holds settings that belong together."""
