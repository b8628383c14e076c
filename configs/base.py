"""Every setting, its meaning, unit and allowed values. Experiment files change what differs.

Not an experiment of its own; `python launch.py --config configs/digits_sms.py` runs one.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """Returns all settings with their defaults; `None` means "not given"."""
    config = ConfigDict()

    # What to run.
    config.strategy = "SMS"  # 'SMS': the whole plan; 'Dense', 'IMP', 'Ensemble': that stage alone
    config.run_id = 1  # which run; decides every random number; integer >= 0
    config.phase = 1  # which phase 'IMP' and 'Ensemble' run alone; 1 .. n_phases

    # Data and model.
    config.dataset = "digits"  # 'digits', 'npz:PATH', 'idx:FOLDER' (the four files of MNIST and its relatives),
    #   'folder:PATH' (images in train/CLASS/ and test/CLASS/ or val/CLASS/), all of docs/data.md,
    #   'tfds:NAME[:CONFIG]', or 'mnist', 'fashion_mnist', 'cifar10', 'cifar100', 'svhn_cropped', 'imagenet2012';
    #   one's own, 'my_package.data:load', returns x_train, y_train, x_test and y_test in a dict
    config.data_dir = placeholder(str)  # where TFDS keeps its data sets; None: TFDS's own default
    config.data = ConfigDict()
    config.data.download = True  # whether what is missing in data_dir may be fetched from the network
    config.data.verify = True  # False: take an archive whose checksum is not the published one, as other data
    config.data.follow_links = False  # whether links in a folder of images may lead anywhere on its own file system
    config.data.layout = placeholder(str)  # of the arrays of npz and idx: 'NHWC', 'NCHW'; None: refuse what looks NCHW
    config.data.n_classes = placeholder(int)  # None: as many as the data say, for npz and idx the largest label + 1
    config.data.split = placeholder(str)  # which tenth of the training images validates; None: our own;
    #   'reference': that of the authors' PyTorch code, for a dense model that it trained
    config.data.n_train = placeholder(int)  # how many training images are used; None: all that do not validate
    config.data.shrink = placeholder(int)  # images of arrays get that many times smaller to a side; None: as they are
    config.data.on_device = placeholder(bool)  # whether all images stay on the device; None: if they fit
    config.data.image_size = 224  # pixels to a side that images of different sizes are cropped to
    config.data.workers = placeholder(int)  # threads that decode streamed images; 0: none; None: as many as cores
    config.data.skip_undecodable = False  # True: replace an image that cannot be decoded, and count it; False: stop
    config.data.pad = placeholder(int)  # black pixels around a training image before a random crop; this and the
    #   following: None: by the data set's name, which for all but CIFAR and pictures of many sizes is nothing
    config.data.flip = placeholder(bool)  # whether training images are mirrored at random
    config.data.rotate_degrees = placeholder(float)  # largest rotation of training images; in [0, 180]
    config.data.mean = placeholder(tuple)  # subtracted from pixels in [0, 1]; one for all channels or one for each
    config.data.std = placeholder(tuple)  # what is left is divided by it; likewise
    config.ood = "default"  # corrupted test images to evaluate on as well: a list such as
    #   'gaussian_noise:3, computed:brightness:5'; 'all', 'all:3', 'computed:all', 'computed:all:3'; 'default': what the
    #   reference does, where they are to be had; None: none. Does not change what is trained
    config.evaluate_train = placeholder(bool)  # whether finished models are scored on the training split as well;
    #   None: if all images stay on the device. Does not change what is trained; what is finished keeps its figures
    config.evaluate_every = placeholder(int)  # epochs from one validation of the models in training to the next; 0:
    #   none; None: 1, or as few as cost at most 3 % of training, which is counted and said. Does not change what is
    #   trained
    config.arch = "ResNet20"  # 'Simple', 'ResNet20', 'ResNet56', ...; an unknown name lists them all; one's own:
    #   'my_package.nets:make', of n_classes (and image_shape, dtype, remat) a flax.linen.Module, see docs/library.md
    config.use_amp = False  # True: compute in bfloat16; parameters and BatchNorm statistics stay float32
    config.init_from = placeholder(str)  # file of PyTorch or safetensors to take as the dense model, which is then not
    #   trained: the settings of dense training only say which learning rates it has seen; its masks, if it has any,
    #   stay, and the phases lead from there to the goal; for one's own network its own names, or a folder of Orbax's
    config.init_head = placeholder(str)  # 'fresh': draw the last layer, whatever the file has in its place, and train
    #   the dense model from there; None: take the model as it is
    config.init_mask = "auto"  # what counts as pruned where the file has no masks: 'zeros': weights that are exactly
    #   zero; 'auto': the same if a tenth of some layer is; 'none': nothing

    # Dense training.
    config.n_epochs = 10  # epochs; integer >= 1
    config.batch_size = 64  # images per step; the last batch of an epoch may be smaller
    config.optimizer = "SGD"  # of dense training and of retraining: 'SGD', 'Adam', 'AdamW', 'LARS'; or one's own,
    #   'my_package.optim:make', of learning_rate (and weight_decay, momentum) an optax optimizer
    config.loss = placeholder(str)  # one's own, 'my_package.losses:smooth', of logits and labels; None: cross-entropy
    config.learning_rate = "(Linear, 0.1)"  # a schedule over all steps, one of:
    #   (Constant, lr)   (Linear, lr[, final])   (Cosine, lr)   (ExponentialLR, lr, gamma per step)
    #   (StepLR, lr, epochs, gamma)   (MultiStepLR, lr, [e1|e2|...], gamma)
    config.n_epochs_warmup = placeholder(int)  # epochs of linear warm-up; None: none
    config.momentum = 0.9  # in [0, 1); beta1 of Adam and AdamW
    config.weight_decay = 1e-4  # >= 0; coupled (L2), decoupled with AdamW; on every parameter, with LARS on kernels;
    #   SGD's momentum is Nesterov's exactly when it is positive

    # Pruning.
    config.goal_sparsity = 0.9  # share of the prunable weights that is zero after the last phase; in (0, 1), and above
    #   what of the model of `init_from` is pruned already
    config.n_phases = 2  # prune-retrain-soup cycles that reach it; integer >= 1
    config.pruning_selector = "global"  # 'global': smallest magnitudes of all; 'uniform': of each layer; 'random';
    #   or one's own, 'my_package.scores:score', of weights and a key, whose lowest are pruned, or a Selector
    config.prune_only = placeholder(str)  # the weights to prune: patterns over their names, such as
    #   'layer1_*, fc/kernel'; what is left out neither loses weights nor counts for the goal; None: all
    config.prune_except = placeholder(str)  # the weights not to prune, by patterns as above; None: none

    # Retraining.
    config.n_epochs_per_phase = 5  # epochs; integer >= 0
    config.retrain_schedule = "LLR"  # 'FT', 'LRW', 'SLR', 'CLR', 'LLR', 'ALLR'
    config.retrain_batch_size = placeholder(int)  # images per step, of recalibration and soups, too; this and the
    #   following: None: as in dense training
    config.retrain_weight_decay = placeholder(float)  # >= 0; as the optimizer has it
    config.retrain_momentum = placeholder(float)  # in [0, 1); likewise
    config.retrain_use_amp = placeholder(bool)  # True: in bfloat16, recalibrated and scored so, too; False: in float32

    # The members: m copies that differ in one hyperparameter, or in several.
    config.ensemble_by = "pruned_seed"  # 'pruned_seed': seed added to the run's; 'weight_decay';
    #   'retrain_length': epochs; 'retrain_schedule': peak learning rate of an LLR schedule
    config.n_splits_total = placeholder(int)  # m, where split_vals is not given; seeds are then 0 .. m-1
    config.split_vals = placeholder(tuple)  # all values, e.g. (0, 1, 2); m is their number
    config.split_val = placeholder(float)  # 'IMP' alone: retrain the member with this value only; of those that follow,
    #   the one with this number
    config.members = placeholder(tuple)  # instead of ensemble_by: what each member has of its own, any of 'seed',
    #   'weight_decay', 'retrain_length' and 'peak', e.g. [{"seed": 1, "weight_decay": 1e-4}, {"seed": 2}]
    config.pool = placeholder(str)  # instead: ranges to draw n_splits_total members from, each of which has all that is
    #   named, e.g. 'weight_decay:log(1e-5,1e-3), retrain_length:5..15': evenly in the logarithm, and evenly
    config.pool_seed = placeholder(int)  # another one draws other members; integer >= 0; None: 0

    # The soup.
    config.ensemble_method = "UniformEnsembling"  # or 'GreedySoup'; None: no soup, plain IMP phase after phase;
    #   or one's own, 'my_package.soups:weigh', of the candidates' scores and what scores a soup by its weights
    config.greedy_metric = "accuracy"  # what a greedy soup must not lose on validation data; or 'macro_accuracy'
    config.bn_recalibration = "moving"  # 'moving': as the reference; 'exact': mean over the batches; None: leave as is
    config.bn_recalibration_frac = 1.0  # share of the training batches it uses; in [0, 1]

    # A study: many experiments on the same data and network, whose figures make one table.
    config.study = ConfigDict()
    config.study.methods = placeholder(str)  # some of 'SMS, IMP, IMP_mx, IMP-RePrune, IMP-AVG, one-shot'; None: none
    config.study.runs = placeholder(tuple)  # several run_id, over which mean and deviation are taken; None: the one
    config.study.members = placeholder(tuple)  # several m; None: n_splits_total
    config.study.goals = placeholder(tuple)  # several goal_sparsity; None: the one
    config.study.vary = placeholder(str)  # what else differs, a table for each value (or each pair of values), such as
    #   'retrain_schedule=LLR|ALLR; n_epochs_per_phase=5|15'; None: nothing
    config.study.reprune_epochs = 0  # epochs that IMP-RePrune retrains after it has pruned again; integer >= 0

    # How it runs; does not change what is computed beyond rounding.
    config.on_divergence = "exclude"  # a member whose loss or weights are not finite: 'exclude' it, or 'fail'
    config.checkpoint_every = "10 minutes"  # 'N steps', 'N epochs' or 'N minutes' of training; None: never
    config.stop_signals = placeholder(str)  # what else asks the run to stop, besides SIGTERM, SIGINT and SIGHUP: names
    #   such as 'SIGUSR1, SIGXCPU' (or SIGUSR2), as a scheduler sends before a limit; None: nothing else
    config.trackers = placeholder(str)  # who is told of epochs and results besides the workdir's own records: a list
    #   such as 'tensorboard, wandb', each of which has to be installed; None: nobody
    config.execution = "auto"  # how a stack executes: 'map', 'vmap', 'unroll', 'loop'; 'vmap:4', 'unroll:4': at most
    #   four members at a time; 'shard', 'shard:map', ...: spread over all devices; 'auto': by a rule of backend,
    #   network and m; 'measured': the fastest of all as measured at a stage's start
    config.mesh = placeholder(str)  # members x data, such as '2x4': how stacks are spread over the devices, each
    #   member's batches cut over 4 of them; None: for every stack the one that leaves the least idle
    config.shard = placeholder(str)  # 'I/N': this launch does the I-th of N parts of a study; None: all of it, sharing
    #   the work with any other launch of it on the same workdir
    config.stack_members = placeholder(int)  # how many members of several runs a study may train as one stack; 0: each
    #   run apart; None: as many as a quarter of the devices' memory holds, and 0 on a CPU, which gains nothing by it
    config.remat = False  # True: recompute each block's activations in the backward pass, to save memory

    return config.lock()
