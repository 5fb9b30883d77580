"""Every recipe still goes the way that it went."""

from __future__ import annotations

import pytest
from golden.trajectories import STEPS, TOLERANCE, read, residuals, trajectory

from deleatur.config.recipes import RECIPES


@pytest.mark.parametrize("recipe", RECIPES)
def test_fifty_steps_are_the_golden_ones(recipe, tmp_path):
    golden = read(recipe)
    assert len(golden) == STEPS
    found = residuals(trajectory(recipe, tmp_path), golden)
    mean = sum(found) / len(found)
    assert max(found) < TOLERANCE, f"largest residual {max(found):.2g}, mean {mean:.2g}"
    assert mean < TOLERANCE / 10, f"mean residual {mean:.2g}"


def test_another_method_is_another_trajectory():
    """The tolerance tells any two recipes apart: the nearest two differ by ten times as much."""
    read_all = {name: read(name) for name in RECIPES}
    pairs = [(a, b) for a in read_all for b in read_all if a < b]
    assert min(max(residuals(read_all[a], read_all[b])) for a, b in pairs) > 10 * TOLERANCE
