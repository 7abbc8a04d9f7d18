"""How work is carried out is said once around the calls."""

import pytest

from circuits.errors import DataError
from circuits.running import advance, execution, in_force


def test_what_a_block_does_not_say_stays_as_outside_it():
    with execution(batch_size=16, seed=3), execution(memory=2.0) as how:
        assert (how.batch_size, how.seed, how.memory) == (16, 3, 2.0)
    assert in_force().batch_size is None
    assert in_force().rows(96) == 96


def test_the_innermost_progress_is_told():
    outer, inner = list[int](), list[int]()
    with execution(progress=outer.append):
        advance(1)
        with execution(progress=inner.append):
            advance(2)
        with execution(progress=None):
            advance(3)
    advance(4)
    assert (outer, inner) == ([1], [2])


def test_a_block_that_fails_leaves_nothing_behind():
    with pytest.raises(KeyError), execution(seed=7):
        raise KeyError
    assert in_force().seed == 0


@pytest.mark.parametrize(
    ("changes", "said"), [({"batch_size": 0}, "1 or more"), ({"memory": 0.0}, "than 0")]
)
def test_what_makes_no_sense_is_refused(changes, said):
    with pytest.raises(DataError, match=said), execution(**changes):
        pass
