"""Sparse Model Soups on scikit-learn's handwritten digits (1 797 real 8x8 images).

    python launch.py --config configs/digits_sms.py

Cost: under two minutes on two CPU cores, nothing to download.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the experiment's settings."""
    config = base.get_config()
    config.dataset = "digits"
    config.arch = "ResNet8"
    config.n_epochs = 10
    config.batch_size = 32
    config.goal_sparsity = 0.98
    config.n_phases = 3
    config.n_epochs_per_phase = 5
    config.n_splits_total = 3
    return config
