"""How a cohort.yaml says that subjects are divided into training, held-out and folds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medmm.columns import Declared, Words

Share = Annotated[float, Field(ge=0, lt=1)]


class Splits(Declared):
    """How subjects are divided; always whole subjects, never images or rows.

    Attributes:
        by: "patient" draws subjects; "site" keeps every site whole, in the held-out part and in the folds;
            "time" holds out those with the latest prediction times.
        stratify: outcomes, subgroups and image blocks that every part has its share of.
        groups: field of the records (a family, a household) whose equal values are never divided.
        site: subgroup that is the site.
        held_out_sites: which sites are held out; without them, whole sites are drawn up to ``held_out``.
        held_out: share that is held out.
        folds: outer folds of the training part.
        inner_folds: folds inside the training part of each outer fold (nested cross-validation).
        seed: of the draw.
        file: a splits.json to be used instead of a draw, relative to this cohort.yaml.
    """

    by: Literal["patient", "site", "time"] = "patient"
    stratify: tuple[str, ...] = ()
    groups: str | None = None
    site: str | None = None
    held_out_sites: Words = ()
    held_out: Share = 0.0
    folds: Annotated[int, Field(ge=2, le=20)] = 5
    inner_folds: Annotated[int, Field(ge=2, le=20)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    file: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Splits:
        if (self.by == "site") != (self.site is not None):
            raise ValueError("`by: site` names the subgroup that is the `site`, and nothing else does")
        if self.held_out_sites and (self.by != "site" or self.held_out):
            raise ValueError("`held_out_sites` goes with `by: site`, in the place of `held_out`")
        if self.by == "time" and not self.held_out:
            raise ValueError("`by: time` holds out the latest; give their share as `held_out`")
        if self.by == "time" and self.groups:
            raise ValueError(
                "`by: time` cannot keep `groups` whole too: a group may lie on both sides of the cut"
            )
        return self
