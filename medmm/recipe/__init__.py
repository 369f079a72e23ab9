"""The one configuration of a run: which cohort, which question, which network, how it is fitted and judged.

A recipe is a YAML file in ``pipelines/<question>/``. Each block under ``modalities`` is validated by the
modality that it names, so a new modality brings its own settings. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from medmm.cohort.declare import read_yaml, refuse_questions, validated
from medmm.cohort.spec import CohortSpec
from medmm.columns import Declared
from medmm.errors import ConfigError
from medmm.modality import Declaration, Modality, modality_class
from medmm.modality import kinds as installed
from medmm.recipe.choosing import Comparison, Folds, Promotion, Routing
from medmm.recipe.fusion import (
    Concat,
    Fusion,
    Joint,
    LateMean,
    LateStack,
    check_modalities,
    others,
)
from medmm.recipe.pretraining import Pretraining
from medmm.recipe.search import Search, placed

__all__ = [
    "Comparison",
    "Concat",
    "Explanation",
    "Fitting",
    "Folds",
    "Joint",
    "LateMean",
    "LateStack",
    "Pretraining",
    "Promotion",
    "Recipe",
    "Routing",
    "Search",
    "Threshold",
    "check_outcome",
    "check_search",
    "cohort_folder",
    "load_recipe",
    "varied",
]

Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class Fitting(Declared):
    """How one network is fitted.

    Attributes:
        select_share: share of the training patients set aside to choose the epoch; never used for
            calibration. Where it is not given 0.15, if that is twenty of each class, else nobody: then
            all epochs run.
        patience: epochs without a better loss on those patients before stopping.
        imbalance: what is done about rare classes. ``weights`` weighs every class by how rare it is;
            ``focal`` turns the loss to the patients who are predicted badly (Lin et al. 2017, with γ = 2);
            ``balanced`` draws as many patients of each class, with replacement; ``none`` leaves the cohort
            as it is.
        micro_batch: most patients of a batch that go through the network at once, in each process; their
            gradients add up to the batch's. Where it is not given, the whole batch, and fewer once memory
            runs out.
        precision: of the forward and backward pass; ``bf16`` keeps weights, loss and scores in float32.
        clip: norm above which the gradient of a batch is shortened; None leaves it.
        ema: decay of an exponential moving average of the weights, 0.99 say, that is judged and kept in place
            of the last weights.
    """

    epochs: Count = 80
    batch_size: Count = 32
    learning_rate: Positive = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    select_share: Annotated[float | None, Field(gt=0, le=0.5)] = None
    patience: Count = 25
    imbalance: Literal["weights", "focal", "balanced", "none"] = "weights"
    micro_batch: Count | None = None
    precision: Literal["float32", "bf16"] = "float32"
    clip: Positive | None = 1.0
    ema: Share | None = None


class Explanation(Declared):
    """What an explanation may cost.

    Attributes:
        evaluations: runs of the fusion per game, where the fusion holds an encoder's last block (``film``,
            ``daft``, ``tab_cross_attn``); above it, references and orders of fields are drawn and every
            share is printed with its standard error. The other fusions are explained exactly.
    """

    evaluations: Annotated[int, Field(ge=200, le=1_000_000)] = 2000


class Threshold(Declared):
    """Where the decision is taken: at a stated risk, or where out-of-fold sensitivity reaches a figure."""

    risk: Share | None = None
    sensitivity: Share | None = None

    @model_validator(mode="after")
    def _one(self) -> Threshold:
        if (self.risk is None) == (self.sensitivity is None):
            raise ValueError("a threshold is a `risk` or a `sensitivity`, one of them")
        return self


class Recipe(Declared):
    """A validated recipe.yaml.

    Attributes:
        name: the pipeline's name, also in the model registry.
        cohort: folder with cohort.yaml, relative to the recipe.
        outcome: the outcome of the cohort that is predicted; or ``outcomes``, several at once, with the
            weight of each in the loss.
        hazards: how a time to an event is modelled: ``discrete`` hazards per interval (Gensheimer and
            Narasimhan 2019), or ``cox`` for proportional hazards (Katzman et al. 2018).
        modalities: per block of the cohort, the settings of its modality (``kind`` names it).
        folds: how often the training patients are divided.
        promotion: what makes a model the champion; without it, a run only ever makes a candidate.
        routing: ``never_worse`` ships, beside the fused network, a submodel for each set of modalities on
            whose patients it is surely better, out-of-fold; ``none`` scores everybody with the fused network.
        pretraining: what the encoders learn without labels before they are fitted, anew on each split's own
            training patients; or ahead of everything, by ``medmm pretrain``.
        pretrained: folder that ``medmm pretrain`` wrote, relative to the recipe. The encoders begin with its
            weights, its tables' preparation is used, and nothing is pretrained within the folds.
        final_model: ``fold_ensemble`` keeps the outer folds' networks; ``refit`` fits one on everybody, and
            is the only one where settings are searched, since each fold may take other ones.
        search: which settings are tried inside the training patients of each fold.
    """

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    question: str
    intended_use: str
    cohort: str
    outcome: str = ""
    outcomes: dict[str, Positive] = Field(default_factory=dict)
    hazards: Literal["discrete", "cox"] = "discrete"
    modalities: dict[str, dict[str, Any]]
    fusion: Fusion = Concat()
    fitting: Fitting = Fitting()
    pretraining: Pretraining | None = None
    pretrained: str | None = None
    final_model: Literal["fold_ensemble", "refit"] = "fold_ensemble"
    comparison: Comparison = Comparison()
    explanation: Explanation = Explanation()
    folds: Folds = Folds()
    promotion: Promotion | None = None
    routing: Routing = "none"
    threshold: Threshold | None = None
    search: Search | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    _folder: Path = PrivateAttr(default=Path())
    _beside: dict[str, Fusion] | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _own_among_the_compared(cls, values: Any) -> Any:
        """Drop the bare name of the recipe's own kind from the fusions compared: it is the own one."""
        comparison = values.get("comparison") if isinstance(values, dict) else None
        if not isinstance(comparison, dict) or not isinstance(comparison.get("fusions"), list | tuple):
            return values
        own = values.get("fusion", {"kind": "concat"})
        kind = own.get("kind") if isinstance(own, dict) else getattr(own, "kind", None)
        rest = [one for one in comparison["fusions"] if one not in (kind, {"kind": kind})]
        return {**values, "comparison": {**comparison, "fusions": rest}}

    @model_validator(mode="before")
    @classmethod
    def _refitted(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("search") is None:
            return values
        if values.get("final_model", "refit") != "refit":
            raise ValueError(
                "with a `search` each fold may take other settings, and their networks are no ensemble;"
                " write `final_model: refit`, or leave it out"
            )
        return {**values, "final_model": "refit"}

    @model_validator(mode="after")
    def _several(self) -> Recipe:
        if len(self.modalities) < 2 and "fusion" in self.model_fields_set:
            raise ValueError(
                f"fusion `{self.fusion.kind}` joins several modalities, and there is only"
                f" {', '.join(self.modalities)}; name another one, or leave `fusion` out"
            )
        if len(self.modalities) < 2 and (self.comparison.fusions or self.routing != "none"):
            key = "comparison.fusions" if self.comparison.fusions else "routing"
            raise ValueError(f"`{key}` chooses between networks of several modalities; leave it out")
        taken = sorted({"tables", *self.fusions} & set(self.modalities))
        if taken:
            raise ValueError(f"a modality cannot be called {taken[0]!r}, as a model of this run is")
        kinds = {name: block["kind"] for name, block in self.modalities.items()}
        if set(kinds.values()) <= set(installed()):  # an unknown kind is refused where it is built
            gives = {name: modality_class(kind).gives for name, kind in kinds.items()}
            for fusion in self.fusions.values():
                check_modalities(fusion, gives)
        return self

    @model_validator(mode="after")
    def _asked_for(self) -> Recipe:
        if bool(self.outcome) == bool(self.outcomes):
            raise ValueError("a recipe names its `outcome`, or several under `outcomes`")
        if self.search is not None and (self.pretraining or self.pretrained):
            key = "pretraining" if self.pretraining else "pretrained"
            raise ValueError(
                f"a `search` tries other encoders than `{key}` has weights for; search first, then pretrain"
                " with the settings it found"
            )
        return self

    @field_validator("outcomes", mode="before")
    @classmethod
    def _weighed(cls, named: Any) -> Any:
        return dict.fromkeys(named, 1.0) if isinstance(named, list | tuple) else named

    @property
    def fusions(self) -> dict[str, Fusion]:
        """Every fusion that is fitted, by the name of its model: "fused" is the recipe's own."""
        beside = others(self.fusion, self.comparison.fusions) if self._beside is None else self._beside
        return {"fused": self.fusion, **beside}

    @property
    def pretrained_folder(self) -> Path | None:
        """Where the pretrained weights lie; None where the recipe names none."""
        return None if self.pretrained is None else self._folder / self.pretrained

    @property
    def pretrained_within(self) -> Pretraining | None:
        """What is pretrained anew on each split; None where nothing is, or a folder is taken."""
        return self.pretraining if self.pretrained is None else None

    @property
    def asked(self) -> tuple[str, ...]:
        """The outcomes that are predicted, in the order of the network's logits."""
        return (self.outcome,) if self.outcome else tuple(self.outcomes)

    @field_validator("modalities")
    @classmethod
    def _kinds(cls, blocks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if not blocks:
            raise ValueError("a recipe names at least one modality")
        for name, block in blocks.items():
            if not isinstance(block.get("kind"), str):
                raise ValueError(f"modality {name!r} names its `kind`")
        return blocks

    def build(self, declarations: dict[str, Declaration]) -> dict[str, Modality]:
        """Return the modalities of this recipe, unfitted, in the recipe's order.

        Raises:
            ConfigError: if a block is not in the cohort, or its settings are not its modality's.
        """
        built: dict[str, Modality] = {}
        for name, block in self.modalities.items():
            if name not in declarations:
                known = ", ".join(sorted(declarations))
                raise ConfigError(f"recipe {self.name}: the cohort has no block {name!r}; it has {known}")
            settings = {key: value for key, value in block.items() if key != "kind"}
            cls = modality_class(block["kind"])
            where = f"recipe {self.name}, modalities.{name}"
            built[name] = cls(name, validated(cls.Settings, settings, where=where), declarations[name])
            built[name].folder = self._folder
        return built


def load_recipe(path: Path) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: the file, or the pipeline folder that holds ``recipe.yaml``.

    Raises:
        ConfigError: with the key, what is wrong and the nearest known key.
    """
    file = path / "recipe.yaml" if path.is_dir() else path
    values, text = read_yaml(file)
    refuse_questions(file, text)
    recipe = validated(Recipe, values, where=str(file))
    recipe._folder = file.parent
    for chosen in recipe.search.corners() if recipe.search else ():
        varied(recipe, chosen)
    return recipe


def varied(recipe: Recipe, chosen: Mapping[str, Any]) -> Recipe:
    """Return a recipe with other settings, and without a search.

    Args:
        recipe: as a person wrote it.
        chosen: per dotted path ("fitting.learning_rate"), the setting.

    Raises:
        ConfigError: if a path is no setting, or a value is none for it.
    """
    written = recipe.model_dump(mode="json", exclude_unset=True, exclude={"search"})
    told = ", ".join(f"{path} = {value}" for path, value in chosen.items())
    named = {path.split(".")[1] for path in chosen if path.startswith("modalities.")}
    for name in sorted(named - set(recipe.modalities)):
        known = ", ".join(recipe.modalities)
        raise ConfigError(f"search.space: the recipe has no modality {name!r}; it has {known}")
    made = validated(
        Recipe, placed(written, chosen, fusion=recipe.fusion.kind), where=f"search.space, with {told}"
    )
    made._folder = recipe._folder
    # A fusion that is compared keeps its name where a search takes its kind, or another, for the own one.
    made._beside = {name: fusion for name, fusion in recipe.fusions.items() if name != "fused"}
    return made


def check_search(recipe: Recipe, declarations: Mapping[str, Declaration]) -> None:
    """Build the modalities at the ends of a search's space, before the first trial.

    Raises:
        ConfigError: naming the settings that are none.
    """
    for chosen in recipe.search.corners() if recipe.search else ():
        varied(recipe, chosen).build(dict(declarations))


def cohort_folder(recipe: Recipe, path: Path) -> Path:
    """Return the folder of the recipe's cohort, which the recipe names relative to itself."""
    base = path if path.is_dir() else path.parent
    return (base / recipe.cohort).resolve()


def check_outcome(recipe: Recipe, spec: CohortSpec) -> None:
    """Refuse a recipe whose outcomes the cohort does not have, or that asks of them what cannot be done.

    Raises:
        ConfigError: in one line, naming what there is instead.
    """
    for name in recipe.asked:
        if name not in spec.outcomes:
            known = ", ".join(sorted(spec.outcomes))
            raise ConfigError(f"recipe {recipe.name}: the cohort has no outcome {name!r}; it has {known}")
    kinds = [spec.outcomes[name].kind for name in recipe.asked]
    plain = kinds == ["binary"]
    if recipe.search is not None:
        recipe.search.check(tuple(kinds))
    if any(isinstance(fusion, LateStack) for fusion in recipe.fusions.values()) and not plain:
        raise ConfigError(
            f"recipe {recipe.name}: fusion `late_stack` regresses one binary outcome, and"
            f" {', '.join(recipe.asked)} asks for more; take `late_mean` or `concat`"
        )
    if recipe.threshold is not None and "binary" not in kinds:
        raise ConfigError(
            f"recipe {recipe.name}: a `threshold` is of a binary outcome, and {', '.join(recipe.asked)}"
            " is none; leave it out"
        )
    judging = {
        "promotion": recipe.promotion is not None,
        "routing": recipe.routing != "none",
        "folds.repeats": recipe.folds.repeats not in (1, "auto"),
    }
    if not plain and any(judging.values()):
        key = next(name for name, asked in judging.items() if asked)
        raise ConfigError(
            f"recipe {recipe.name}: `{key}` judges one binary outcome, and {', '.join(recipe.asked)} asks for"
            " more; leave it out"
        )
    counted = not {"regression", "survival"} & set(kinds)
    if recipe.fitting.imbalance in ("focal", "balanced") and not counted:
        raise ConfigError(
            f"recipe {recipe.name}: fitting.imbalance `{recipe.fitting.imbalance}` balances classes, and"
            f" {', '.join(recipe.asked)} has none; leave it out"
        )
