"""Budgeted IMP on CIFAR-10: one model, short retraining phases whose length the budget sets, ALLR.

    python launch.py --config configs/cifar_bimp.py

The regime of Zimmer, Spiegel and Pokutta, "How I Learned to Stop Worrying and Love Retraining" (ICLR 2023): dense
training with a linear schedule takes most of a fixed budget of epochs; what is left is shared by the phases, and each
starts from a learning rate that fits how much pruning hurt and how long the phase is (ALLR).

Cost: `budget` epochs in all, of which `dense` are of dense training. Expected result: nothing was published for this
very network in a form that could be matched here.

Arguments: `arch`, `goal` (sparsity), `phases`, `budget` and `dense` (epochs), and
`smoke` (a tiny network for an epoch).
"""

from ml_collections import ConfigDict

from configs import arguments, base
from ssoup_jax.errors import SettingsError


def get_config(text: str | None = None) -> ConfigDict:
    """Returns the experiment's settings."""
    given = arguments.parse(text, arch="ResNet18", goal=0.98, phases=3, budget=100, dense=70, smoke=False)
    n_epochs, rest = divmod(given["budget"] - given["dense"], given["phases"])
    if n_epochs < 1 or rest:
        raise SettingsError(
            f"--config: found budget={given['budget']},dense={given['dense']}; what is left of the budget has to be "
            f"a multiple of phases={given['phases']}"
        )
    config = base.get_config()
    config.dataset = "cifar10"
    config.arch = given["arch"]
    config.n_epochs = given["dense"]
    config.batch_size = 128
    config.learning_rate = "(Linear, 0.1)"
    config.weight_decay = 5e-4
    config.goal_sparsity = given["goal"]
    config.n_phases = given["phases"]
    config.n_epochs_per_phase = n_epochs
    config.retrain_schedule = "ALLR"
    config.n_splits_total = 1
    config.ensemble_method = None
    config.use_amp = True
    return arguments.smoke(config, m=1) if given["smoke"] else config
