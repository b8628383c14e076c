"""What compiled programs say they take, the choice of a smaller form, and how much memory there is."""

import os
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssoup_jax.errors import SettingsError
from ssoup_jax.stack import executors, memory

SIZE = 256
MATRIX = 4 * SIZE**2


def square(shared, state, inputs):
    """Makes a product of two matrices, neither of which is a result."""
    matrix = jnp.outer(state, state) + shared
    return (matrix @ jnp.sin(matrix)).sum(0) * inputs, matrix.max()


def stack(m):
    return jnp.ones((), jnp.float32), jnp.ones((m, SIZE)), jnp.linspace(0, 1, m)


def needed(execution, m):
    return max(map(memory.beyond_arguments, executors.compiled(execution, square, *stack(m))))


def test_temporaries_of_all_members_at_work_count():
    one, two, four = (needed(execution, 4) for execution in ("map", "vmap:2", "vmap"))
    assert MATRIX <= one < two < four
    # Each of two more members needs a matrix or two, the sines and perhaps the product.
    assert 2 * 2 * MATRIX <= four - two <= 2 * 4 * MATRIX
    assert needed("loop", 4) <= one + MATRIX
    assert needed("map", 9) - one < MATRIX, "members that wait need no matrices"


def test_results_in_the_place_of_donated_arguments_do_not_count():
    grow = jax.jit(lambda x, y: (x + 1, y.sum()), donate_argnums=0)
    keep = jax.jit(lambda x, y: (x + 1, y.sum()))
    x, y = jnp.ones(1000), jnp.ones(7)
    donating, keeping = (memory.beyond_arguments(fn.lower(x, y).compile()) for fn in (grow, keep))
    assert keeping - donating == x.nbytes


def test_a_program_that_says_nothing_needs_nothing():
    assert memory.beyond_arguments(SimpleNamespace(memory_analysis=lambda: None)) == 0


@pytest.mark.parametrize(
    ("execution", "forms"), [("vmap", ["vmap", "vmap:3", "vmap:2", "map"]), ("vmap:2", ["vmap:2", "map"])]
)
def test_the_form_that_fits_is_what_its_program_says(monkeypatch, execution, forms):
    for at, form in enumerate(forms):
        lines, bound = [], needed(form, 5)
        # Rounded up, so that the share is not below what the program takes.
        limit = int(np.ceil(bound / memory.STACK_SHARE))
        monkeypatch.setattr(memory, "free_bytes", lambda sharded, limit=limit: limit)
        assert memory.fit(execution, square, *stack(5), on_line=lines.append) == form
        assert len(lines) == (at > 0)
    monkeypatch.setattr(memory, "free_bytes", lambda sharded: int(needed("map", 5)))
    with pytest.raises(SettingsError, match=r"^execution: even 'map' needs"):
        memory.fit(execution, square, *stack(5))


def test_what_was_fitted_is_compiled_and_nothing_was_computed(compiled):
    def fresh(shared, state, inputs):
        return square(shared, state, inputs)

    shared, state, inputs = stack(3)
    assert memory.fit("map", fresh, shared, state, inputs) == "map"
    assert compiled().count("_mapped") == 1
    np.testing.assert_array_equal(state, 1)
    executors.run("map", fresh, shared, state, inputs)
    assert "_mapped" not in compiled()


class Compiler:
    """Says what programs take without compiling any, and notes what it was asked for."""

    def __init__(self, figures):
        self.figures, self.asked = figures, []

    def __call__(self, execution, fn, shared, state, inputs, active):
        self.asked.append(execution)
        found = self.figures.get(execution, 10**15)
        if isinstance(found, Exception):
            raise found
        sizes = {"temp_size_in_bytes": found, "output_size_in_bytes": 7, "alias_size_in_bytes": 7}
        small = {"temp_size_in_bytes": 1, "output_size_in_bytes": 0, "alias_size_in_bytes": 5}
        return [SimpleNamespace(memory_analysis=lambda own=own: SimpleNamespace(**own)) for own in (sizes, small)]


def fit(monkeypatch, execution, m, figures, limit):
    compiler, lines = Compiler(figures), []
    monkeypatch.setattr(executors, "compiled", compiler)
    monkeypatch.setattr(memory, "free_bytes", lambda sharded: limit)
    try:
        return memory.fit(execution, None, None, np.zeros((m, 1)), (), on_line=lines.append), compiler.asked, lines
    except SettingsError as error:
        return str(error), compiler.asked, lines


@pytest.mark.parametrize(
    ("execution", "m", "forms"),
    [
        ("vmap", 5, ["vmap", "vmap:3", "vmap:2", "map"]),
        ("unroll", 10, ["unroll", "unroll:5", "unroll:3", "unroll:2", "map"]),
        ("vmap", 2, ["vmap", "map"]),
        ("unroll:7", 3, ["unroll:7", "unroll:2", "map"]),
        ("unroll:2", 5, ["unroll:2", "map"]),
        ("map", 5, ["map"]),
        ("loop", 5, ["loop"]),
        ("4x1:vmap", 8, ["4x1:vmap", "4x1:map"]),
        ("4x2:unroll", 12, ["4x2:unroll", "4x2:unroll:2", "4x2:map"]),
        ("1x4:map", 12, ["1x4:map"]),
    ],
)
def test_smaller_forms_take_fewer_members_at_a_time_and_in_the_end_one(monkeypatch, execution, m, forms):
    line, asked, lines = fit(monkeypatch, execution, m, {}, 100 * 10**9)
    assert (asked, lines) == (forms, [])
    assert line.startswith(f"execution: even {forms[-1]!r} needs 1e+06 GB and does not fit into 100 GB")
    for form in forms:
        assert fit(monkeypatch, execution, m, {form: 90 * 10**9}, 100 * 10**9)[0] == form
        assert fit(monkeypatch, execution, m, {form: 90 * 10**9 + 1}, 100 * 10**9)[0].startswith("execution: ")


