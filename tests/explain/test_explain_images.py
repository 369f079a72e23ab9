from __future__ import annotations

from medmm.columns import ImageSpec
from medmm.explain.images import label_texts


def test_a_label_is_shown_by_name_and_else_by_number():
    spec = ImageSpec(dir="dicom", kind="label_map", labels=(100, 200), label_names={100: "Kidney"})
    assert label_texts(spec) == ((100, "Kidney"), (200, "label 200"))
