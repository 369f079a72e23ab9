"""The block of a recipe that reads waveforms, from what some recordings show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmm.cohort.fingerprint import spread_evenly
from medmm.errors import DicomRefusal

if TYPE_CHECKING:
    from medmm.dicom.waveform import Waveform

SAMPLING_HZ = 100.0
"""Proposed at the most: waves of an ECG are below 50 Hz."""


@dataclass(frozen=True, slots=True)
class Recordings:
    """What some recordings of a block have in common.

    Attributes:
        seen: how many could be read.
        channels: of the most.
        leads: names of the channels in one order, where the recordings differ in it; else ().
        seconds: median length.
        sampling_hz: of the most.
        volts: whether each channel states a voltage.
    """

    seen: int = 0
    channels: int = 0
    leads: tuple[str, ...] = ()
    seconds: float = 0.0
    sampling_hz: float = 0.0
    volts: bool = False

    def settings(self) -> list[tuple[str, Any, str]]:
        """Return the settings of the block, each with its reason."""
        if not self.seen:
            return []
        lines: list[tuple[str, Any, str]] = [
            ("channels", self.channels, f"as most of {self.seen} recordings have"),
        ]
        if self.leads:
            lines.append(("leads", list(self.leads), "the recordings differ in the order of their channels"))
        rate = min(self.sampling_hz, SAMPLING_HZ)
        lines += [
            ("seconds", round(self.seconds, 2), "as long as the median recording"),
            ("sampling_hz", rate, f"recorded at {self.sampling_hz:g} Hz"),
        ]
        if not self.volts:
            lines.append(("amplitude", "robust", "not every channel states a voltage"))
        return lines


def look(series: Sequence[Sequence[Path]], *, progress: Callable[[int, int], None] | None) -> Recordings:
    """Read some recordings of a block, spread evenly.

    Args:
        series: the files of each.
        progress: called with (done, total).
    """
    from medmm.dicom.parallel import each_bounded

    chosen = spread_evenly(series)
    found = []
    for done, one in enumerate(each_bounded(_read, chosen, lost=_nothing), 1):
        found.append(one)
        if progress:
            progress(done, len(chosen))
    read = [one for one in found if one is not None]
    if not read:
        return Recordings()
    orders = Counter(one.channels for one in read)
    usual = max(sorted(orders), key=orders.__getitem__)
    one_set = len({tuple(sorted(order)) for order in orders}) == 1 and len(set(usual)) == len(usual)
    rates = Counter(one.sampling_hz for one in read)
    lengths = sorted(one.array.shape[1] / one.sampling_hz for one in read)
    return Recordings(
        len(read),
        len(usual),
        usual if len(orders) > 1 and one_set else (),
        lengths[len(lengths) // 2],
        max(sorted(rates), key=rates.__getitem__),
        all(unit.endswith("V") for one in read for unit in one.units),
    )


def _read(files: Sequence[Path]) -> Waveform | None:
    from medmm.dicom.loading import load
    from medmm.dicom.waveform import Waveform

    try:
        found = load(files[0])
    except DicomRefusal:
        return None
    return found if isinstance(found, Waveform) else None


def _nothing(files: Sequence[Path]) -> None:
    """A recording whose worker died is not looked at."""
