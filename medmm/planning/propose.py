"""A fingerprint becomes settings, each with its reason: the same for every cohort, nothing is searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import ceil, floor, log2
from typing import Any

from medmm.planning.fingerprint import Fingerprint, ImagePrint
from medmm.planning.grid import LARGEST_BATCH, Grid, least_bytes, plan_grid, usable

WIDTHS = ((0, 12), (200, 16), (1000, 24), (5000, 32))
"""From how many patients of the rarer class, how many channels the first map of an encoder has."""
RARER_SHARE = 0.2
"""Assumed of the rarer class where the outcome is not known yet."""
COARSEST = 6
"""Convolutions halve the longest axis until it has about so many voxels or up to twice as many."""
FEWEST_LEVELS = 3
FIT_SHARE = 0.64
"""Of the patients, those who fit one network: four fifths of four fifths, with two levels of folds."""
STEPS_PER_EPOCH = 6
"""Steps that an epoch has at least, so that its order is drawn from more than a few batches."""
SMALLEST_BATCH = 8
STEPS = 500
"""Steps of one fit: small encoders from random weights need hundreds, whatever the cohort's size."""
FEWEST_EPOCHS, MOST_EPOCHS = 20, 80
PATIENCE = 0.3
"""Share of the epochs without a better loss before a fit stops."""
SHIFT_SHARE = 16
"""A random shift of one sixteenth of the middle axis, at most."""
MOST_UPTAKE = 0.8
"""Share of the PET series from which on uptake values are proposed: the others would be refused."""
UPTAKE_WINDOW = (0.0, 10.0)
"""g/ml: most tumours lie below, and a bladder that lies above is not to drown them."""
NARROWEST_HU = 400.0
"""A CT window is at least so wide: fat, water and soft tissue lie within it."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """One setting.

    Attributes:
        key: its place in a recipe, joined by dots ("fitting.epochs").
        value: a plain value.
        reason: one line.
    """

    key: str
    value: Any
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is proposed for one cohort."""

    proposals: tuple[Proposal, ...]

    def under(self, prefix: str) -> Mapping[str, Proposal]:
        """Return the proposals of one block of the recipe, by the rest of their keys, in order."""
        start = f"{prefix}."
        return {p.key.removeprefix(start): p for p in self.proposals if p.key.startswith(start)}

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"schema_version": 1, "proposals": [asdict(proposal) for proposal in self.proposals]}


def propose(fingerprint: Fingerprint) -> Plan:
    """Return the plan of a cohort: per image its grid, window, encoder and variation; and the fitting."""
    found: list[Proposal] = []
    for name, image in fingerprint.images.items():
        grid = plan_grid(image, fingerprint.machine)
        lines = (*_image(image, grid), _encoder(fingerprint, image, grid), _augment(grid))
        found += (Proposal(f"modalities.{name}.{key}", value, reason) for key, value, reason in lines)
    found += _fitting(fingerprint)
    return Plan(tuple(found))


Line = tuple[str, Any, str]


def _image(image: ImagePrint, grid: Grid) -> Iterator[Line]:
    spacing = grid.spacing_mm if isinstance(grid.spacing_mm, str) else list(grid.spacing_mm)
    yield "spacing_mm", spacing, grid.why_spacing
    yield "shape", list(grid.shape), grid.why_shape
    if image.modality == "CT" and image.kind == "intensity" and image.intensities:
        low, high = image.intensities[0], image.intensities[-1]
        middle, half = (low + high) / 2, max(high - low, NARROWEST_HU) / 2
        window = [10 * round((middle - half) / 10), 10 * round((middle + half) / 10)]
        yield "window", window, "HU mean the same everywhere: the median series' 0.5 and 99.5 % quantiles"
    if image.uptake >= MOST_UPTAKE and len(image.matrix) == 3:
        rest = "" if image.uptake == 1 else "; the others are refused, `stored` and no `window` takes them"
        yield "intensity", "suv", f"{image.uptake:.0%} of the series state weight, dose and times{rest}"
        yield "window", list(UPTAKE_WINDOW), "uptake by body weight, g/ml, means the same everywhere"


def _encoder(fingerprint: Fingerprint, image: ImagePrint, grid: Grid) -> Line:
    rarer, told = _rarer(fingerprint, image)
    first = max(width for fewest, width in WIDTHS if rarer >= fewest)
    levels = _levels(grid.shape)
    channels = [first << level for level in range(levels)]
    last = "x".join(str(size >> levels) for size in grid.shape)
    return (
        "encoder",
        {"kind": "cnn", "channels": channels},
        f"{first} channels to begin with for {told}; {levels} halvings leave {last} voxels",
    )


def _rarer(fingerprint: Fingerprint, image: ImagePrint) -> tuple[int, str]:
    """Return how many patients of the rarer class have the image, as far as counts tell, and in words."""
    have = min(image.patients, fingerprint.patients)
    if fingerprint.events is None:
        return round(RARER_SHARE * have), f"{have} patients with the image, whose outcome is not counted"
    events = min(round(fingerprint.events * have / max(1, fingerprint.patients)), have)
    few = "fewer than 11" if fingerprint.events == 0 else f"about {events}"
    return events, f"{few} patients of the rarer class with the image"


def _levels(shape: tuple[int, ...]) -> int:
    wanted = max(FEWEST_LEVELS, floor(log2(max(shape) / COARSEST)))
    return min(wanted, floor(log2(min(shape))))


def _augment(grid: Grid) -> Line:
    shift = ceil(sorted(grid.shape)[len(grid.shape) // 2] / SHIFT_SHARE)
    flip = "x" if len(grid.shape) == 3 else "column"
    reason = "left and right mirrored, a sixteenth shifted; leave `flip` out where the side is the question"
    return "augment", {"flip": [flip], "shift_voxels": shift}, reason


def _fitting(fingerprint: Fingerprint) -> Iterator[Proposal]:
    images = list(fingerprint.images.values())
    have = [min(image.patients, fingerprint.patients) for image in images if image.patients]
    fitted = max(1, round(FIT_SHARE * min(have, default=fingerprint.patients)))
    batch = LARGEST_BATCH
    while batch > SMALLEST_BATCH and fitted / batch < STEPS_PER_EPOCH:
        batch //= 2
    reason = f"{fitted} patients to fit on: {max(1, round(fitted / batch))} steps an epoch"
    room = usable(fingerprint.machine)
    while batch > 1 and any(least_bytes(batch, len(i.matrix) or 2, i.channels) > room for i in images):
        batch //= 2
        reason = f"more would not fit into {room / 2**30:.2f} GB"
    yield Proposal("fitting.batch_size", batch, reason)
    steps = max(1, round(fitted / batch))
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, 10 * round(STEPS / steps / 10)))
    yield Proposal("fitting.epochs", epochs, f"{epochs * steps} steps of {batch}; about {STEPS} are meant")
    patience = round(PATIENCE * epochs)
    yield Proposal("fitting.patience", patience, f"{PATIENCE:.0%} of the epochs without a better loss")
