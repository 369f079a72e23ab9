"""Training throughput beside the limit of the machine: the same network on tensors that lie in memory.

The claims: the loop does at least 0.95 of what the same steps do on resident tensors, and with ``precision:
bf16``, where the processor has it, 1.7 times as much as that limit in float32; the AUROC on the synthetic
cohort is not another. The limit is the same network, batch size and AdamW, in float32, on one batch that lies
in memory: nothing is read, varied, clipped or scheduled, all of which the loop does. It is measured with the
weights as they lie in the loop and with channels last, and the faster of the two counts. MONAI's CacheDataset
and DataLoader stand beside them. CPU seconds on one thread; on a GPU, where there is one, seconds.

    python -m benchmarks.training_throughput            all of it
    python -m benchmarks.training_throughput --speed    without the AUROC, which takes the longest (--auroc)
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from medmm.cohort.synthetic import synthesize
from medmm.encoders.augment import flipped
from medmm.encoders.image import Kind, image_encoder
from medmm.encoders.mlp import TableEncoder
from medmm.evaluation.comparison import verdict
from medmm.fitting.assemble import assemble
from medmm.fitting.inputs import Inputs, Prepared
from medmm.fitting.job import Job
from medmm.fitting.loop import Fit, fit_network, predict
from medmm.fitting.memory import pages_kept
from medmm.fitting.processes import Precision, processes
from medmm.network.fusion import Stack, fusion
from medmm.network.network import Network, unimodal
from medmm.recipe import Fitting
from medmm.train import plan

LIMIT, HALF_LIMIT = 0.95, 1.7
FIELDS = 30


@dataclass(frozen=True, slots=True)
class Case:
    """One network and what it is fitted on."""

    encoder: Kind
    shape: tuple[int, ...]
    patients: int
    batch: int
    rounds: int
    claimed: bool = True
    """False where what a step costs without any image, about 5 ms, is a fifth of it: shown, not claimed."""

    def __str__(self) -> str:
        size = "×".join(str(side) for side in self.shape)
        return f"{self.encoder}, {size}, {self.patients} patients in batches of {self.batch}"


CASES = {
    "small": Case("cnn", (224, 224), 64, 8, 15),
    "volume": Case("cnn", (64, 64, 48), 32, 8, 15),
    "small3d": Case("cnn", (48, 48, 32), 64, 8, 15, claimed=False),
    "resnet10": Case("resnet10", (32, 128, 128), 8, 4, 5),
    "densenet121": Case("densenet121", (224, 224), 8, 4, 12),
}
EPOCHS, FOLDS, COHORT = 12, 3, 240
"""Of the comparison of AUROCs: epochs of each fit, folds, patients of the synthetic cohort."""


def main() -> None:
    """Measure and print; exit 1 when a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speed", action="store_true", help="without the AUROC")
    parser.add_argument("--auroc", action="store_true", help="the AUROC alone")
    parser.add_argument("--case", choices=CASES, action="append", help="of these networks alone")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    held = [] if asked.auroc else [_speed(CASES[name]) for name in asked.case or CASES]
    if not asked.speed:
        held.append(_auroc())
    sys.exit(not all(held))


def _speed(case: Case) -> bool:
    """Measure one network in turns and say whether the claims hold."""
    with tempfile.TemporaryDirectory() as folder, pages_kept():  # the limit has them too
        job = _job(case, Path(folder))
        runs: dict[str, Callable[[], None]] = {
            "limit": _resident(job, last=False),
            "limit, channels last": _resident(job, last=True),
            "medmm": _loop(job, Path(folder), "float32"),
            "medmm, augmented": _loop(_augmented(job), Path(folder), "float32"),
            "medmm, bf16": _loop(job, Path(folder), "bf16"),
            "MONAI CacheDataset": _monai(job),
        }
        for run in runs.values():
            run()  # pays for set-up
        turns = [{name: _seconds(run) for name, run in runs.items()} for _ in range(case.rounds)]
    print(f"{case}, {processes().device}")
    against = {name: median(turn["limit"] / turn[name] for turn in turns) for name in runs}
    for name, ratio in against.items():
        spent = median(turn[name] for turn in turns)
        print(f"  {name:<22} {case.patients / spent:8.1f} images/s   {ratio:5.2f} of the limit")
    if not case.claimed:
        return True
    strict = median(turn["limit, channels last"] / turn["medmm"] for turn in turns)
    holds = _said("medmm of the faster limit", min(strict, against["medmm"]), LIMIT)
    if _has_bf16():
        return _said("medmm with bf16 of the float32 limit", against["medmm, bf16"], HALF_LIMIT) and holds
    print("  this processor has no bf16")
    return holds


