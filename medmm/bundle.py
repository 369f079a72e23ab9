"""A fitted model on disk: bytes, hashes and JSON. Nothing here imports torch, and nothing unpickles.

    bundle/
      bundle.json            what it is: question, outcome, modalities, fusion, members, provenance
      preprocess.json        per modality: kind, settings, declaration, fitted state of each member
      calibration.json       per outcome, slope and intercepts
      weights.safetensors    the torch weights, for image gradients
      encoders/<name>.onnx   the same networks for scoring
      fusion.onnx
      submodels/<pattern>/   what scores the patients of one set of modalities in place of the fused network:
                             its fusion, calibration, reference, and the encoders that lie nowhere else
      reference/             centroids of the training population, for explanation
      metrics.json           out-of-fold figures with intervals, verdict, sanity gate
      MODEL_CARD.md
      manifest.sha256        one line per file above; its own hash names the bundle

A bundle is written beside its place and moved there whole, so a killed run leaves none; what a
killed run left half-written goes when the run is taken up again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from medmm.calibration import Calibration, Platt, calibration_from_json
from medmm.columns import Declared, FieldSpec, ImageSpec, NotesSpec, ResultSpec
from medmm.errors import BundleError, OutputError
from medmm.modality import Declaration, Modality, Stacked, modality_class, restored
from medmm.outcome import Task

MANIFEST = "manifest.sha256"
MAX_JSON_BYTES = 64 << 20

_FIELDS = TypeAdapter(dict[str, FieldSpec])
_RESULTS = TypeAdapter(dict[str, ResultSpec])


class Submodel(Declared):
    """The network that scores the patients who have exactly some modalities, in place of the fused one.

    Attributes:
        pattern: these modalities.
        model: its name among the models that were compared.
        uses: modalities that its logit depends on.
        fusion: its kind and options.
        encoders: per modality of the bundle, the folder in the bundle that holds its encoder: "" is the
            bundle itself.
        calibrated_on: patients of the pattern, on whom its own calibration was fitted.
        positives: of them, with the event.
        reference_digest: as of the bundle.
        evaluations: as of the bundle.
    """

    pattern: tuple[str, ...]
    model: str
    uses: tuple[str, ...]
    fusion: dict[str, Any]
    encoders: dict[str, str]
    calibrated_on: int
    positives: int
    reference_digest: str
    evaluations: int | None = None

    @property
    def name(self) -> str:
        """The pattern as one word."""
        return "+".join(self.pattern)

    @property
    def folder(self) -> str:
        """Its place in the bundle."""
        return f"submodels/{self.name}"


class Description(Declared):
    """What a bundle says of itself (``bundle.json``).

    Attributes:
        modalities: names in the order of the presence vector.
        members: networks in the ensemble; their mean is the logit.
        outcome: the first, or only, outcome; ``positives``, ``prevalence`` and ``threshold`` are its.
        positives: training patients with the event; of a kind without events, with a label.
        prevalence: share of positives among the training patients.
        tasks: every outcome (:class:`medmm.outcome.Task`), in the order of the network's logits.
        rates: per outcome with classes, the share of each among the training patients who are labelled.
        thresholds: the same of the further binary outcomes.
        threshold: calibrated risk at and above which the decision is "positive", or None.
        reference_digest: names the local file with the full reference population.
        evaluations: runs of the fusion that a game of an explanation may cost; None where it is exact.
        submodels: what scores some patients in place of the fused network; a shared encoder lies with an
            earlier one.
    """

    schema_version: Literal[7] = 7
    medmm_version: str
    created: str
    name: str
    question: str
    intended_use: str
    outcome: str
    outcome_label: str
    modalities: tuple[str, ...]
    fusion: dict[str, Any]
    final_model: str
    members: int
    cohort: str
    cohort_digest: str
    trained_on: int
    positives: int
    prevalence: float
    threshold: float | None = None
    tasks: tuple[dict[str, Any], ...]
    rates: dict[str, dict[str, float]]
    thresholds: dict[str, float]

    def threshold_of(self, outcome: str) -> float | None:
        """Return the risk at and above which a binary outcome is decided "positive"; None without one."""
        return self.threshold if outcome == self.outcome else self.thresholds.get(outcome)

    calibrated_on: int
    seed: int
    reference_digest: str
    evaluations: int | None = None
    submodels: tuple[Submodel, ...] = ()


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle.

    Attributes:
        sha256: hash of the manifest; it names the bundle and never changes.
        modalities: fitted, each standing for all members of the ensemble.
        calibrations: per outcome.
        routed: per submodel, by its name, the same of its own.
        metrics: the figures measured when it was trained.
    """

    folder: Path
    sha256: str
    description: Description
    modalities: Mapping[str, Modality]
    calibrations: Mapping[str, Calibration]
    metrics: Mapping[str, Any]
    routed: Mapping[str, Mapping[str, Calibration]] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every outcome, in the order of the network's logits."""
        return tuple(Task.from_json(entry) for entry in self.description.tasks)

    @property
    def calibration(self) -> Platt:
        """The calibration of a bundle with one binary outcome."""
        found = self.calibrations[self.description.outcome]
        assert isinstance(found, Platt)
        return found


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``folder``, sealed with its manifest, when the block ends.

    Raises:
        OutputError: if the place cannot be written.
    """
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(left, ignore_errors=True)  # of a writer that was killed outright
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        yield temporary
        (temporary / MANIFEST).write_text(_manifest(temporary))
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    except OSError as error:
        raise OutputError(
            f"cannot write a bundle to {folder}: {error.strerror}; choose another --out"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON that reads back to the same numbers in the same order; refuses what is not finite."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # never sorted: the order of a declaration's fields is the order of the columns that a network learned
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")


def preprocess_json(modalities: Mapping[str, Modality]) -> dict[str, Any]:
    """Return ``preprocess.json``: all that :func:`load` needs to build the modalities again."""
    return {
        name: {
            "kind": (modality.members[0] if isinstance(modality, Stacked) else modality).kind,
            "transform_version": modality.transform_version,
            "settings": modality.settings.model_dump(mode="json"),
            "declaration": _dump(modality.declaration),
            "state": modality.state(),
        }
        for name, modality in modalities.items()
    }


def verify(folder: Path) -> str:
    """Check every file of a bundle against its manifest and return the bundle's hash.

    Raises:
        BundleError: if a file is missing, added or changed, or there is no manifest.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST}")
    recorded = manifest.read_text(errors="replace")
    actual = _manifest(folder)
    if recorded != actual:
        changed = sorted(
            {line.split("  ")[-1] for line in set(recorded.splitlines()) ^ set(actual.splitlines())}
        )
        raise BundleError(
            f"bundle {folder.name} is not what was written: {', '.join(changed[:5])} changed, missing "
            "or added; fetch it again from the registry or train anew"
        )
    return hashlib.sha256(recorded.encode()).hexdigest()


