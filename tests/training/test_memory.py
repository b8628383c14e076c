"""The estimate against what XLA says, the choice of a smaller executor, and how much memory there is."""

import os
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from ssoup_jax import models
from ssoup_jax.data.augment import Transform
from ssoup_jax.data.feeds import Examples
from ssoup_jax.errors import SettingsError
from ssoup_jax.stack import executors
from ssoup_jax.training import memory, optimizer
from ssoup_jax.training.memory import Footprint
from ssoup_jax.training.state import TrainState, Variables
from ssoup_jax.training.step import Inputs, Problem, Shared, train_steps

Shape = jax.ShapeDtypeStruct
MEMBER = Footprint(state=30, mask=4, gradients=10, activations=100)


def problem(arch, image_shape, **options):
    return Problem(models.build(arch, 10, image_shape, **options), Transform(pad=2, flip=True))


def compiled_bytes(problem_, image_shape, batch_size, execution, m):
    """What XLA sets aside for a step of the stack, the images apart."""
    key = Shape((), jax.eval_shape(lambda: jax.random.key(0)).dtype)
    number, index = Shape((), jnp.float32), Shape((), jnp.int32)
    variables = jax.eval_shape(lambda key: Variables(*models.init(problem_.model, key, image_shape)), key)
    state = TrainState(variables, jax.eval_shape(optimizer.init, variables.params))
    examples = Examples(Shape((64, *image_shape), jnp.uint8), Shape((64,), jnp.int32))
    mask = jax.tree.map(lambda leaf: Shape(leaf.shape, jnp.bool_), variables.params)
    shared = Shared(examples, mask, number, index, index, index)
    inputs = Inputs(Shape((2, batch_size), jnp.int32), Shape((2,), jnp.float32), number, key)
    stack = jax.tree.map(lambda leaf: Shape((m, *leaf.shape), leaf.dtype), (state, inputs))
    fn, slots = executors.bind(train_steps, problem_), Shape((m,), jnp.int32)
    if execution == "map":
        lowered = executors._mapped.lower(fn, shared, *stack, slots, index, index)
    else:
        lowered = executors._batched.lower(fn, shared, *stack, slots)
    found = lowered.compile().memory_analysis()
    total = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return total + found.temp_size_in_bytes - memory.n_bytes(examples)


CASES = [("Simple", (28, 28, 1), 128, "map", 2)]
SLOW_CASES = [
    ("Simple", (28, 28, 1), 128, "vmap", 2),
    ("CNN", (28, 28, 1), 64, "map", 2),
    ("CNN", (28, 28, 1), 64, "vmap", 2),
    ("ResNet8", (32, 32, 3), 64, "map", 1),
    ("ResNet8", (32, 32, 3), 64, "vmap", 3),
    ("ResNet8", (32, 32, 3), 64, "unroll", 3),
    ("ResNet20", (32, 32, 3), 64, "map", 3),
    ("ResNet18", (32, 32, 3), 32, "map", 2),
    ("VGG16", (32, 32, 3), 32, "map", 2),
]


@pytest.mark.parametrize(
    ("arch", "image_shape", "batch_size", "execution", "m"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES)],
)
def test_the_estimate_is_near_what_xla_sets_aside(arch, image_shape, batch_size, execution, m):
    own = problem(arch, image_shape, conv=executors.convolution(execution))
    member = memory.footprint(own, image_shape, batch_size, "cpu")
    found = memory.estimate(execution, m, member) / compiled_bytes(own, image_shape, batch_size, execution, m)
    # XLA shares buffers in ways that no estimate foresees; what is used of the free memory leaves room for 20 %.
    assert memory.STACK_SHARE < found < 1.2


def test_a_members_parts_are_counted():
    own = problem("ResNet8", (32, 32, 3))
    params, stats = jax.eval_shape(lambda: models.init(own.model, jax.random.key(0), (32, 32, 3)))
    found = memory.footprint(own, (32, 32, 3), 16, "gpu")
    n_params, n_stats = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (params, stats))
    assert (found.state, found.mask, found.gradients) == (4 * (2 * n_params + n_stats), n_params, 4 * n_params)


