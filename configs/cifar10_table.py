"""The paper's comparison on CIFAR-10: ResNet-18 to 90 and 98 % sparsity, m = 3, 5 and 10.

    python launch.py --config configs/cifar10_table.py
    python launch.py --config configs/cifar10_table.py --config.shard=2/8      # one of eight jobs on a shared workdir

Cost: for each run and goal what `cifar_imp.py` costs for m = 10, and nearly twice that again for IMP with 3, 5 and 10
times the epochs. What the methods share is trained once. Expected result: no figures were published in a form that
could be matched here.

Arguments: `arch`, `runs` (how many), `smoke` (a tiny network for an epoch, two runs).
"""

from ml_collections import ConfigDict

from configs import arguments, cifar_imp


def get_config(text: str | None = None) -> ConfigDict:
    """Returns the study's settings."""
    given = arguments.parse(text, arch="ResNet18", runs=3, smoke=False)
    config = cifar_imp.get_config(f"arch={given['arch']}")
    return arguments.study(config, goals=(0.9, 0.98), runs=given["runs"], tiny=given["smoke"])