def load(folder: Path) -> Bundle:
    """Verify and read a bundle; no weights are loaded and no code of the bundle runs.

    Raises:
        BundleError: if it is damaged, altered, or written by another schema.
    """
    sha256 = verify(folder)
    try:
        description = Description.model_validate(_read_json(folder / "bundle.json"))
        modalities = read_modalities(folder, description.modalities)
        calibrations = _calibrations(folder, description)
        routed = {one.name: _calibrations(folder / one.folder, description) for one in description.submodels}
        metrics = _read_json(folder / "metrics.json")
    except (KeyError, TypeError, ValidationError, json.JSONDecodeError) as error:
        raise BundleError(
            f"bundle {folder} was written by another version of medmm; train anew, or take that version"
        ) from error
    return Bundle(folder, sha256, description, modalities, calibrations, metrics, routed)


def read_modalities(folder: Path, names: Sequence[str]) -> dict[str, Modality]:
    """Return the modalities of these names as ``preprocess.json`` describes them."""
    preprocess = _read_json(folder / "preprocess.json")
    return {name: _restore(name, preprocess[name]) for name in names}


def _calibrations(folder: Path, description: Description) -> dict[str, Calibration]:
    stored = _read_json(folder / "calibration.json")
    return {task["name"]: calibration_from_json(stored[task["name"]]) for task in description.tasks}


def _restore(name: str, entry: Mapping[str, Any]) -> Modality:
    cls = modality_class(entry["kind"])
    if cls.transform_version != entry["transform_version"]:
        raise BundleError(
            f"modality {name} is prepared otherwise by this version of medmm (transform "
            f"{cls.transform_version}, was {entry['transform_version']}); train anew, or use that version"
        )
    settings = cls.Settings.model_validate(entry["settings"])
    unfitted = cls(name, settings, _parse(entry["declaration"]))
    return restored(unfitted, entry["state"])


def _dump(declaration: Declaration) -> dict[str, Any]:
    if isinstance(declaration, ImageSpec):
        return {"image": declaration.model_dump(mode="json")}
    if isinstance(declaration, NotesSpec):
        return {"notes": declaration.model_dump(mode="json")}
    key = "results" if any(isinstance(spec, ResultSpec) for spec in declaration.values()) else "fields"
    return {key: {name: spec.model_dump(mode="json") for name, spec in declaration.items()}}


def _parse(entry: Mapping[str, Any]) -> Declaration:
    if "image" in entry:
        return ImageSpec.model_validate(entry["image"])
    if "notes" in entry:
        return NotesSpec.model_validate(entry["notes"])
    if "results" in entry:
        return _RESULTS.validate_python(entry["results"])
    return _FIELDS.validate_python(entry["fields"])


def _read_json(path: Path) -> Any:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise BundleError(f"{path.name} is larger than {MAX_JSON_BYTES >> 20} MB: not a bundle of medmm")
    return json.loads(path.read_text())


def _manifest(folder: Path) -> str:
    """Return a line per file; whatever is no plain file or folder has a line that no manifest holds."""
    lines = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            lines.append(f"neither a file nor a folder  {name}\n")
        elif path.is_file() and path.name != MANIFEST:
            lines.append(f"{sha256_of(path)}  {name}\n")
    return "".join(lines)


def sha256_of(path: Path) -> str:
    """Return the digest of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