@pytest.mark.parametrize(
    ("arch", "options", "backend", "low", "high"),
    [
        ("ResNet20", {"remat": True}, "gpu", 0.2, 0.6),
        ("VGG11", {"remat": True}, "tpu", 0.5, 0.9),
        # A CPU does neither.
        ("ResNet20", {"remat": True}, "cpu", 1, 1),
        ("ResNet8", {"dtype": jnp.bfloat16}, "cpu", 1, 1.05),
        # Logits and pooled features stay float32.
        ("ResNet8", {"dtype": jnp.bfloat16}, "gpu", 0.5, 0.55),
        # How convolutions run side by side is not one member's matter.
        ("ResNet8", {"conv": "unroll"}, "gpu", 1, 1),
        ("ResNet8", {"conv": "lax"}, "gpu", 1, 1),
    ],
)
def test_activations_follow_the_settings(arch, options, backend, low, high):
    usual, own = (
        memory.footprint(problem(arch, (32, 32, 3), **changes), (32, 32, 3), 16, backend).activations
        for changes in ({}, options)
    )
    assert low <= own / usual <= high


def test_activations_of_a_perceptron_are_those_counted_by_hand():
    found = memory.footprint(problem("Simple", (28, 28, 1)), (28, 28, 1), 128, "gpu").activations
    # The last to be freed: the first layer's input and output, each beside its gradient.
    assert found == 4 * 128 * 2 * (784 + 512)


def test_activations_grow_with_the_batch():
    own = problem("ResNet8", (32, 32, 3))
    one, two = (memory.footprint(own, (32, 32, 3), n, "gpu").activations for n in (16, 32))
    # All but a kernel's gradient and its transposed form do.
    params, _ = jax.eval_shape(lambda: models.init(own.model, jax.random.key(0), (32, 32, 3)))
    assert 2 * one - two in [2 * 4 * leaf.size for leaf in jax.tree.leaves(params)]


@pytest.mark.parametrize(
    ("execution", "m", "n_devices", "expected"),
    [
        # mask + states at rest + copies at work + gradients and activations of those at work
        ("map", 3, 1, 4 + 3 * 30 + 30 + 110),
        ("loop", 3, 1, 4 + 3 * 30 + 30 + 110),
        ("vmap", 3, 1, 4 + 3 * 30 + 0 + 3 * 110),
        ("unroll", 3, 1, 4 + 3 * 30 + 0 + 3 * 110),
        ("vmap:2", 3, 1, 4 + 3 * 30 + 2 * 30 + 2 * 110),
        ("unroll:7", 3, 1, 4 + 3 * 30 + 0 + 3 * 110),
        ("shard:vmap", 8, 4, 4 + 2 * 30 + 0 + 2 * 110),
        ("shard:map", 8, 4, 4 + 2 * 30 + 30 + 110),
        ("shard:vmap:1", 8, 4, 4 + 2 * 30 + 30 + 110),
        # Five do not spread evenly over four: all rest everywhere.
        ("shard:vmap", 5, 4, 4 + 5 * 30 + 2 * 30 + 2 * 110),
    ],
)
def test_what_lives_at_once_is_what_counts(execution, m, n_devices, expected):
    assert memory.estimate(execution, m, MEMBER, n_devices) == expected


