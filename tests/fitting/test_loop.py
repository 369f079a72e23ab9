from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medmm.encoders.mlp import TableEncoder
from medmm.errors import FittingError
from medmm.fitting import loop
from medmm.fitting.inputs import Inputs, Prepared
from medmm.fitting.loop import Job, fit_network, predict
from medmm.network.fusion import Stack
from medmm.network.network import Network, unimodal
from medmm.recipe import Fitting

PATIENTS = 300


def table(seed: int = 0) -> tuple[Inputs, np.ndarray]:
    """A table of four numbers; the label follows the first two, with noise."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(PATIENTS, 4)).astype(np.float32)
    logits = 2 * values[:, 0] - 1.5 * values[:, 1]
    labels = (rng.random(PATIENTS) < 1 / (1 + np.exp(-logits))).astype(float)
    prepared = Prepared(values, np.arange(PATIENTS), ("",) * PATIENTS)
    return Inputs({"records": prepared}), labels


def job(settings: Fitting, *, seed: int = 3, scale: float = 1.0) -> Job:
    inputs, labels = table()
    torch.manual_seed(seed)
    network = Network({"records": unimodal(TableEncoder(4, hidden=(16, 8), dropout=0.1))}, Stack([1]))
    entry = inputs.prepared["records"]
    scaled = Inputs({"records": Prepared(entry.array * np.float32(scale), entry.row_of, entry.absent)})
    rows = np.arange(PATIENTS)
    return Job("fold0/records", network, scaled, labels, rows[:120], rows[120:180], settings, seed)


def test_the_loop_learns_what_is_there(tmp_path):
    fitted = job(Fitting(epochs=40, learning_rate=1e-2))
    history = fit_network(fitted, tmp_path)
    logits = predict(fitted.network, fitted.inputs, np.arange(180, PATIENTS))
    labels = fitted.labels[180:]
    ranked = (logits[labels == 1][:, None] > logits[labels == 0][None, :]).mean()
    assert ranked > 0.8
    assert history.epochs[history.best_epoch]["select_loss"] == history.best_loss


def test_where_nobody_is_set_aside_every_epoch_runs(tmp_path):
    few = replace(job(Fitting(epochs=12, patience=1)), select=np.arange(0))
    history = fit_network(few, tmp_path)
    assert not history.early_stopping
    assert history.best_epoch == len(history.epochs) - 1 == 11


def test_a_modality_s_own_learning_rate_reaches_its_encoder_alone(tmp_path):
    fitted = replace(job(Fitting(epochs=1, learning_rate=1e-2)), multipliers={"records": 1e-9})
    before = {key: value.clone() for key, value in fitted.network.state_dict().items()}
    fit_network(fitted, tmp_path)
    for key, value in fitted.network.state_dict().items():
        assert torch.allclose(value, before[key], atol=1e-6), key


def test_two_runs_end_in_the_same_bits(tmp_path):
    first, second = (job(Fitting(epochs=6)) for _ in range(2))
    fit_network(first, tmp_path / "a")
    fit_network(second, tmp_path / "b")
    for key, value in first.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[key]), key


class Interrupted(Exception):
    pass


def test_a_killed_fit_resumes_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    whole, broken, resumed = (job(Fitting(epochs=8)) for _ in range(3))
    fit_network(whole, tmp_path / "whole")

    def stop(name: str, epoch: int, metrics: object) -> None:
        if epoch == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit_network(broken, tmp_path / "broken", on_epoch=stop)
    epochs: list[int] = []
    fit_network(resumed, tmp_path / "broken", on_epoch=lambda name, epoch, metrics: epochs.append(epoch))
    assert epochs[0] == 4
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[key]), key


def test_a_finished_fit_is_not_fitted_again(tmp_path):
    first, second = (job(Fitting(epochs=3)) for _ in range(2))
    history = fit_network(first, tmp_path)
    epochs: list[int] = []
    again = fit_network(second, tmp_path, on_epoch=lambda name, epoch, metrics: epochs.append(epoch))
    assert epochs == []
    assert again == history


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(FittingError, match="fold0/records: the loss is not finite"):
        fit_network(job(Fitting(epochs=3), scale=float("inf")), tmp_path)
    assert not list(tmp_path.rglob("done.safetensors"))


@pytest.mark.parametrize("damage", ["cut", "empty", "header", "history"])
def test_a_damaged_finished_fit_is_fitted_again(tmp_path, damage):
    first, second = (job(Fitting(epochs=3)) for _ in range(2))
    history = fit_network(first, tmp_path)
    file = tmp_path / "fold0" / "records" / "done.safetensors"
    content = file.read_bytes()
    if damage == "history":
        assert b"best_epoch" in content
        file.write_bytes(content.replace(b"best_epoch", b"best_opoch"))
    else:
        file.write_bytes({"cut": content[:-9], "empty": b"", "header": b"\xff" * 8 + content[8:]}[damage])
    epochs: list[int] = []
    again = fit_network(second, tmp_path, on_epoch=lambda name, epoch, metrics: epochs.append(epoch))
    assert epochs == [0, 1, 2]
    assert again == history
    assert file.read_bytes() == content
    for key, value in first.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[key]), key


def test_a_damaged_checkpoint_begins_the_fit_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    whole, broken = (job(Fitting(epochs=3)) for _ in range(2))
    fit_network(whole, tmp_path / "whole")
    place = tmp_path / "broken" / "fold0" / "records"
    place.mkdir(parents=True)
    (place / "checkpoint.safetensors").write_bytes(b"rubbish")
    epochs: list[int] = []
    fit_network(broken, tmp_path / "broken", on_epoch=lambda name, epoch, metrics: epochs.append(epoch))
    assert epochs == [0, 1, 2]
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, broken.network.state_dict()[key]), key
