"""The benchmark of zeros runs, and all that it compares is the same network; how fast anything is, is not tested."""

import json

import jax
import numpy as np
import pytest
import torch

from benchmarks import sparse_inference, sparse_torch
from benchmarks.sparse_inference import Contender, Subject
from ssoup_jax.errors import RunError
from ssoup_jax.interop import torch_networks


def test_every_way_is_timed_and_the_table_stored(tmp_path):
    sparse_inference.main(
        "--archs Simple --sparsities 0.9 0.98 --batch-sizes 1 3 --image-size 8 --rounds 2 --round-seconds 0 "
        f"--results {tmp_path}".split()
    )
    (figures,), (table,) = tmp_path.glob("sparse-inference-*.json"), tmp_path.glob("sparse-inference-*.md")
    result = json.loads(figures.read_text())
    ways = [("XLA, dense", 0.0), ("onnxruntime, dense", 0.0), ("PyTorch, dense", 0.0)]
    ways += [(how, s) for s in (0.9, 0.98) for how in ("onnxruntime, zeros stored", "PyTorch, CSR")]
    found = [(row["label"], row["sparsity"], row["batch_size"]) for row in result["rows"]]
    assert found == [(*way, batch_size) for batch_size in (1, 3) for way in ways]
    for row in result["rows"]:
        assert len(row["rounds"]) == 2 and row["seconds"] > 0
        assert row["time_to_dense"] == 1 or row["sparsity"]
        assert row["images_per_second"] == pytest.approx(row["batch_size"] / row["seconds"])
        assert row["label"] in table.read_text()


def test_sizes_are_counted():
    dense, sparse = sparse_inference.sizes(Subject.named("Simple", 8), [0.75])
    # 192 x 512 + 512 and 512 x 10 + 10 float32 numbers.
    assert dense["bytes"] == sparse["bytes"] == 4 * (192 * 512 + 512 + 512 * 10 + 10)
    assert sparse["theoretical_speedup"] == pytest.approx(4)
    assert sparse["deflated_bytes"] < 0.4 * dense["deflated_bytes"]


def test_every_layer_has_its_share_of_zeros():
    subject = Subject.named("ResNet8", 8)
    params = sparse_inference.pruned(subject.dense, 0.9).params
    shares = [float((leaf == 0).mean()) for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    np.testing.assert_allclose(shares, 0.9, atol=0.002)


def test_other_logits_end_the_benchmark():
    subject = Subject.named("Simple", 8)
    images = np.ones((2, 8, 8, 3), np.float32)
    run = sparse_inference.xla(subject.model, subject.dense)
    right, wrong = Contender("right", "XLA", 0.0, run), Contender("wrong", "XLA", 0.9, run)
    sparse_inference.check(subject, images, [right])
    with pytest.raises(RunError, match="Simple: wrong: its logits are off by"):
        sparse_inference.check(subject, images, [right, wrong])


@pytest.mark.parametrize("arch", ["CNN", "ResNet8"])
def test_a_network_of_sparse_rows_computes_the_same(arch):
    torch.manual_seed(0)
    network = torch_networks.build(arch, 7, (9, 8, 3)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= torch.rand(parameter.shape) < 0.2
        images = torch.randn(3, 3, 9, 8)
        sparse = sparse_torch.csr(network)
        torch.testing.assert_close(sparse(images), network(images), rtol=1e-4, atol=1e-6)
    kinds = {type(module).__name__ for module in sparse.modules()}
    assert "Product2d" in kinds and not kinds & {"Conv2d", "Linear"}
    assert "Product2d" not in {type(module).__name__ for module in network.modules()}, "it works on a copy"


def test_two_of_any_four_weights_are_kept():
    weight = torch.tensor([[1.0, -3.0, 2.0, 0.5, 0.0, 0.0, 7.0, -8.0]])
    assert sparse_torch.keep_two_of_four(weight).tolist() == [[0.0, -3.0, 2.0, 0.0, 0.0, 0.0, 7.0, -8.0]]
    assert not sparse_torch.has_two_of_four("cpu")


def test_quick_options_can_be_overridden():
    options = sparse_inference.parse(["--quick", "--rounds", "2"])
    assert (options.archs, options.rounds) == (sparse_inference.DEFAULTS["quick"]["archs"], 2)
    assert sparse_inference.parse([]).batch_sizes == sparse_inference.DEFAULTS["full"]["batch_sizes"]