def _said(what: str, ratio: float, least: float) -> bool:
    print(
        f"  {what}: {ratio:.2f}, claimed at least {least}: {'holds' if ratio >= least else 'DOES NOT HOLD'}"
    )
    return ratio >= least


def _job(case: Case, folder: Path) -> Job:
    """Return a joint network of an image and a table, the image a float16 memory map as in a run."""
    rng = np.random.default_rng(0)
    np.save(folder / "images.npy", rng.normal(size=(case.patients, 1, *case.shape)).astype(np.float16))
    images = np.load(folder / "images.npy", mmap_mode="r")
    table = rng.normal(size=(case.patients, FIELDS)).astype(np.float32)
    rows, none = np.arange(case.patients), ("",) * case.patients
    inputs = Inputs({"image": Prepared(images, rows, none), "records": Prepared(table, rows, none)})
    torch.manual_seed(0)
    image = image_encoder(
        case.encoder, spatial_dims=len(case.shape), in_channels=1, channels=(16, 32, 64, 128), dropout=0.0
    )
    encoders = {"image": image, "records": TableEncoder(FIELDS, (64, 32), 0.0)}
    return Job(
        name="fused",
        network=Network(encoders, fusion("concat", [image.out_features, 32])),
        inputs=inputs,
        labels=(table[:, 0] > 0).astype(float),
        train=rows,
        select=rows[:0],
        settings=Fitting(batch_size=case.batch, epochs=10_000),
        seed=0,
    )


def _augmented(job: Job) -> Job:
    return replace(job, augment={"image": lambda batch, generator: flipped(batch, (2,), generator)})


def _fresh(job: Job) -> Job:
    """Return the job with a copy of its network that no other run fits."""
    return replace(job, network=deepcopy(job.network))


def _loop(job: Job, folder: Path, precision: Precision) -> Callable[[], None]:
    """Return one epoch of the loop."""
    settings = job.settings.model_copy(update={"precision": precision})
    fit = Fit(replace(_fresh(job), settings=settings), folder, processes(precision))
    return lambda: _epoch(fit)


def _epoch(fit: Fit) -> None:
    fit.saved = time.monotonic()  # the others' turns are no time in which it would have saved
    fit.train_epoch(0)
    fit.begun = type(fit.begun)()


def _resident(job: Job, *, last: bool) -> Callable[[], None]:
    """Return the same steps on one batch that lies in memory."""
    network = _fresh(job).network.to(processes().device).train()
    values, present = job.inputs.batch(np.arange(job.settings.batch_size))
    if last:  # an image of one channel lies both ways at once
        form = torch.channels_last if values["image"].ndim == 4 else torch.channels_last_3d
        for weight in network.parameters():
            if weight.ndim == values["image"].ndim:
                weight.data = weight.data.contiguous(memory_format=form)
    device = processes().device
    values, present = {name: x.to(device) for name, x in values.items()}, present.to(device)
    labels = torch.from_numpy(job.labels[: job.settings.batch_size]).float().to(device)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)

    def run() -> None:
        for _ in range(job.batches):
            _descend(network, optimizer, (values, present), labels)

    return run


