"""Non-maximum suppression in rounds gives what the sequential rule gives."""

import numpy as np
import pytest
import torch

from nesf import suppression
from nesf.suppression import suppress


def one_after_another(
    positions: np.ndarray, scores: np.ndarray, crystal: np.ndarray, radius: float
) -> tuple[list[int], list[int]]:
    """The rule as Section 2.1 says it: centres, best first, and the cluster of each particle."""
    member_of, centres = np.full(len(positions), -1), []
    for best in np.argsort(scores, kind="stable"):
        if member_of[best] < 0:
            near = (
                (np.linalg.norm(positions - positions[best], axis=1) < radius)
                & (crystal == crystal[best])
                & (member_of < 0)
            )
            near[best] = True
            member_of[near] = len(centres)
            centres.append(int(best))
    return centres, member_of.tolist()


@pytest.mark.parametrize("kind", ["spread", "gathered", "on a grid, equal scores", "far apart"])
def test_clusters_are_those_of_the_sequential_rule(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for case in range(60):
        n = int(rng.integers(0, 300))
        positions = rng.normal(size=(n, 3)) * {"spread": 2.0, "gathered": 0.05}.get(kind, 1.0)
        positions += rng.integers(-2, 3, (n, 3)) * {"gathered": 1.0, "far apart": 1e7}.get(
            kind, 0.0
        )
        scores = rng.random(n)
        if kind.startswith("on a grid"):
            positions, scores = np.round(positions * 4) / 4, np.round(scores, 1)
        crystal, radius = rng.integers(0, 3, n), float(rng.choice([0.0, 0.25, 0.5, 1.5]))
        # many parts or one, the same result
        monkeypatch.setattr(suppression, "MAX_PAIRS", [1 << 21, 50][case % 2])
        monkeypatch.setattr(suppression, "BEST", [4096, 7][case // 2 % 2])
        found = suppress(
            torch.as_tensor(positions), torch.as_tensor(scores), torch.as_tensor(crystal), radius
        )
        centres, member_of = one_after_another(positions, scores, crystal, radius)
        assert found.centre.tolist() == centres and found.member_of.tolist() == member_of


@pytest.mark.parametrize("smooth", [False, True], ids=["random scores", "smooth scores"])
def test_work_grows_in_proportion_even_when_nothing_is_near_anything(
    smooth: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained field leaves as many clusters as particles, with scores that change slowly from
    place to place."""
    asked: list[int] = []
    around = suppression.Cells.around

    def counting(self: suppression.Cells, particles: torch.Tensor) -> torch.Tensor:
        asked.append(len(particles))
        return around(self, particles)

    monkeypatch.setattr(suppression.Cells, "around", counting)
    axis = torch.arange(24) * 0.52
    positions = torch.cartesian_prod(axis, axis, axis) + 0.1 * torch.rand(
        24**3, 3, generator=torch.Generator().manual_seed(0)
    )
    scores = (
        positions.sum(1).sin()
        if smooth
        else torch.rand(len(positions), generator=torch.Generator().manual_seed(1))
    )
    found = suppress(positions, scores, torch.zeros(len(positions), dtype=torch.long), 0.5)
    assert len(found.centre) > len(positions) / 2
    assert sum(asked) == len(positions) or sum(asked) < 1.5 * len(positions)
    assert len(asked) < 16
