from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmm.modalities.resample import axis_taps, resample


def resampled(
    array: np.ndarray, out: int, step: float, kernel: str, centre: float | None = None
) -> np.ndarray:
    middle = (len(array) - 1) / 2 if centre is None else centre
    taps = axis_taps(len(array), out, step, middle, kernel)  # type: ignore[arg-type]
    return resample(np.asarray(array, np.float32), [taps], -1.0)


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from(["linear", "area"]))
def test_a_step_of_one_voxel_crops_and_pads_without_interpolating(size: int, out: int, kernel: str) -> None:
    array = np.arange(size, dtype=np.float32) + 10
    values = resampled(array, out, 1.0005, kernel)
    kept = values[values >= 0]
    assert len(kept) == min(size, out)
    start = int(kept[0]) - 10
    assert kept.tolist() == array[start : start + len(kept)].tolist()
    assert abs(start - (size - len(kept)) / 2) <= 0.5


@given(st.integers(2, 40), st.floats(0.2, 6), st.floats(-3, 3))
def test_linear_keeps_a_constant_and_stays_within_the_range(size: int, step: float, slope: float) -> None:
    out = max(1, int(size / step) - 1)
    assert resampled(np.full(size, 7.0), out, step, "linear") == pytest.approx(7.0)
    ramp = np.arange(size) * slope
    values = resampled(ramp, out, step, "linear")
    assert values.min() >= ramp.min() - 1e-4
    assert values.max() <= ramp.max() + 1e-4


def test_linear_interpolates_a_ramp_exactly_between_voxels() -> None:
    values = resampled(np.arange(10.0), 9, 0.5, "linear")
    assert values == pytest.approx(4.5 + 0.5 * (np.arange(9) - 4))


def test_down_sampling_does_not_alias() -> None:
    stripes = np.arange(64) % 2
    values = resampled(stripes, 15, 4.0, "linear")
    assert values[1:-1] == pytest.approx(0.5, abs=0.05)


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.floats(0.3, 5), st.floats(-2, 2))
def test_area_keeps_the_volume_of_a_mask(mask: list[bool], step: float, offset: float) -> None:
    size = len(mask)
    middle = (size - 1) / 2 + offset
    out = int(np.ceil((size + 2 * abs(offset) + 2) / step)) + 1
    taps = axis_taps(size, out, step, middle, "area")
    shares = resample(np.asarray(mask, np.float32), [taps], 0.0)
    assert shares.min() >= 0
    assert shares.max() <= 1 + 1e-6
    effective = 1.0 if abs(step - 1) <= 1e-3 else step
    # Voxels whose centre lies outside are cut, with at most half of themselves inside, at either end.
    assert shares.sum() * effective == pytest.approx(sum(mask), abs=effective / 2 * 2 + 1e-3)


def test_outside_is_background_in_every_axis() -> None:
    taps = [axis_taps(4, 8, 1.0, 1.5, "linear"), axis_taps(2, 2, 1.0, 0.5, "linear")]
    values = resample(np.ones((4, 2), np.float32), taps, -9.0)
    assert values[:2].tolist() == values[-2:].tolist() == [[-9.0, -9.0]] * 2
    assert values[2:-2].tolist() == [[1.0, 1.0]] * 4


def test_axes_are_independent_and_agree_with_a_dense_product() -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(size=(9, 7, 5)).astype(np.float32)
    taps = [axis_taps(n, m, s, (n - 1) / 2, "linear") for n, m, s in ((9, 5, 1.7), (7, 12, 0.5), (5, 3, 1.5))]
    expected = array.astype(np.float64)
    for axis, (tap, size) in enumerate(zip(taps, array.shape, strict=True)):
        matrix = np.zeros((tap.indices.shape[1], size))
        for indices, weights in zip(tap.indices, tap.weights, strict=True):
            matrix[np.arange(len(indices)), indices] += weights
        expected = np.moveaxis(np.tensordot(matrix, expected, (1, axis)), 0, axis)
    inside = np.ix_(*(tap.inside for tap in taps))
    np.testing.assert_allclose(resample(array, taps, 0.0)[inside], expected[inside], atol=1e-5)
