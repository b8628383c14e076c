"""The published figures: test accuracy in per cent, mean and deviation over seeds (the authors' ICLR 2024 poster)."""

from typing import NamedTuple


class Published(NamedTuple):
    """A published figure.

    Attributes:
        mean: of the test accuracy, a fraction.
        std: its deviation over seeds, a fraction.
    """

    mean: float
    std: float


_MEMBERS = (3, 5, 10)

# For each row the figures of the three phases, and in each of m = 3, 5, 10; rows without members have one.
_CIFAR100 = {
    "SMS": (
        "76.50 .16 / 76.59 .13 / 76.75 .28",
        "75.55 .60 / 76.19 .37 / 76.21 .43",
        "72.67 .29 / 72.90 .64 / 73.05 .45",
    ),
    "best candidate": (
        "75.58 .19 / 75.71 .08 / 75.96 .13",
        "74.51 .47 / 75.01 .74 / 75.00 .34",
        "71.77 .04 / 71.77 .37 / 72.21 .02",
    ),
    "mean candidate": (
        "75.37 .12 / 75.58 .03 / 75.55 .26",
        "74.32 .40 / 74.71 .48 / 74.70 .42",
        "71.41 .09 / 71.61 .40 / 71.66 .19",
    ),
    "IMP_mx": (
        "75.85 .26 / 76.05 .00 / 75.76 .24",
        "74.09 .24 / 74.19 .44 / 74.74 .06",
        "70.92 .07 / 70.31 .52 / 71.85 .15",
    ),
    "IMP-RePrune": (None, None, "68.19 .44 / 65.53 .06 / 63.62 .90"),
    "IMP": ("75.54 .41", "74.09 .13", "70.74 .08"),
}
_IMAGENET = {
    "SMS": (
        "76.74 .20 / 76.89 .18 / 77.01 .05",
        "76.04 .21 / 76.30 .13 / 76.49 .12",
        "74.53 .04 / 74.82 .08 / 74.96 .16",
    ),
    "best candidate": (
        "76.07 .01 / 76.07 .21 / 76.14 .18",
        "75.48 .16 / 75.46 .11 / 75.70 .03",
        "74.00 .03 / 74.19 .08 / 74.25 .13",
    ),
    "mean candidate": (
        "75.99 .04 / 75.95 .14 / 75.96 .08",
        "75.40 .11 / 75.42 .10 / 75.55 .05",
        "73.94 .03 / 74.11 .11 / 74.13 .12",
    ),
    "IMP_mx": (
        "76.25 .08 / 76.21 .14 / 76.46 .04",
        "75.74 .03 / 75.87 .11 / 75.93 .03",
        "74.34 .09 / 74.56 .24 / 74.50 .09",
    ),
    "IMP-RePrune": (None, None, "72.97 .25 / 72.58 .01 / 72.08 .12"),
    "IMP": ("75.97 .16", "75.19 .14", "73.59 .04"),
}

_TABLES = {
    ("cifar100", "WideResNet20", 0.98, 3): _CIFAR100,
    ("imagenet2012", "ResNet50", 0.9, 3): _IMAGENET,
}


def find(dataset: str, arch: str, goal: float, n_phases: int, row: str, phase: int, m: int | None) -> Published | None:
    """Returns the published figure for a cell; None: there is none.

    Args:
        dataset: the setting.
        arch: the setting.
        goal: sparsity after the last phase.
        n_phases: how many there are.
        row: the row's name.
        phase: 1-based.
        m: number of members; None: the row depends on none.
    """
    phases = _TABLES.get((dataset, arch, goal, n_phases), {}).get(row)
    text = phases[phase - 1] if phases else None
    if text is None:
        return None
    figures = text.split(" / ")
    if m is None:
        text = figures[0]
    elif m in _MEMBERS:
        text = figures[_MEMBERS.index(m)]
    else:
        return None
    mean, std = map(float, text.split())
    return Published(mean / 100, std / 100)
