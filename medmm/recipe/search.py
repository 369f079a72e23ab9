"""The block ``search`` of a recipe: which settings are tried, how often, and by which figure one is taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from medmm.cohort.declare import validated
from medmm.columns import Declared
from medmm.errors import ConfigError

SEARCHED = ("fitting", "fusion", "hazards", "modalities")
"""Where a searched setting may stand: what makes the network, never what judges it."""

MOST_CORNERS = 256
"""Combinations of the ends of a space that are validated before the first trial."""

METRICS = {
    "binary": ("auroc", "auprc", "log_loss"),
    "multiclass": ("auroc",),
    "ordinal": ("auroc",),
    "regression": ("r2",),
    "survival": ("c_index",),
    "cox": ("c_index",),
}
"""Figures by which trials are compared, per kind of outcome; the first where the recipe does not say."""

Number = Annotated[int | float, Field(union_mode="smart")]


class Range(Declared):
    """A setting between two ends, both included; whole numbers where both ends are.

    Attributes:
        log: whether 0.001 to 0.01 is as wide as 0.01 to 0.1.
    """

    low: Number
    high: Number
    log: bool = False

    @model_validator(mode="after")
    def _wide(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"`low` {self.low} lies below `high` {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"with `log`, `low` {self.low} is above 0")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are tried."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Axis = Range | tuple[Any, ...]
"""One searched setting: a range, or the choices."""


class Search(Declared):
    """Which settings are tried inside the training patients of each outer fold.

    Attributes:
        space: per setting, by its dotted path in the recipe, its :data:`Axis`.
        trials: settings tried per outer fold, and as many for the final model.
        folds: inner folds on which a trial is judged.
        metric: one of :data:`METRICS`; by default the first of the outcome's kind.
        together: trials that are chosen at once, and so may run at once on a cluster. With more of them each
            knows less of the others; what is tried depends on this number, not on the machines.
        timeout_minutes: no trial of a study begins later than this.
    """

    space: dict[str, Axis]
    trials: Annotated[int, Field(ge=1, le=10_000)] = 20
    folds: Annotated[int, Field(ge=2, le=20)] = 3
    metric: Literal["auroc", "auprc", "log_loss", "r2", "c_index"] | None = None
    together: Annotated[int, Field(ge=1, le=256)] = 1
    timeout_minutes: Annotated[float, Field(gt=0)] | None = None

    @field_validator("space", mode="before")
    @classmethod
    def _axes(cls, space: Any) -> Any:
        if not isinstance(space, Mapping) or not space:
            raise ValueError(
                "names at least one setting, for example `fitting.learning_rate: [1.0e-3, 3.0e-3]`"
            )
        return {path: _axis(str(path), values) for path, values in space.items()}

    def corners(self) -> Iterator[dict[str, Any]]:
        """Yield the combinations of every setting's ends or choices, :data:`MOST_CORNERS` at most.

        Each end of every setting is in one of them at least.
        """
        ends = {
            path: (axis.low, axis.high) if isinstance(axis, Range) else axis
            for path, axis in self.space.items()
        }
        first = {path: values[0] for path, values in ends.items()}
        yield from ({**first, path: value} for path, values in ends.items() for value in values)
        for values in islice(product(*ends.values()), MOST_CORNERS):
            yield dict(zip(ends, values, strict=True))

    def check(self, kinds: tuple[str, ...]) -> None:
        """Refuse a metric that an outcome does not have.

        Args:
            kinds: of the outcomes.

        Raises:
            ConfigError: naming those it has.
        """
        for kind in kinds:
            if self.metric is not None and self.metric not in METRICS[kind]:
                raise ConfigError(
                    f"search.metric `{self.metric}` is none of a {kind} outcome; take"
                    f" {' or '.join(METRICS[kind])}"
                )


def _axis(path: str, values: Any) -> Axis:
    top = path.split(".", maxsplit=1)[0]
    if top not in SEARCHED:
        raise ValueError(f"`{path}` is not searched: a search varies {', '.join(SEARCHED)}")
    if isinstance(values, Mapping):
        try:
            return validated(Range, values, where=path)
        except ConfigError as error:
            raise ValueError(str(error).replace("the file: ", "")) from None
    if not isinstance(values, list | tuple):
        raise ValueError(f"`{path}` is a list of choices, or {{low: …, high: …}}")
    if len(values) < 2 or any(values.count(value) > 1 for value in values):
        raise ValueError(
            f"`{path}` has {len(values)} choices; there is nothing to search below two different ones"
        )
    return tuple(values)


def placed(values: dict[str, Any], chosen: Mapping[str, Any], *, fusion: str) -> dict[str, Any]:
    """Return what a recipe says, with the chosen settings in their places.

    Args:
        values: of a recipe, as a person wrote them; changed in place.
        chosen: per dotted path, the setting.
        fusion: the recipe's kind of fusion; another kind brings none of its settings along.
    """
    kind = chosen.get("fusion.kind", fusion)
    if "fusion" in values or any(path.startswith("fusion.") for path in chosen):
        values["fusion"] = {**(values.get("fusion", {}) if kind == fusion else {}), "kind": kind}
    for path, value in chosen.items():
        *parents, last = path.split(".")
        inside = values
        for parent in parents:
            inside = inside.setdefault(parent, {})
            if not isinstance(inside, dict):
                raise ConfigError(f"search.space: {path} leads through {parent!r}, which is one value")
        inside[last] = list(value) if isinstance(value, tuple) else value
    return values
