"""Sparse Model Soups on ImageNet: ResNet-50 to 90 % sparsity in three phases (53.6, 78.5, 90.0 %).

    python launch.py --config configs/imagenet_imp.py --config.data_dir=/data/tensorflow_datasets
    python launch.py --config configs/imagenet_imp.py:m=5,path=/data/imagenet      # folders train/CLASS and val/CLASS

Cost: 90 epochs of dense training and 3 x m x 10 of retraining of a network of 25.6 M parameters on 1.28 M images of 224
pixels: days on one accelerator. To start from a trained network instead, give its PyTorch file as --config.init_from.
ImageNet has no open download: put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into
<data_dir>/downloads/imagenet2012, point data_dir at a prepared copy, or give folders of images as `path`.

Published test accuracies (ICLR 2024; mean over seeds, columns m = 3 / 5 / 10). The epochs and batch sizes behind them
are not known here, so ours are a choice:

    |                   | 53.6 %                | 78.5 %                | 90.0 %                |
    | SMS               | 76.74 / 76.89 / 77.01 | 76.04 / 76.30 / 76.49 | 74.53 / 74.82 / 74.96 |
    | best candidate    | 76.07 / 76.07 / 76.14 | 75.48 / 75.46 / 75.70 | 74.00 / 74.19 / 74.25 |
    | mean candidate    | 75.99 / 75.95 / 75.96 | 75.40 / 75.42 / 75.55 | 73.94 / 74.11 / 74.13 |
    | IMP               | 75.97                 | 75.19                 | 73.59                 |

Arguments: `arch`, `m` (members), `path` (a folder of images in place of TFDS), `smoke` (a tiny network on small crops
for an epoch, to see whether everything is in place).
"""

from ml_collections import ConfigDict

from configs import arguments, base


def get_config(text: str | None = None) -> ConfigDict:
    """Returns the experiment's settings."""
    given = arguments.parse(text, arch="ResNet50", m=3, path="", smoke=False)
    config = base.get_config()
    config.dataset = f"folder:{given['path']}" if given["path"] else "imagenet2012"
    config.arch = given["arch"]
    config.n_epochs = 90
    config.batch_size = 256
    config.learning_rate = "(Linear, 0.1)"
    config.n_epochs_warmup = 5
    config.weight_decay = 1e-4
    config.goal_sparsity = 0.9
    config.n_phases = 3
    config.n_epochs_per_phase = 10
    config.n_splits_total = given["m"]
    config.bn_recalibration_frac = 0.1
    config.use_amp = True
    return arguments.smoke(config) if given["smoke"] else config
