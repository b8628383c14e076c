import pytest


@pytest.fixture
def clock():
    """A clock that stands still until it is told to move on."""

    class Clock:
        now = 100.0

        def __call__(self) -> float:
            return self.now

    return Clock()