@pytest.mark.parametrize(
    ("execution", "m", "n_devices", "usable", "expected"),
    [
        ("vmap", 5, 1, 704, ("vmap", 704)),
        ("vmap", 5, 1, 703, ("vmap:3", 574)),  # four at once need 714: copies are made
        ("vmap", 5, 1, 573, ("vmap:2", 434)),
        ("unroll", 5, 1, 573, ("unroll:2", 434)),
        ("unroll:2", 5, 1, 433, ("map", 294)),
        ("map", 5, 1, 294, ("map", 294)),
        ("loop", 5, 1, 294, ("loop", 294)),
        ("shard:vmap", 8, 4, 283, ("shard:map", 204)),
        ("shard:unroll", 12, 4, 400, ("shard:unroll:2", 374)),
        ("vmap", 5, 1, None, ("vmap", 704)),
    ],
)
def test_the_largest_chunk_that_fits_is_taken(execution, m, n_devices, usable, expected):
    # Rounded up, so that the share is not below what the case says.
    limit = usable and -(-usable // memory.STACK_SHARE)
    found = memory.fit(execution, m, MEMBER, limit, n_devices)
    assert found == (*expected, limit)


def test_images_that_are_not_there_yet_count():
    assert memory.fit("vmap", 5, MEMBER, 2000, data_bytes=600) == ("vmap", 1304, 2000)
    assert memory.fit("vmap", 5, MEMBER, 2000, data_bytes=1000).execution == "vmap:3"


@pytest.mark.parametrize("execution", ["vmap", "map", "loop", "unroll:2"])
def test_what_cannot_fit_is_refused_in_one_line(execution):
    member = Footprint(state=3 * 10**9, mask=10**9, gradients=10**9, activations=5 * 10**9)
    with pytest.raises(SettingsError) as caught:
        memory.fit(execution, 2, member, 10**10)
    line = str(caught.value)
    assert "\n" not in line
    for part in (repr(execution), "needs about 16 GB", "8 GB of 10 GB free", "batch_size", "remat=True"):
        assert part in line


@pytest.mark.parametrize(
    ("n_bytes", "limit", "expected"), [(50, 100, True), (51, 100, False), (0, 0, True), (10**15, None, True)]
)
def test_images_may_take_half_of_what_is_free(n_bytes, limit, expected):
    assert memory.data_fits(n_bytes, limit) is expected


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


MEMINFO = {"proc/meminfo": "MemTotal: 2000 kB\nMemAvailable:    1000 kB\nHugePages_Total:       0\n"}
V2 = {"proc/self/cgroup": "0::/jobs/one\n"}
V1 = {"proc/self/cgroup": "9:name=systemd:/\n4:memory,hugetlb:/jobs\n0::/\n"}


def group(folder, limit, used, cache=0, version=2):
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    values = {names[0]: f"{limit}\n", names[1]: f"{used}\n", "memory.stat": f"anon 5\n{names[2]} {cache}\n"}
    return {f"sys/fs/cgroup/{folder}{name}": text for name, text in values.items()}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 1_024_000),
        (V2 | group("jobs/one/", 5000, 3000, 100), 2100),
        (V2 | group("jobs/one/", "max", 3000), 1_024_000),
        # The tightest group counts, and a container that sees its own group as the root.
        (V2 | group("jobs/one/", 9000, 100) | group("jobs/", 4000, 100), 3900),
        (V2 | group("", 700, 100), 600),
        (V2 | group("jobs/one/", 700, 900), 0),
        (V1 | group("memory/jobs/", 5000, 3000, 100, version=1), 2100),
        (V1 | group("memory/jobs/", 2**63 - 4096, 3000, 100, version=1), 1_024_000),
        (V1 | group("", 700, 100), 600),
        ({"proc/self/cgroup": "0::/jobs\n"} | {"sys/fs/cgroup/jobs/memory.max": "700"}, 1_024_000),
    ],
)
def test_host_memory_is_what_the_container_leaves(tmp_path, files, expected):
    write(tmp_path, MEMINFO | files)
    assert memory.host_free_bytes(tmp_path) == expected


def test_without_proc_all_memory_counts(tmp_path):
    assert memory.host_free_bytes(tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("execution", "stats", "expected"),
    [
        ("vmap", [{"bytes_limit": 100, "bytes_in_use": 30}, {"bytes_limit": 50}], 70),
        ("shard:vmap", [{"bytes_limit": 100, "bytes_in_use": 30}, {"bytes_limit": 50}], 50),
        ("vmap", [None], None),
        ("vmap", [{"num_allocs": 3}], None),
    ],
)
def test_accelerators_say_what_is_free(monkeypatch, execution, stats, expected):
    devices = [SimpleNamespace(platform="gpu", memory_stats=lambda own=own: own) for own in stats]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert memory.free_bytes(execution) == expected


def test_devices_that_a_cpu_pretends_to_have_share_its_memory(monkeypatch):
    monkeypatch.setattr(memory, "host_free_bytes", lambda: 1000)
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(platform="cpu")] * 4)
    assert (memory.free_bytes("map"), memory.free_bytes("shard:map")) == (1000, 250)


def test_this_machine_has_memory():
    assert 10**6 < memory.free_bytes("map") <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_smallest_network_fits_here():
    member = memory.footprint(problem("Simple", (8, 8, 1)), (8, 8, 1), 16, "cpu")
    assert memory.fit("map", 3, member, memory.free_bytes("map")).execution == "map"
