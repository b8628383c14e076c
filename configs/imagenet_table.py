"""The paper's table on ImageNet: ResNet-50 to 90 % sparsity, m = 3, 5 and 10, with the published figures beside.

    python launch.py --config configs/imagenet_table.py --config.data_dir=/data/tensorflow_datasets
    python launch.py --config configs/imagenet_table.py:path=/data/imagenet --config.shard=2/8

Cost: for each run what `imagenet_imp.py` costs for m = 10, and nearly twice that again for IMP with 3, 5 and 10 times
the epochs: weeks on one accelerator. What the methods share is trained once. Expected result: the published table, see
`imagenet_imp.py`.

Arguments: `arch`, `path` (a folder of images in place of TFDS), `runs` (how many), `smoke` (a tiny network on small
crops for an epoch, two runs).
"""

from ml_collections import ConfigDict

from configs import arguments, imagenet_imp


def get_config(text: str | None = None) -> ConfigDict:
    """Returns the study's settings."""
    given = arguments.parse(text, arch="ResNet50", path="", runs=3, smoke=False)
    config = imagenet_imp.get_config(f"arch={given['arch']},path={given['path']}")
    return arguments.study(config, goals=(0.9,), runs=given["runs"], tiny=given["smoke"])
