"""What a rehearsal times is what the run will do: as many threads, as many splits side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medmm.fitting import rehearsal
from medmm.fitting.rehearsal import rehearse
from medmm.recipe import LateMean
from tests.fitting.test_candidates import PATIENTS, problem

FOLDS = np.arange(PATIENTS) % 4


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the threads that torch has whenever steps are timed, each of which then takes a second."""
    seen: list[int] = []

    def timed(loss: object) -> float:
        seen.append(torch.get_num_threads())
        return 1.0

    monkeypatch.setattr(rehearsal, "_seconds", timed)
    return seen


@pytest.mark.parametrize(("jobs", "expected", "share"), [(None, 3, 1.0), (2, 1, 0.5), (4, 1, 0.25)])
def test_splits_side_by_side_are_timed_on_one_thread_and_shared_out(
    tmp_path: Path, threads: list[int], jobs: int | None, expected: int, share: float
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = rehearse(problem(tmp_path, LateMean()), FOLDS, jobs=jobs)
        after = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    assert (set(threads), after) == ({expected}, 3)
    epochs = problem(tmp_path, LateMean()).recipe.fitting.epochs
    batch = problem(tmp_path, LateMean()).recipe.fitting.batch_size
    steps = sum(np.ceil(cost.patients * 0.75 / batch) * epochs for cost in found.costs)
    assert found.seconds == pytest.approx(4 * steps * share)


def test_a_step_that_others_held_up_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.cumsum([0, 9, 0, 1, 0, 1, 0, 60, 0, 1, 0, 1]))
    monkeypatch.setattr("medmm.fitting.rehearsal.time.perf_counter", lambda: float(next(clock)))
    weight = torch.ones(1, requires_grad=True)
    assert rehearsal._seconds(lambda: weight.square().sum()) == 1.0
