"""What one series says: its grid, where its foreground lies, whether its values are labels."""

from __future__ import annotations

import numpy as np
import pytest

from medmm.dicom.certificate import Certificate
from medmm.dicom.volume import Volume
from medmm.planning.fingerprint import Spread, events_told, image_print
from medmm.planning.measure import Seen, seen


def _volume(array: np.ndarray, spacing_mm: tuple[float, ...] | None, modality: str = "MR") -> Volume:
    valid = np.ones(array.shape[:3] if array.ndim > 2 else array.shape, bool)
    summary = Certificate("1.2", "1.2.3", "used", modality=modality)
    return Volume(array, spacing_mm, None, valid, "MONOCHROME2", 16, (1.0, 0.0), summary)


def _seen(array: np.ndarray, spacing_mm: tuple[float, ...] | None = (1, 2, 3), **more: object) -> Seen:
    found = seen(_volume(array, spacing_mm, **more))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_labels_reach_as_far_as_their_box() -> None:
    array = np.zeros((20, 20, 20), np.int32)
    array[2:5, 4:14, 10] = 100
    array[3, 5, 11] = 200
    found = _seen(array)
    assert found.values == (0, 100, 200)
    assert found.reach_mm == (3, 20, 6)


def test_intensities_reach_twice_as_far_as_their_farthest_from_the_middle() -> None:
    array = np.random.default_rng(0).normal(-1000, 5, (20, 20, 20)).astype(np.float32)
    array[2:6, 9:11, 10] = 40.0
    found = _seen(array, modality="CT")
    assert found.values == ()
    assert found.reach_mm == (16, 4, 6)  # voxel 2 lies 8 from the middle of 20, plane 10 one


def test_declared_labels_count_and_no_others() -> None:
    array = np.zeros((10, 10, 10), np.int32)
    array[0, 0, 0], array[5:7, 5, 5] = 9, 1
    found = seen(_volume(array, (1, 1, 1)), labels=(1,))
    assert found is not None
    assert found.reach_mm == (2, 1, 1)


def test_a_label_map_of_background_alone_has_no_reach_and_no_labels() -> None:
    found = _seen(np.zeros((10, 10, 10), np.int32))
    assert (found.values, found.reach_mm) == ((0,), None)
    assert image_print([found], patients=1).kind == "intensity"
    declared = image_print([found], patients=1, labels=(1,))
    assert (declared.kind, declared.reach_mm) == ("label_map", ())


def test_an_image_that_is_all_padding_says_nothing() -> None:
    volume = _volume(np.zeros((4, 4), np.int32), None)
    volume.valid[:] = False
    assert seen(volume) is None


def test_colour_is_seen_as_brightness() -> None:
    array = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.int32)
    summary = Certificate("1.2", "1.2.3", "used", modality="XC")
    volume = Volume(array, None, None, np.ones((30, 40), bool), "RGB", 8, (1.0, 0.0), summary)
    found = seen(volume)
    assert found is not None
    assert found.matrix == (30, 40)


def test_of_fewer_than_eleven_no_extremes_and_no_rare_events_are_told() -> None:
    found = [_seen(np.arange(1000.0).reshape(10, 10, 10), (1, 1, mm)) for mm in range(1, 12)]
    few, enough = image_print(found[:10], patients=10), image_print(found, patients=11)
    assert few.spacing_mm[2] == Spread(None, 5.5, None)
    assert enough.spacing_mm[2] == Spread(1.5, 6.0, 10.5)
    assert [events_told(count) for count in (None, 0, 10, 11)] == [None, 0, 0, 11]


def test_the_more_frequent_number_of_axes_decides() -> None:
    flat = _seen(np.arange(400.0).reshape(20, 20), None)
    deep = [_seen(np.arange(1000.0).reshape(10, 10, 10)) for _ in range(2)]
    assert len(image_print([flat, *deep], patients=3).matrix) == 3
    assert image_print([flat, flat, *deep], patients=3).aspect == Spread(None, 1.0, None)


def test_grids_of_all_series_go_before_those_of_the_measured() -> None:
    one = _seen(np.arange(1000.0).reshape(10, 10, 10))
    grids = [((10, 10, 10), (1.0, 1.0, 1.0))] * 20 + [((5, 5), None)]
    found = image_print([one], patients=21, grids=grids)
    assert found.series == 20
    assert found.spacing_mm[2].median == 1.0


def test_values_between_whole_numbers_are_no_labels() -> None:
    found = _seen(np.tile([0.0, 0.5, 1.0, 2.0], 16).reshape(4, 4, 4))
    assert image_print([found], patients=1).labels == ()
    assert found.quantiles == pytest.approx((0, 0, 0.75, 2, 2))
