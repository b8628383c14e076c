"""Every example in a short form: it runs, and the masks hold in its table."""

import importlib.util

import jax
import pytest

from examples import own_data, own_loop, segmentation, transformer


@pytest.fixture(autouse=True)
def usual_promotion():
    before = jax.config.jax_numpy_dtype_promotion
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # as users have it
    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield
    jax.config.update("jax_numpy_dtype_promotion", before)


def percent(text):
    return float(text.replace("%", ""))


def test_own_loop():
    rows = own_loop.main(steps=60)
    assert [percent(row[0]) for row in rows] == [0, 50, 80, 90, 95]
    assert percent(rows[0][2]) > 80, "a tenth is chance"


def test_transformer():
    rows = transformer.main(seeds=1, m=2, dense=20, retrain=4, phases=1, characters=40_000)
    assert rows[0][0] == "dense" and len(rows) == 5
    # Even letters drawn by their frequency need fewer bits than a code of fixed length.
    assert 2 < float(rows[0][2]) < 6.6


def test_transformer_validates_on_modules_that_it_does_not_train_on():
    train, validation = transformer.data(20_000)
    assert train.shape[1] == validation.shape[1] == transformer.CONTEXT + 1
    assert (train[1:, 0] == train[:-1, -1]).all(), "rows follow one another"
    assert len({row.tobytes() for row in train} & {row.tobytes() for row in validation}) < len(validation) / 4


def test_segmentation():
    rows = segmentation.main(m=2, dense=10, retrain=2, n_train=64)
    assert [row[1] for row in rows] == ["0 %", "68.4 %", "90.0 %"]


def test_pictures_are_labelled_where_their_digits_are():
    pictures = segmentation.data(8)[0]
    labelled = pictures["y"] < 10
    assert labelled.any(axis=(1, 2)).all()
    assert (pictures["x"][labelled] > 0.25).all() and (pictures["x"][~labelled] <= 0.25).all()


def test_own_data():
    rows = own_data.main(dense=30, retrain=4)
    assert rows[0][0] == "NumPy" and percent(rows[0][1]) > 30


def test_grain_yields_what_the_generator_does():
    if importlib.util.find_spec("grain") is None:
        pytest.skip("grain is not installed")
    epochs = [list(pipeline(1, 5)) for pipeline in (own_data.generator, own_data.with_grain)]
    assert len(epochs[0]) == len(epochs[1]) == own_data.STEPS_PER_EPOCH
    for batches in epochs:
        assert {batch["x"].shape for batch in batches} == {(own_data.BATCH_SIZE, 8, 8)}
        assert sum(int(batch["y"].sum()) for batch in batches) == int(own_data.LABELS[: own_data.N_TRAIN].sum())
