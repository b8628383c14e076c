"""The paper's table on CIFAR-100: WideResNet-20 to 98 % sparsity, m = 3, 5 and 10, with the published figures beside.

    python launch.py --config configs/cifar100_table.py
    python launch.py --config configs/cifar100_table.py --config.shard=2/8      # one of eight jobs on a shared workdir

Cost: for each run what `cifar100_imp.py` costs for m = 10, and nearly twice that again for IMP with 3, 5 and 10 times
the epochs. What the methods share is trained once. Expected result: the published table, see `cifar100_imp.py`.

Arguments: `arch`, `runs` (how many), `smoke` (a tiny network for an epoch, two runs).
"""

from ml_collections import ConfigDict

from configs import arguments, cifar100_imp


def get_config(text: str | None = None) -> ConfigDict:
    """Returns the study's settings."""
    given = arguments.parse(text, arch="WideResNet20", runs=3, smoke=False)
    config = cifar100_imp.get_config(f"arch={given['arch']}")
    return arguments.study(config, goals=(0.98,), runs=given["runs"], tiny=given["smoke"])
