"""Which problems are tested follows from each id and the seed alone."""

import hashlib

import numpy as np
import pytest

from thoughtlens import schema
from thoughtlens.errors import OptionError


def test_a_problem_is_tested_by_its_own_id_whatever_the_others():
    ids = [f"p{k}" for k in range(2000)]
    tested = schema.tested_half(ids, 0.5, 3)
    byte = [int(hashlib.sha256(f"3:{name}".encode()).hexdigest()[0], 16) for name in ids]
    assert tested.tolist() == [first < 8 for first in byte]
    assert schema.tested_half(ids[7:9][::-1], 0.5, 3).tolist() == tested[7:9][::-1].tolist()
    assert schema.tested_half([], 0.5, 3).shape == (0,)


def test_a_larger_share_tests_more_of_the_same_and_another_seed_others():
    ids = [f"p{k}" for k in range(2000)]
    some, most, other = schema.tested_half(ids, 0.2), schema.tested_half(ids, 0.7), schema.tested_half(ids, 0.2, 1)
    assert (some <= most).all()
    assert abs(some.mean() - 0.2) < 0.03 and abs(most.mean() - 0.7) < 0.03
    assert abs(np.mean(some & other) - 0.04) < 0.02  # independent: .2 squared


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5, float("nan")])
def test_a_share_that_leaves_a_side_empty_is_refused(share):
    with pytest.raises(OptionError, match="expected more than 0 and less than 1"):
        schema.tested_half(["p0"], share)
