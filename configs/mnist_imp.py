"""Sparse Model Soups on MNIST: the 784-512-10 network to 98 % sparsity in three phases, three members each.

    python launch.py --config configs/mnist_imp.py
    python launch.py --config configs/mnist_imp.py:m=5,goal=0.99

Cost: 10 epochs of dense training and 3 x m x 5 of retraining of a network of 0.4 M parameters, minutes on a laptop's
CPU; the first start downloads MNIST (12 MB) and prepares it. Expected result: none was published; about 98 % test
accuracy is usual for such a network when dense.

Arguments: `arch`, `m` (members), `goal` (sparsity), `phases`, and `smoke` (a single epoch and phase, to see whether
everything is in place).
"""

from ml_collections import ConfigDict

from configs import arguments, base


def get_config(text: str | None = None) -> ConfigDict:
    """Returns the experiment's settings."""
    given = arguments.parse(text, arch="Simple", m=3, goal=0.98, phases=3, smoke=False)
    config = base.get_config()
    config.dataset = "mnist"
    config.arch = given["arch"]
    config.n_epochs = 10
    config.batch_size = 128
    config.learning_rate = "(Linear, 0.1)"
    config.weight_decay = 1e-4
    config.goal_sparsity = given["goal"]
    config.n_phases = given["phases"]
    config.n_epochs_per_phase = 5
    config.n_splits_total = given["m"]
    return arguments.smoke(config, arch="Simple") if given["smoke"] else config
