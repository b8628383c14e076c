import hypothesis
import pytest
from hypothesis import strategies as st

from ssoup_jax.errors import SettingsError
from ssoup_jax.schedules import grammar
from ssoup_jax.schedules.grammar import Constant, Cosine, ExponentialLR, Linear, MultiStepLR, StepLR

rates = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
gammas = st.floats(min_value=0, exclude_min=True, max_value=1)
epochs = st.integers(min_value=1)
milestones = st.sets(epochs, min_size=1).map(lambda found: tuple(sorted(found)))
schedules = st.one_of(
    st.builds(Constant, rates),
    st.builds(Linear, rates),
    st.builds(Linear, rates, st.just(0.0) | rates),
    st.builds(Cosine, rates),
    st.builds(StepLR, rates, epochs, gammas),
    st.builds(MultiStepLR, rates, milestones, gammas),
    st.builds(ExponentialLR, rates, gammas),
)


@pytest.mark.parametrize(
    ("text", "expected", "canonical"),
    [
        ("(Constant, 0.05)", Constant(0.05), "(Constant, 0.05)"),
        ("(Linear, 0.1)", Linear(0.1, 0.0), "(Linear, 0.1)"),
        ("(Linear, 0.1, 0)", Linear(0.1, 0.0), "(Linear, 0.1)"),
        ("(Linear, 1e-1, .001)", Linear(0.1, 0.001), "(Linear, 0.1, 0.001)"),
        ("  (\tCosine ,0.1)\n", Cosine(0.1), "(Cosine, 0.1)"),
        ("(StepLR,0.1,3,1)", StepLR(0.1, 3, 1.0), "(StepLR, 0.1, 3, 1.0)"),
        ("( MultiStepLR,0.1 , [ 3 |6], 0.2 )", MultiStepLR(0.1, (3, 6), 0.2), "(MultiStepLR, 0.1, [3|6], 0.2)"),
        ("(MultiStepLR, 2, [30], 0.2)", MultiStepLR(2.0, (30,), 0.2), "(MultiStepLR, 2.0, [30], 0.2)"),
        ("(ExponentialLR, 0.1, 0.98)", ExponentialLR(0.1, 0.98), "(ExponentialLR, 0.1, 0.98)"),
    ],
)
def test_strings_and_what_they_mean(text, expected, canonical):
    assert grammar.parse(text) == expected
    assert grammar.write(expected) == canonical


@hypothesis.given(schedules)
@hypothesis.settings(deadline=None)
def test_writing_and_parsing_is_a_round_trip(schedule):
    assert grammar.parse(grammar.write(schedule)) == schedule


@hypothesis.given(schedules, st.data())
@hypothesis.settings(deadline=None)
def test_blanks_around_the_parts_do_not_matter(schedule, data):
    text = grammar.write(schedule)
    blanks = st.text(" \t\n", max_size=2)
    spaced = "".join(
        data.draw(blanks) + mark + data.draw(blanks) if mark in "(,[|])" else mark for mark in text.replace(" ", "")
    )
    assert grammar.parse(spaced) == schedule


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(linear, 0.1)", ["'linear'", "Constant, Linear, Cosine", "did you mean 'Linear'?"]),
        ("(Cosin, 0.1)", ["'Cosin'", "did you mean 'Cosine'?"]),
        ("(, 0.1)", ["''", "allowed: Constant"]),
        ("Linear, 0.1", ["'Linear, 0.1'", "(Linear, lr[, final])", "(MultiStepLR, lr, [e1|e2|...], gamma)"]),
        ("", ["''", "(Constant, lr)"]),
        (0.1, ["found 0.1", "(Constant, lr)"]),
        (None, ["found None", "(Constant, lr)"]),
        ("(Linear)", ["has 0 arguments", "(Linear, lr[, final])"]),
        ("(Linear, 0.1, 0.01, 0.001)", ["has 3 arguments", "(Linear, lr[, final])"]),
        ("(StepLR, 0.1)", ["has 1 argument,", "(StepLR, lr, epochs, gamma)"]),
        ("(MultiStepLR, 0.1, [3, 6], 0.2)", ["has 4 arguments", "[e1|e2|...]"]),
        ("(Cosine, fast)", ["lr is 'fast'", "above 0", "(Cosine, lr)"]),
        ("(Cosine, 0.1 5)", ["lr is '0.1 5'"]),
        ("(Cosine, )", ["lr is ''"]),
        ("(Cosine, 0)", ["lr is 0.0", "above 0"]),
        ("(Cosine, -0.1)", ["lr is -0.1", "above 0"]),
        ("(Cosine, nan)", ["lr is nan"]),
        ("(Cosine, inf)", ["lr is inf", "finite"]),
        ("(Linear, 0.1, -0.1)", ["final is -0.1", "0 or above"]),
        ("(Linear, 0.1, inf)", ["final is inf", "finite"]),
        ("(StepLR, 0.1, 2.5, 0.1)", ["epochs is '2.5'", "whole number"]),
        ("(StepLR, 0.1, 0, 0.1)", ["epochs is 0", "1 or above", "(StepLR, lr, epochs, gamma)"]),
        ("(StepLR, 0.1, 3, 0)", ["gamma is 0.0", "above 0"]),
        ("(StepLR, 0.1, 3, nan)", ["gamma is nan"]),
        ("(ExponentialLR, 0.1, 1.01)", ["gamma is 1.01", "at most 1"]),
        ("(MultiStepLR, 0.1, 3|6, 0.2)", ["milestones is '3|6'", "such as [30|60]"]),
        ("(MultiStepLR, 0.1, [], 0.2)", ["milestones is '[]'"]),
        ("(MultiStepLR, 0.1, [3|x], 0.2)", ["milestones is '[3|x]'"]),
        ("(MultiStepLR, 0.1, [6|3], 0.2)", ["milestones is [6|3]", "increase"]),
        ("(MultiStepLR, 0.1, [3|3], 0.2)", ["milestones is [3|3]", "increase"]),
        ("(MultiStepLR, 0.1, [0|3], 0.2)", ["milestones is [0|3]", "above 0"]),
    ],
)
def test_a_mistake_gets_one_line_with_what_was_found_and_what_is_allowed(text, expected):
    with pytest.raises(SettingsError) as caught:
        grammar.parse(text)
    message = str(caught.value)
    assert message.startswith("learning_rate: ")
    assert "\n" not in message
    for part in expected:
        assert part in message


def test_a_schedule_made_without_a_string_is_checked_too():
    with pytest.raises(SettingsError, match=r"learning_rate: milestones is \[\], allowed: .*"):
        MultiStepLR(0.1, (), 0.2)