def test_a_smaller_form_is_told_in_one_line(monkeypatch):
    figures = {"vmap": 20 * 10**9, "vmap:3": 12 * 10**9, "vmap:2": 8 * 10**9}
    found, asked, lines = fit(monkeypatch, "vmap", 5, figures, 10 * 10**9)
    assert (found, asked) == ("vmap:2", ["vmap", "vmap:3", "vmap:2"])
    assert lines == ["execution: vmap needs 20 GB and does not fit into 10 GB of free memory; vmap:2 does"]


def test_what_fits_is_told_to_nobody(monkeypatch):
    assert fit(monkeypatch, "vmap", 5, {"vmap": 9}, 10) == ("vmap", ["vmap"], [])


@pytest.mark.parametrize("execution", ["vmap", "map", "loop", "unroll:2"])
def test_what_cannot_fit_is_refused_in_one_line(monkeypatch, execution):
    line, asked, _ = fit(monkeypatch, execution, 2, dict.fromkeys(("map", "loop"), 16 * 10**9), 10 * 10**9)
    assert "\n" not in line
    for part in (repr(asked[-1]), "needs 16 GB", "10 GB of free memory", "90% can be used", "for 2 members"):
        assert part in line
    assert "batch_size" in line
    assert "remat=True" in line


def out_of_memory():
    return jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmany\nlines")


def test_too_much_for_the_compiler_does_not_fit(monkeypatch):
    figures = {"vmap": out_of_memory(), "map": 5}
    found, _, lines = fit(monkeypatch, "vmap", 2, figures, 10)
    assert (found, len(lines)) == ("map", 1)
    assert lines[0].startswith("execution: vmap does not fit into ")
    figures["map"] = out_of_memory()
    line, _, lines = fit(monkeypatch, "vmap", 2, figures, 10)
    assert (line.startswith("execution: even 'map' does not fit into "), "\n" in line, lines) == (True, False, [])


def test_where_a_device_says_nothing_only_the_compiler_can_refuse(monkeypatch):
    assert fit(monkeypatch, "vmap", 2, {}, None) == ("vmap", ["vmap"], [])
    found, _, lines = fit(monkeypatch, "vmap", 2, {"vmap": out_of_memory()}, None)
    assert (found, lines) == ("map", ["execution: vmap does not fit into memory; map does"])
    line, *_ = fit(monkeypatch, "vmap", 2, {"vmap": out_of_memory(), "map": out_of_memory()}, None)
    assert line.startswith("execution: even 'map' does not fit into memory, for 2 members; set a smaller batch_size, ")


def test_a_mistake_in_the_program_is_not_hidden(monkeypatch):
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        fit(monkeypatch, "vmap", 2, {"vmap": jax.errors.JaxRuntimeError("INTERNAL: mistake")}, 10)


def test_the_size_of_a_tree_is_that_of_its_leaves():
    shapes = jax.eval_shape(lambda: {"a": jnp.ones((3, 2)), "b": [jnp.zeros(5, jnp.uint8)]})
    assert memory.n_bytes(shapes) == 29 == memory.n_bytes({"a": np.ones((3, 2), np.float32), "b": np.ones(5, bool)})


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
    ("sharded", "stats", "expected"),
    [
        (False, [{"bytes_limit": 100, "bytes_in_use": 30}, {"bytes_limit": 50}], 70),
        (True, [{"bytes_limit": 100, "bytes_in_use": 30}, {"bytes_limit": 50}], 50),
        (False, [None], None),
        (False, [{"num_allocs": 3}], None),
    ],
)
def test_accelerators_say_what_is_free(monkeypatch, sharded, stats, expected):
    devices = [SimpleNamespace(platform="gpu", memory_stats=lambda own=own: own) for own in stats]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert memory.free_bytes(sharded) == expected


@pytest.mark.parametrize(
    ("platform", "stats", "expected"),
    [
        ("gpu", [{"bytes_limit": 1000, "bytes_in_use": 999}, {"bytes_limit": 840}], 21),
        ("gpu", [{"bytes_limit": 1000}, None], 0),
        ("cpu", [None], 0),
    ],
)
def test_a_quarter_of_the_least_device_is_for_states_whatever_is_in_use(monkeypatch, platform, stats, expected):
    devices = [SimpleNamespace(platform=platform, memory_stats=lambda own=own: own) for own in stats]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert memory.fitting(10) == expected


def test_devices_that_a_cpu_pretends_to_have_share_its_memory(monkeypatch):
    monkeypatch.setattr(memory, "host_free_bytes", lambda: 1000)
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(platform="cpu")] * 4)
    assert (memory.free_bytes(), memory.free_bytes(all_devices=True)) == (1000, 250)


def test_this_machine_has_memory():
    assert 10**6 < memory.free_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
