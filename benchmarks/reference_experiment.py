"""The whole experiment in PyTorch, as the reference runs it, but in one process and without its tracker.

What it is spared: a process for each stage, queries of an experiment tracker, evaluation while training, files.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader

from benchmarks import peers
from ssoup_jax.config import Settings
from ssoup_jax.data.dataset import Dataset
from ssoup_jax.pruning.allocation import phase_amount
from ssoup_jax.schedules import pretrain, retrain
from tests.interop import twins

State = dict[str, torch.Tensor]


@dataclass
class Experiment:
    """Everything that its stages share.

    Attributes:
        settings: the same as ours.
        dataset: the same as ours.
        device: what PyTorch computes on.
    """

    settings: Settings
    dataset: Dataset
    device: torch.device

    def __post_init__(self):
        def split(found, moved):
            return peers.PillowImages(found.images, found.labels, self.dataset.transform, moved)

        train, batch_size = split(self.dataset.train, True), self.settings.batch_size
        self.shuffled = peers.loader(train, batch_size, self.device)
        self.ordered = peers.loader(train, batch_size, self.device, shuffle=False)
        self.splits = {
            name: peers.loader(split(getattr(self.dataset, name), False), 256, self.device, shuffle=False)
            for name in ("train", "val", "test")
        }
        settings = self.settings
        rates = pretrain.learning_rates(
            settings.learning_rate, settings.n_epochs, len(self.shuffled), settings.n_epochs_warmup
        )
        self.history = retrain.DenseHistory(rates, (settings.n_epochs_warmup or 0) * len(self.shuffled))

    def run(self) -> dict[str, float]:
        """Runs all stages; returns the test accuracy of the dense model and of the last soup."""
        settings = self.settings
        model = self._new()
        self._train(model, self.history.rates, settings.run_id)
        found = {"dense": self._evaluate(model)["test"]}
        for layer in twins.prunable(model):
            prune.identity(layer, "weight")
        parent = model.state_dict()
        amount = phase_amount(settings.goal_sparsity, settings.n_phases)
        rates = retrain.learning_rates(
            settings.retrain_schedule, self.history, settings.n_epochs_per_phase * len(self.shuffled)
        )
        for _ in range(settings.n_phases):
            candidates = []
            for seed in settings.all_splits:
                model = self.load(parent)
                twins.prune_globally(model, amount)
                if not candidates:
                    self._evaluate(model)
                self._train(model, rates, settings.run_id + seed)
                self._recalibrate(model)
                self._evaluate(model)
                candidates.append(model.state_dict())
            model = self.load(_mean(candidates))
            self._recalibrate(model)
            found["soup"] = self._evaluate(model)["test"]
            parent = model.state_dict()
        return found

    def _new(self) -> nn.Module:
        shape = self.dataset.image_shape
        return peers.network(self.settings.arch, self.dataset.n_classes, shape, self.settings.run_id).to(self.device)

    def unpruned(self) -> nn.Module:
        """Builds a new network with a mask of ones for every prunable weight."""
        model = self._new()
        for layer in twins.prunable(model):
            prune.identity(layer, "weight")
        return model

    def load(self, state: State) -> nn.Module:
        """Builds the network of a state that `unpruned` has the names of."""
        model = self.unpruned()
        model.load_state_dict(state)
        for layer in twins.prunable(model):
            # Pruning goes by `weight`, which is still the initial one until the next forward pass.
            layer.weight = layer.weight_orig * layer.weight_mask
        return model

    def _batch(self, batch: list[torch.Tensor]) -> list[torch.Tensor]:
        return [tensor.to(self.device, non_blocking=True) for tensor in batch]

    def _train(self, model: nn.Module, rates: np.ndarray, seed: int) -> None:
        torch.manual_seed(seed)
        model.train()
        settings = self.settings
        optimizer = torch.optim.SGD(
            model.parameters(),
            1.0,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.weight_decay > 0,
        )
        # The scheduler looks one step beyond the last.
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(rates[min(step, len(rates) - 1)]))
        for _ in range(len(rates) // len(self.shuffled)):
            figures = []
            for batch in self.shuffled:
                images, labels = self._batch(batch)
                optimizer.zero_grad()
                logits = model(images)
                loss = F.cross_entropy(logits, labels)
                loss.backward()
                optimizer.step()
                scheduler.step()
                figures += [loss.detach(), (logits.argmax(1) == labels).float().mean()]
            torch.stack(figures).cpu()  # once an epoch, for the log

    @torch.no_grad()
    def _recalibrate(self, model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
        model.train()
        for batch in self.ordered:
            model(self._batch(batch)[0])

    @torch.no_grad()
    def _evaluate(self, model: nn.Module) -> dict[str, float]:
        model.eval()
        return {name: self._accuracy(model, batches) for name, batches in self.splits.items()}

    def _accuracy(self, model: nn.Module, batches: DataLoader) -> float:
        correct = [model(images).argmax(1) == labels for images, labels in map(self._batch, batches)]
        return float(torch.cat(correct).float().mean())


def _mean(states: list[State]) -> State:
    """Averages every entry, BatchNorm's statistics included; counters and masks are those of the first."""
    first = states[0]
    return {
        name: torch.stack([state[name] for state in states]).mean(0)
        if value.is_floating_point() and not name.endswith("_mask")
        else value
        for name, value in first.items()
    }
