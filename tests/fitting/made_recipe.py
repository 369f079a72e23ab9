"""The smallest recipe of an image and a table, for judging logits that were made up."""

from __future__ import annotations

from medmm.recipe import Recipe


def recipe(**more: object) -> Recipe:
    """Return it; ``more`` is added to it or takes the place of what it says."""
    return Recipe.model_validate(
        {
            "name": "made",
            "question": "?",
            "intended_use": "a test",
            "cohort": "x",
            "outcome": "ill",
            "modalities": {"film": {"kind": "image"}, "records": {"kind": "records"}},
            "comparison": {"resamples": 200},
            **more,
        }
    )
