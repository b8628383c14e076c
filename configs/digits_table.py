"""The method at a glance: SMS beside IMP on scikit-learn's handwritten digits, three runs, mean and deviation.

    python launch.py --config configs/digits_table.py

Cost: under two minutes on two CPU cores, nothing to download. Expected result: the table of the README; with three runs
of 360 test images the intervals are wide, and say so.

How it was chosen, on validation images and without a look at soups: all digits are too easy (99 % right before anything
is pruned), so fewer training images are used: the smallest number of 100, 200, 400 and 800 of which three dense models
get 90 % of the validation images right on average. Images are shifted by a pixel at random, as CIFAR's are; lengths are
such that the steps are about those of `digits_sms.py`; ALLR, as where gains were measured (docs/results); BatchNorm's
statistics are recalibrated exactly, because 7 batches are too few for a moving average.

Arguments: `runs` (how many), `m` (members), `goal` (sparsity).
"""

from ml_collections import ConfigDict

from configs import arguments, digits_sms


def get_config(text: str | None = None) -> ConfigDict:
    """Returns the study's settings."""
    given = arguments.parse(text, runs=3, m=3, goal=0.98)
    config = digits_sms.get_config()
    config.data.n_train = 200
    config.data.pad = 1
    config.evaluate_train = False
    config.ood = None
    config.n_epochs = 40
    config.n_epochs_per_phase = 20
    config.retrain_schedule = "ALLR"
    config.bn_recalibration = "exact"
    config.study.methods = "SMS, IMP"
    config.study.runs = tuple(range(1, given["runs"] + 1))
    config.study.members = (given["m"],)
    config.study.goals = (given["goal"],)
    return config
