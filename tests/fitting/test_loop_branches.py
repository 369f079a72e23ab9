from __future__ import annotations

import numpy as np
import pytest
import torch

from medmm.encoders.mlp import TableEncoder
from medmm.fitting import loop
from medmm.fitting.inputs import Inputs, Prepared
from medmm.fitting.loop import Job, fit_network, predict, withheld
from medmm.fitting.losses import Objective
from medmm.fitting.own_losses import OwnLosses
from medmm.fitting.processes import processes
from medmm.network.fusion import fusion
from medmm.network.network import Network
from medmm.recipe import Fitting

PATIENTS = 200


def job(epochs: int = 8, **more: float) -> Job:
    """Two tables; the label follows the first alone, and a fifth of the patients lack the second."""
    rng = np.random.default_rng(0)
    known, noise = (rng.normal(size=(PATIENTS, 3)).astype(np.float32) for _ in range(2))
    labels = (rng.random(PATIENTS) < 1 / (1 + np.exp(-3 * known[:, 0]))).astype(float)
    rows = np.arange(PATIENTS)
    none = ("",) * PATIENTS
    inputs = Inputs(
        {"known": Prepared(known, rows, none), "noise": Prepared(noise, np.where(rows % 5, rows, -1), none)}
    )
    torch.manual_seed(1)
    encoders = {name: TableEncoder(3, (8,), 0.0) for name in inputs.names}
    network = Network(encoders, fusion("concat", [8, 8]))
    settings = Fitting(epochs=epochs, learning_rate=1e-2)
    return Job(
        "fold0/fused",
        network,
        inputs,
        labels,
        rows[:140],
        rows[140:],
        settings,
        3,
        modality_dropout=0.2,
        **more,
    )


def test_withheld_logits_are_those_of_a_patient_without_the_modality():
    given = job()
    whole, without = withheld(given.network, given.inputs, given.select, batch_size=7)
    assert np.array_equal(whole, withheld(given.network, given.inputs, given.select, batch_size=7)[0])
    assert whole == pytest.approx(predict(given.network, given.inputs, given.select), abs=1e-6)
    for k, name in enumerate(given.inputs.names):
        entry = given.inputs.prepared[name]
        absent = given.inputs.replace({name: Prepared(entry.array, np.full(PATIENTS, -1), entry.absent)})
        assert without[k] == pytest.approx(predict(given.network, absent, given.select), abs=1e-6)


def test_a_joint_fit_says_by_what_each_modality_helps(tmp_path):
    last = fit_network(job(epochs=25), tmp_path).epochs[-1]
    assert set(last) == {"loss", "select_loss", "gain.known", "gain.noise"}
    assert last["gain.known"] > 0 > last["gain.noise"]  # the noise was learned by heart


@pytest.mark.parametrize("more", [{"auxiliary": 0.5}, {"modulate": 0.3}])
def test_heads_of_their_own_have_curves_and_leave_no_trace(tmp_path, more):
    fitted = job(epochs=25, **more)
    names = list(fitted.network.state_dict())
    last = fit_network(fitted, tmp_path).epochs[-1]
    assert last["loss.known"] < 0.6 < last["loss.noise"]
    assert last["select_loss.known"] < 0.6 < last["select_loss.noise"]
    assert list(fitted.network.state_dict()) == names
    again = job(epochs=25, **more)
    fit_network(again, tmp_path)  # taken from done.safetensors
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            fitted.network.state_dict().values(), again.network.state_dict().values(), strict=True
        )
    )


def test_without_them_a_fit_is_what_it_was_to_the_last_bit(tmp_path):
    plain, watched, taught = job(), job(modulate=0.3), job(auxiliary=0.5)
    for name, given in (("plain", plain), ("watched", watched), ("taught", taught)):
        fit_network(given, tmp_path / name)
    again = job(auxiliary=0.0, modulate=0.0)
    fit_network(again, tmp_path / "again")
    states = [given.network.state_dict() for given in (plain, again, watched, taught)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    for other in states[2:]:
        assert not all(torch.equal(states[0][key], other[key]) for key in states[0])


class Interrupted(Exception):
    pass


def test_a_killed_fit_with_heads_resumes_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    whole, broken, resumed = (job(auxiliary=0.4, modulate=0.2) for _ in range(3))
    fit_network(whole, tmp_path / "whole")

    def stop(name: str, epoch: int, metrics: object) -> None:
        if epoch == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit_network(broken, tmp_path / "broken", on_epoch=stop)
    fit_network(resumed, tmp_path / "broken")
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[key]), key


def test_the_auxiliary_loss_is_the_mean_over_the_modalities_by_hand():
    given = job(auxiliary=0.5)
    losses = OwnLosses(given, Objective(given.tasks, given.labels[given.train], imbalance="none"))
    patients = np.array([0, 1, 2, 3])
    labels = given.labels[patients]
    own = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0], [-1.0, 3.0]])
    present = torch.tensor([[1.0, 1], [1, 0], [0, 0], [1, 1]])
    cross = np.log1p(np.exp(-(2 * labels[:, None] - 1) * own.numpy()))
    expected = 0.5 * np.mean([cross[[0, 1, 3], 0].mean(), cross[[0, 3], 1].mean()])
    assert float(losses.loss(own, present, patients)) == pytest.approx(expected, rel=1e-5)
    assert losses.means("loss", processes()) == pytest.approx(
        {"loss.known": cross[[0, 1, 3], 0].mean(), "loss.noise": cross[[0, 3], 1].mean()}, rel=1e-5
    )


def test_where_nobody_is_set_aside_some_who_are_trained_on_are_watched(tmp_path):
    few = job(epochs=25)
    few = Job(**{name: getattr(few, name) for name in few.__slots__} | {"select": few.select[:0]})
    last = fit_network(few, tmp_path).epochs[-1]
    assert set(last) == {"loss", "gain.known", "gain.noise"}
    assert last["gain.known"] > last["gain.noise"]
