"""What the network sees of a fixed image, to the bit: it may change only together with its version.

Prepared arrays are cached under ``transform_version``, and a bundle refuses to score with another one.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from medmm.columns import ImageSpec
from medmm.dicom.certificate import Certificate
from medmm.dicom.volume import Volume
from medmm.modalities.image import Image, ImageSettings

CT = {"shape": (6, 5, 4), "spacing_mm": (3.0, 3.0, 4.0), "window": (-200, 400)}
SEEN = {
    "window": (CT, ()),
    "standardised": (CT | {"window": None, "spacing_mm": "fit"}, ()),
    "labels": (CT | {"window": None}, (1, 2)),
}
DIGESTS = {
    1: {"window": "b9b201e34ad6d580", "standardised": "11a312683ef22e8e", "labels": "c9fbdd8510bf75d9"},
}
"""Per ``Image.transform_version``, the first 16 digits of SHA-256 of each prepared array."""


def prepared(settings: dict[str, object], labels: tuple[int, ...]) -> np.ndarray:
    """A ramp with a padded corner, or three labels, on voxels of 2 × 2.5 × 5 mm; whole numbers throughout."""
    x, y, z = np.indices((10, 9, 7))
    array = ((x + y + z) % 3 if labels else 40 * x + 17 * y * z - 300).astype(np.float32)
    valid = np.ones(array.shape, bool)
    valid[:2, :2] = False
    summary = Certificate("1.2", "1.2.3", "used", modality="CT")
    volume = Volume(array, (2.0, 2.5, 5.0), None, valid, "MONOCHROME2", 16, (1.0, 0.0), summary)
    spec = ImageSpec(dir="x", kind="label_map", labels=labels) if labels else ImageSpec(dir="x")
    block = ImageSettings.model_validate(settings | {"encoder": {"channels": [2]}})
    return Image("scan", block, spec).transform(volume)


@pytest.mark.parametrize("name", SEEN)
def test_other_numbers_come_with_another_version(name: str) -> None:
    values = prepared(*SEEN[name])
    assert values.std() > 0.1
    found = hashlib.sha256(np.ascontiguousarray(values, "<f4").tobytes()).hexdigest()[:16]
    assert found == DIGESTS.get(Image.transform_version, {}).get(name), (
        f"`Image.transform` gives other numbers ({name}: {found}): raise `Image.transform_version` (of what"
        " inherits it too), which names the cache and is written into bundles, and enter the digest here"
    )
