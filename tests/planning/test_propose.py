"""A plan follows from counts and grids alone, fits its machine, and is a recipe."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmm.columns import ImageSpec
from medmm.planning.compare import differences, lines
from medmm.planning.fingerprint import Axes, Fingerprint, ImagePrint, Spread
from medmm.planning.grid import step_bytes, usable
from medmm.planning.machine import Machine
from medmm.planning.propose import Plan, propose
from medmm.recipe import Recipe

GB = 1 << 30
SMALL = Machine(8 * GB, 2)


def _axes(*values: float, spread: float = 0.2) -> Axes:
    return tuple(Spread(value * (1 - spread), value, value * (1 + spread)) for value in values)


def _volume(matrix: tuple[float, ...], spacing: tuple[float, ...], **more: Any) -> ImagePrint:
    extent = tuple(n * mm for n, mm in zip(matrix, spacing, strict=True))
    given = {"modality": "MR", "kind": "intensity", "series": 100, "patients": 100}
    given |= {"matrix": _axes(*matrix), "spacing_mm": _axes(*spacing), "extent_mm": _axes(*extent)}
    return ImagePrint(**(given | more))


def _picture(rows: float, columns: float, low: float, high: float, **more: Any) -> ImagePrint:
    aspect = Spread(low, rows / columns, high)
    given = {"modality": "DX", "kind": "intensity", "series": 100, "patients": 100}
    return ImagePrint(**(given | {"matrix": _axes(rows, columns), "aspect": aspect} | more))


def _plan(image: ImagePrint, machine: Machine = SMALL, patients: int = 100, events: int | None = 30) -> Plan:
    return propose(Fingerprint(patients, events, machine, {"scan": image}))


def _recipe(plan: Plan) -> dict[str, Any]:
    """Return a recipe that follows a plan."""
    block = {"kind": "image"} | {k: p.value for k, p in plan.under("modalities.scan").items()}
    fitting = {key: p.value for key, p in plan.under("fitting").items()}
    told = {"name": "x", "question": "?", "intended_use": "-", "cohort": ".", "outcome": "y"}
    return told | {"modalities": {"scan": block}, "fitting": fitting}


def _declared(image: ImagePrint) -> ImageSpec:
    return ImageSpec(dir="dicom", kind=image.kind, labels=image.labels)


def _values(plan: Plan) -> dict[str, Any]:
    return {proposal.key.rpartition(".")[2]: proposal.value for proposal in plan.proposals}


def _parameters(plan: Plan, in_channels: int) -> int:
    values = _values(plan)
    widths = [in_channels, *values["encoder"]["channels"]]
    kernel = 3 ** len(values["shape"])
    return sum(kernel * a * b for a, b in pairwise(widths))


sizes = st.floats(1, 3000)
millimetres = st.floats(0.05, 20)
bytes_ = st.one_of(st.none(), st.integers(1, 1 << 42))


@st.composite
def spreads(draw: Any, value: Any) -> Spread:
    median = draw(value)
    if draw(st.booleans()):
        return Spread(None, median, None)
    return Spread(median * draw(st.floats(0.05, 1)), median, median * draw(st.floats(1, 20)))


@st.composite
def images(draw: Any) -> ImagePrint:
    axes = draw(st.sampled_from((2, 3)))
    matrix = tuple(draw(spreads(sizes)) for _ in range(axes))
    spaced = draw(st.booleans())
    spacing = tuple(draw(spreads(millimetres)) for _ in range(axes if spaced else 0))
    extent = tuple(draw(spreads(st.floats(0.05, 5000))) for _ in spacing)
    reach = tuple(draw(spreads(st.floats(0.05, 5000))) for _ in spacing) if draw(st.booleans()) else ()
    labels = tuple(range(1, 1 + draw(st.integers(0, 12))))
    return ImagePrint(
        modality=(modality := draw(st.sampled_from(("CT", "MR", "DX", "PT")))),
        kind="label_map" if labels else "intensity",
        labels=labels,
        series=draw(st.integers(1, 10_000)),
        patients=draw(st.integers(0, 10_000)),
        matrix=matrix,
        spacing_mm=spacing,
        extent_mm=extent,
        reach_mm=reach,
        aspect=draw(spreads(st.floats(0.2, 5))) if axes == 2 else None,
        intensities=() if labels else tuple(sorted(draw(st.tuples(*[st.floats(-3000, 60000)] * 5)))),
        uptake=draw(st.floats(0, 1)) if modality == "PT" and not labels else 0.0,
    )


machines = st.builds(
    Machine, bytes_, st.integers(1, 256), st.one_of(st.none(), st.integers(1 << 30, 1 << 38))
)


@settings(max_examples=150, deadline=None)
@given(images(), machines, st.integers(1, 100_000), st.one_of(st.none(), st.integers(0, 50_000)))
def test_every_plan_is_a_recipe_that_fits_its_machine(
    image: ImagePrint, machine: Machine, patients: int, events: int | None
) -> None:
    plan = _plan(image, machine, patients, events)
    recipe = Recipe.model_validate(_recipe(plan))
    built = recipe.build({"scan": _declared(image)})["scan"]
    assert built.shape == (image.channels, *_values(plan)["shape"])
    assert all(proposal.reason and "\n" not in proposal.reason for proposal in plan.proposals)
    needed = step_bytes(
        built.shape[1:],
        batch=recipe.fitting.batch_size,
        channels=_values(plan)["encoder"]["channels"],
        in_channels=image.channels,
    )
    assert needed <= usable(machine) or recipe.fitting.batch_size == 1
    assert differences(plan, recipe.model_dump(mode="json")) == []


@settings(max_examples=100, deadline=None)
@given(images(), st.integers(1 << 20, 1 << 40), st.integers(1 << 20, 1 << 40), st.integers(1, 5000))
def test_less_memory_never_means_a_larger_batch_or_grid(
    image: ImagePrint, one: int, other: int, patients: int
) -> None:
    less, more = (_values(_plan(image, Machine(b, 8), patients)) for b in sorted((one, other)))
    assert less["batch_size"] <= more["batch_size"]
    assert prod(less["shape"]) <= prod(more["shape"])


@settings(max_examples=100, deadline=None)
@given(images(), machines, st.integers(1, 50_000), st.integers(1, 50_000), st.floats(0, 0.5))
def test_more_patients_never_mean_fewer_parameters(
    image: ImagePrint, machine: Machine, one: int, other: int, share: float
) -> None:
    few, many = (
        _parameters(_plan(replace(image, patients=n), machine, n, int(share * n)), image.channels)
        for n in sorted((one, other))
    )
    assert few <= many


def test_a_grid_is_never_finer_than_the_series_and_holds_the_labels() -> None:
    seen = _volume((48, 48, 20), (2, 2, 3), kind="label_map", labels=(1, 2), reach_mm=_axes(50, 45, 50))
    values = _values(_plan(seen))
    assert values["spacing_mm"] == [2.0, 2.0, 3.0]
    assert values["shape"] == [40, 32, 24]  # 60 x 54 x 60 mm with a tenth of margin, in steps of eight
    assert "window" not in values


def test_a_thick_axis_keeps_its_spacing_and_the_others_become_coarser() -> None:
    values = _values(_plan(_volume((512, 512, 24), (0.5, 0.5, 5)), Machine(64 * GB, 16)))
    x, y, z = values["spacing_mm"]
    assert x == y > 0.5
    assert z == 5
    assert prod(values["shape"]) <= 16 << 15


def test_a_gpu_and_more_cores_afford_a_finer_grid() -> None:
    image = _volume((512, 512, 400), (0.8, 0.8, 1))
    plans = [_plan(image, m) for m in (SMALL, Machine(64 * GB, 16), Machine(64 * GB, 16, 80 * GB))]
    voxels = [prod(_values(plan)["shape"]) for plan in plans]
    assert voxels == sorted(set(voxels))


def test_only_a_ct_has_a_window() -> None:
    seen = (-1020.0, -1000.0, 20.0, 300.0, 996.0)
    assert _values(_plan(_volume((99, 99, 99), (1, 1, 1), modality="CT", intensities=seen)))["window"] == [
        -1020,
        1000,
    ]
    flat = _plan(_volume((99, 99, 99), (1, 1, 1), modality="CT", intensities=(0.0,) * 5))
    assert _values(flat)["window"] == [-200, 200]
    assert "window" not in _values(_plan(_volume((99, 99, 99), (1, 1, 1), intensities=seen)))


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.8, 0.82, "fit"), (0.8, 1.0, "fill"), (0.5, 1.2, "fit")]
)
def test_padding_that_would_tell_proportions_is_avoided_where_little_is_cut(
    low: float, high: float, expected: str
) -> None:
    values = _values(_plan(_picture(2500, 3000, low, high)))
    assert values["spacing_mm"] == expected
    assert values["shape"][0] < values["shape"][1]
    assert prod(values["shape"]) <= 16_384


def test_of_few_series_no_extremes_are_known_and_a_plan_is_made_all_the_same() -> None:
    spread = Spread.of([1.0, 2.0, 3.0])
    assert spread == Spread(None, 2.0, None)
    image = ImagePrint("DX", "intensity", matrix=(spread, spread), aspect=spread, patients=3)
    proposal = _plan(image, patients=3, events=0).under("modalities.scan")["spacing_mm"]
    assert proposal.value == "fit"
    assert "too few" in proposal.reason


@pytest.mark.parametrize(("share", "proposed"), [(0.5, None), (0.9, "suv"), (1.0, "suv")])
def test_a_pet_is_planned_in_uptake_values_where_nearly_all_series_have_them(
    share: float, proposed: str | None
) -> None:
    image = replace(_volume((128, 128, 80), (4, 4, 4)), modality="PT", uptake=share)
    plan = _plan(image).under("modalities.scan")
    assert (plan["intensity"].value if "intensity" in plan else None) == proposed
    assert ("window" in plan) == (proposed is not None)
    if proposed:
        assert plan["window"].value == [0, 10]
        assert ("refused" in plan["intensity"].reason) == (share < 1)


def test_unknown_memory_is_said() -> None:
    image = _volume((512, 512, 400), (0.8, 0.8, 1))
    told = [p.reason for p in _plan(image, Machine(None, 64)).proposals if p.key.endswith("spacing_mm")]
    assert "memory of unknown size (4 GB assumed)" in told[0]


def test_wildly_different_sizes_do_not_make_the_grid_of_the_largest() -> None:
    extent = (Spread(180.0, 200.0, 2000.0),) * 3
    image = _volume((200, 200, 200), (1, 1, 1), extent_mm=extent)
    values = _values(_plan(image))
    spans = np.multiply(values["shape"], values["spacing_mm"])
    assert (spans < 450).all()
    assert (spans >= 400).all()


def test_no_series_that_loads_still_gives_a_recipe() -> None:
    values = _values(_plan(ImagePrint("", "intensity", patients=5)))
    assert values["shape"] == [64, 64]


def test_batch_and_epochs_follow_the_patients() -> None:
    plans = [
        _values(_plan(_volume((40, 40, 40), (2, 2, 2), patients=n), patients=n)) for n in (20, 150, 1000)
    ]
    found = [(plan["batch_size"], plan["epochs"]) for plan in plans]
    assert found[0] == (8, 80)
    assert found[2][0] == 32
    assert [batch for batch, _ in found] == sorted(batch for batch, _ in found)
    assert [epochs for _, epochs in found] == sorted((epochs for _, epochs in found), reverse=True)


def test_only_differences_are_told_with_their_reasons() -> None:
    plan = _plan(_volume((48, 48, 20), (2, 2, 3)))
    own = Recipe.model_validate(_recipe(plan)).model_dump(mode="json")
    assert lines(plan, own) == [
        f"planner  {len(plan.proposals)} of {len(plan.proposals)} settings are as it proposes"
    ]
    own["fitting"]["epochs"] = 7
    block = own["modalities"]["scan"]
    block["spacing_mm"] = [1.05 * mm for mm in block["spacing_mm"]]  # as near as another sample would be
    said = lines(plan, own)
    assert len(said) == 2
    assert "fitting.epochs: 7 in the recipe" in said[1]
    assert plan.under("fitting")["epochs"].reason in said[1]