def _descend(network: nn.Module, optimizer: Any, given: Any, labels: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss = nn.functional.binary_cross_entropy_with_logits(network(*given), labels)
    loss.backward()
    optimizer.step()
    loss.item()


def _monai(job: Job) -> Callable[[], None]:
    """Return one epoch as MONAI's tutorials write it, the images cached in memory, flipped at random."""
    from monai.data import CacheDataset, DataLoader
    from monai.transforms import Compose, EnsureTyped, RandFlipd

    network = _fresh(job).network.to(processes().device).train()
    rows = [
        {"image": np.asarray(image, np.float32), "records": record, "label": np.float32(label)}
        for image, record, label in zip(
            job.inputs.prepared["image"].array, job.inputs.prepared["records"].array, job.labels, strict=True
        )
    ]
    transforms = Compose([EnsureTyped(["image", "records"]), RandFlipd("image", 0.5, 0)])
    cached, size = CacheDataset(rows, transforms, progress=False), job.settings.batch_size
    loader = DataLoader(cached, batch_size=size, shuffle=True)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    device = processes().device

    def run() -> None:
        for batch in loader:
            values = {name: batch[name].as_tensor().to(device) for name in ("image", "records")}
            present = torch.ones(len(batch["label"]), 2, device=device)
            _descend(network, optimizer, (values, present), batch["label"].to(device))

    return run


def _seconds(run: Callable[[], None]) -> float:
    """Return CPU seconds; on a GPU those of the clock, since the processor only waits."""
    gpu = processes().device.type == "cuda"
    clock = time.perf_counter if gpu else time.process_time
    started = clock()
    run()
    if gpu:
        torch.cuda.synchronize()
    return clock() - started


def _has_bf16() -> bool:
    if processes().device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    processor = Path("/proc/cpuinfo")
    return processor.exists() and "avx512_bf16" in processor.read_text()


def _auroc() -> bool:
    """Fit the images of the synthetic cohort alone in both precisions, and compare out-of-fold."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = synthesize(place / "data", patients=COHORT)
        recipe = Path(__file__).parents[1] / "pipelines" / "synthetic_ct" / "recipe.yaml"
        (place / "recipe.yaml").write_text(recipe.read_text().replace("../../cohorts/synthetic", "data"))
        planned = plan(place, root=data)
        problem = assemble(
            planned.recipe, planned.cohort, planned.patients, work=place / "fits", cache=place / "cache"
        )
        fit = partial(_out_of_fold, problem, place)
        kinds: tuple[Precision, ...] = ("float32", "bf16")
        started, logits, spent = time.process_time(), {}, {}
        for precision in kinds:
            logits[precision] = fit(precision)
            spent[precision], started = time.process_time() - started, time.process_time()
    have = np.isfinite(logits["bf16"])
    folds = np.arange(len(have)) % FOLDS
    judged = verdict(
        problem.labels[have], folds[have], {"fused": logits["bf16"][have], "trees": logits["float32"][have]}
    )
    gain = judged.differences["trees"]
    assert gain is not None
    print(f"AUROC of the CT alone, synthetic cohort, {have.sum()} patients, {FOLDS} folds, {EPOCHS} epochs")
    print(f"  float32 {judged.aurocs['trees']} in {spent['float32']:.0f} CPU-s")
    print(f"  bf16    {judged.aurocs['fused']} in {spent['bf16']:.0f} CPU-s")
    holds = gain.lower <= 0 <= gain.upper
    told = f"{gain.value:+.4f} ({gain.lower:+.4f} to {gain.upper:+.4f})"
    print(f"  difference {told}: {'holds' if holds else 'DOES NOT HOLD'}")
    return holds


def _out_of_fold(problem: Any, place: Path, precision: Precision) -> np.ndarray:
    """Return the logits of the CT alone, NaN where a patient has none."""
    entry = problem.images["ct"]
    inputs, modality = Inputs({"ct": entry}), problem.modalities["ct"]
    settings = problem.recipe.fitting.model_copy(update={"precision": precision, "epochs": EPOCHS})
    logits = np.full(len(problem.labels), np.nan)
    rows = np.arange(len(logits))
    for fold in range(FOLDS):
        torch.manual_seed(fold)
        network = Network({"ct": unimodal(modality.encoder())}, Stack([1]))
        train, test = (
            rows[part & (entry.row_of >= 0)] for part in (rows % FOLDS != fold, rows % FOLDS == fold)
        )
        name = f"{precision}{fold}"
        augment = {"ct": modality.augment} if modality.augments else {}
        job = Job(name, network, inputs, problem.labels, train, train[:0], settings, fold, augment=augment)
        fit_network(job, place)
        logits[test] = predict(network, inputs, test)
    return logits


if __name__ == "__main__":
    main()
