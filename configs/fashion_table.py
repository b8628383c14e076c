"""Evidence on real data: the paper's comparison on Fashion-MNIST, small enough for two CPU cores.

    apt-get install dataset-fashion-mnist
    python launch.py --config configs/fashion_table.py

All 10 000 test images; 5 000 of the 54 000 training images that do not validate, of 14 x 14 pixels (each the mean of
four), mirrored and shifted by a pixel at random; a residual network of 8 layers. Goals of 90 and 98 % in three phases
of 15 epochs each, m = 3 and 5, five runs of SMS and of what it is compared with. Several launches on one workdir share
the work.

Cost: about a quarter of an hour of a core for a run and goal with m = 3, half an hour with m = 3 and 5. Expected
result: docs/results/README.md, which says what was run of it, and what that shows and does not.

Arguments: `folder` (of the four files), `arch`, `m` (the only m), `goal` (the only goal), `runs` (how many), `phases`,
`epochs` (of a phase), `dense` (epochs of dense training), and `smoke` (one epoch, a phase, two runs, to see whether
everything is in place).
"""

from ml_collections import ConfigDict

from configs import arguments, base


def get_config(text: str | None = None) -> ConfigDict:
    """Returns the study's settings."""
    folder = "/usr/share/datasets/fashion-mnist"
    given = arguments.parse(
        text, folder=folder, arch="ResNet8", m=0, goal=0.0, runs=5, phases=3, epochs=15, dense=30, smoke=False
    )
    config = base.get_config()
    config.dataset = f"idx:{given['folder']}"
    config.data.n_train = 5000
    config.data.shrink = 2
    config.data.pad = 1
    config.data.flip = True
    config.ood = None
    config.evaluate_train = False
    config.arch = given["arch"]
    config.n_epochs = given["dense"]
    config.batch_size = 64
    config.learning_rate = "(Linear, 0.1)"
    config.weight_decay = 5e-4
    config.n_phases = given["phases"]
    config.n_epochs_per_phase = given["epochs"]
    config.retrain_schedule = "ALLR"
    config.study.methods = "SMS, IMP_mx, IMP-RePrune, IMP"
    config.study.runs = tuple(range(1, given["runs"] + 1))
    config.study.members = (given["m"],) if given["m"] else (3, 5)
    config.study.goals = (given["goal"],) if given["goal"] else (0.9, 0.98)
    return arguments.smoke(config) if given["smoke"] else config
