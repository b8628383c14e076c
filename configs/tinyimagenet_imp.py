"""Sparse Model Soups on TinyImageNet: ResNet-50 to 90 % sparsity in three phases, three members each.

    python launch.py --config configs/tinyimagenet_imp.py:path=/data/tiny-imagenet-200
    python launch.py --config configs/tinyimagenet_imp.py:path=/data/tiny-imagenet-200,arch=ResNet18,size=64,m=5

`path` is the folder that http://cs231n.stanford.edu/tiny-imagenet-200.zip unpacks to, with train/CLASS/images,
val/images and val/val_annotations.txt. Its images have 64 x 64 pixels; as in the reference they are cropped and scaled
to 224, `size` says otherwise.

Cost: 90 epochs of dense training and 3 x m x 10 of retraining on 100 000 images. Expected result: none was published.

Arguments: `path`, `arch`, `m` (members), `size` (pixels to a side), `goal` (sparsity), `smoke` (a tiny network on small
crops for an epoch, to see whether everything is in place).
"""

from ml_collections import ConfigDict

from configs import arguments, base


def get_config(text: str | None = None) -> ConfigDict:
    """Returns the experiment's settings."""
    given = arguments.parse(text, path="tiny-imagenet-200", arch="ResNet50", m=3, size=224, goal=0.9, smoke=False)
    config = base.get_config()
    config.dataset = f"folder:{given['path']}"
    config.data.image_size = given["size"]
    config.arch = given["arch"]
    config.n_epochs = 90
    config.batch_size = 256
    config.learning_rate = "(Linear, 0.1)"
    config.n_epochs_warmup = 5
    config.weight_decay = 1e-4
    config.goal_sparsity = given["goal"]
    config.n_phases = 3
    config.n_epochs_per_phase = 10
    config.n_splits_total = given["m"]
    config.use_amp = True
    return arguments.smoke(config) if given["smoke"] else config
