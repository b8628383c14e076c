"""Sparse Model Soups on CIFAR-100: WideResNet-20 to 98 % sparsity in three phases (72.8, 92.6, 98.0 %).

    python launch.py --config configs/cifar100_imp.py
    python launch.py --config configs/cifar100_imp.py:m=10

Cost: 100 epochs of dense training and 3 x m x 15 of retraining of a network of 26.8 M parameters; the first start
downloads CIFAR-100 (169 MB) and prepares it.

Published test accuracies (ICLR 2024; mean over seeds, columns m = 3 / 5 / 10). The epochs and batch sizes behind them
are not known here, so ours are a choice:

    |                   | 72.8 %                | 92.6 %                | 98.0 %                |
    | SMS               | 76.50 / 76.59 / 76.75 | 75.55 / 76.19 / 76.21 | 72.67 / 72.90 / 73.05 |
    | best candidate    | 75.58 / 75.71 / 75.96 | 74.51 / 75.01 / 75.00 | 71.77 / 71.77 / 72.21 |
    | mean candidate    | 75.37 / 75.58 / 75.55 | 74.32 / 74.71 / 74.70 | 71.41 / 71.61 / 71.66 |
    | IMP               | 75.54                 | 74.09                 | 70.74                 |

Arguments: `arch`, `m` (members), `smoke` (a tiny network for an epoch, to see whether everything is in place).
"""

from ml_collections import ConfigDict

from configs import arguments, base


def get_config(text: str | None = None) -> ConfigDict:
    """Returns the experiment's settings."""
    given = arguments.parse(text, arch="WideResNet20", m=3, smoke=False)
    config = base.get_config()
    config.dataset = "cifar100"
    config.arch = given["arch"]
    config.n_epochs = 100
    config.batch_size = 128
    config.learning_rate = "(Linear, 0.1)"
    config.weight_decay = 2e-4
    config.goal_sparsity = 0.98
    config.n_phases = 3
    config.n_epochs_per_phase = 15
    config.n_splits_total = given["m"]
    config.use_amp = True
    return arguments.smoke(config) if given["smoke"] else config
