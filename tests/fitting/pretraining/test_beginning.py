from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from medmm.columns import FieldSpec
from medmm.errors import ConfigError, FittingError
from medmm.fitting.candidates import fit_split
from medmm.fitting.pretraining import loop
from medmm.fitting.pretraining.beginning import check, lesson_for, pretrained_on_split
from medmm.fitting.pretraining.learners import LEARNERS
from medmm.fitting.pretraining.loop import pretrain
from medmm.modalities.records import Records
from tests.fitting.pretraining.small_pretraining import drawn, problem, recipe

EVERYBODY = np.arange(64)


def lesson(given, train=EVERYBODY, name="pretraining"):
    return lesson_for(given, train, name, *given.fitted(train))


def same(one, other) -> bool:
    return all(torch.equal(t, other[n][k]) for n, tensors in one.items() for k, t in tensors.items())


@pytest.mark.parametrize("objective", LEARNERS)
def test_stopped_after_any_step_it_ends_in_the_same_bits(tmp_path, monkeypatch, objective) -> None:
    given = problem(tmp_path, recipe(objective), unlabelled=16)
    whole, history = pretrain(lesson(given), tmp_path / "whole")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    descend = loop._Run._descend
    for step in (1, 4):

        def stopping(self, places, at, stop=step):
            if at == stop:
                raise KeyboardInterrupt
            return descend(self, places, at)

        monkeypatch.setattr(loop._Run, "_descend", stopping)
        with pytest.raises(KeyboardInterrupt):
            pretrain(lesson(given), tmp_path / f"{step}")
        monkeypatch.setattr(loop._Run, "_descend", descend)
        again, told = pretrain(lesson(given), tmp_path / f"{step}")
        assert same(whole, again)
        assert told == history


def test_a_contrastive_run_finds_the_table_of_an_image_it_has_not_seen(tmp_path) -> None:
    """Images and tables share one hidden number; of 56 new patients, chance finds one in 56."""
    asked = recipe(settings={"epochs": 60, "corruption": 0.1})
    given = problem(tmp_path, asked, patients=128)
    train = np.arange(64)
    first = lesson(given, train)
    _, history = pretrain(first, tmp_path)
    unseen = lesson(given, np.arange(64, 128)).pool
    first.learner.eval()
    with torch.no_grad():
        _, found = first.learner.loss(unseen.batch(np.arange(len(unseen))), torch.Generator().manual_seed(0))
    assert history.epochs[-1]["loss"] < 0.8 * history.epochs[0]["loss"]
    assert found["retrieved"] > 4 / len(unseen)


@pytest.mark.parametrize(("objective", "least"), [("contrastive", 0.05), ("simclr", 0.02)])
def test_a_line_through_what_was_learned_tells_more_of_the_unseen(tmp_path, objective, least) -> None:
    """Of the hidden number that the image shows, against the same encoder as it was drawn."""
    asked = recipe(objective, settings={"epochs": 60})
    given = problem(tmp_path, asked, patients=192)
    train, test = np.arange(96), np.arange(96, 192)
    first = lesson(given, train)
    hidden = drawn(192, 3)[2]

    def told() -> float:
        encoder = first.learner.encoders["ct"].eval()
        inputs = given.fitted(train)[1].only(["ct"])
        parts = []
        for rows in (train, test):
            have = rows[inputs.present[rows, 0]]
            with torch.no_grad():
                vectors = encoder(inputs.batch(have)[0]["ct"]).double().numpy()
            parts.append((vectors, hidden[have]))
        (known, target), (unseen, truth) = parts
        centre, spread = known.mean(axis=0), known.std(axis=0) + 1e-9
        known, unseen = ((x - centre) / spread for x in (known, unseen))
        weights = np.linalg.solve(
            known.T @ known + np.eye(known.shape[1]), known.T @ (target - target.mean())
        )
        left = truth - target.mean() - unseen @ weights
        return 1 - float((left**2).mean() / truth.var())

    before = told()
    pretrain(first, tmp_path)
    assert told() > before + least


def test_masked_columns_learn_what_the_others_tell(tmp_path) -> None:
    """Each field follows the hidden number, so a hidden one can be told far better than by its mean."""
    asked = recipe("masked_columns", settings={"epochs": 40})
    _, history = pretrain(lesson(problem(tmp_path, asked)), tmp_path)
    assert history.epochs[-1]["loss"] < 0.6 * history.epochs[0]["loss"]


def test_simclr_tells_the_views_of_one_image_from_others(tmp_path) -> None:
    _, history = pretrain(lesson(problem(tmp_path, recipe("simclr", settings={"epochs": 25}))), tmp_path)
    assert history.epochs[-1]["retrieved"] > 4 / 28


@pytest.mark.parametrize("objective", LEARNERS)
def test_what_is_pretrained_never_sees_the_test_fold(tmp_path, objective) -> None:
    """Changing inputs and labels of the test patients changes no bit of what the encoders begin with."""
    train, test = np.arange(48), np.arange(48, 64)
    asked = recipe(objective, settings={"epochs": 1})
    one = problem(tmp_path / "a", asked, unlabelled=16)
    other = problem(tmp_path / "b", asked, unlabelled=16)
    other.labels[:] = 1 - other.labels
    other.images["ct"].array[test] = 1
    for index in test:
        other.rows["records"][index]["age"] = other.rows["records"][0]["age"]
    weights = [pretrained_on_split(given, train, "fold0", *given.fitted(train))[0] for given in (one, other)]
    assert same(*weights)
    fewer = replace(one, unlabelled=None, work=tmp_path / "c")
    assert not same(weights[0], pretrained_on_split(fewer, train, "fold0", *fewer.fitted(train))[0])


def test_unlabelled_patients_of_a_site_that_is_scored_are_not_seen(tmp_path) -> None:
    """Of two sites one is scored: no bit depends on what its unlabelled patients have."""
    train, site = np.arange(32), ["east"] * 32 + ["west"] * 32
    given = problem(tmp_path / "a", recipe("masked_columns", settings={"epochs": 1}), unlabelled=16)
    others = replace(given.unlabelled, beside=site, wholes=["east", "west"] * 8)
    begun = [replace(given, unlabelled=others)]
    for name, places in (("b", range(1, 16, 2)), ("c", range(0, 16, 2))):
        rows = [
            row | {"age": others.rows["records"][0]["age"]} if k in places else row
            for k, row in enumerate(others.rows["records"])
        ]
        begun.append(replace(given, unlabelled=replace(others, rows={"records": rows}), work=tmp_path / name))
    weights = [pretrained_on_split(one, train, "fold0", *one.fitted(train))[0] for one in begun]
    states = [one.fitted(train)[0]["records"].state() for one in begun]
    assert same(weights[0], weights[1])
    assert states[0] == states[1]
    assert not same(weights[0], weights[2])


def test_nobody_is_left_alone_in_a_batch(tmp_path) -> None:
    given = problem(tmp_path, recipe("masked_columns", settings={"batch_size": 2}), patients=7)
    assert lesson(given, np.arange(7)).batches == 3
    assert lesson(given, np.arange(2)).batches == 1


def test_a_split_begins_with_the_weights_and_fits_from_there(tmp_path) -> None:
    frozen = recipe(fitting={"epochs": 1, "learning_rate": 1e-12, "weight_decay": 0})
    given = problem(tmp_path, frozen)
    split = fit_split(given, np.arange(48), np.arange(48, 64), "fold0")
    weights, _ = pretrained_on_split(given, np.arange(48), "fold0", *given.fitted(np.arange(48)))
    for name in ("ct", "records"):
        state = split.networks["fused"].encoders[name].state_dict()
        assert state.keys() == weights[name].keys()
        for key, tensor in weights[name].items():
            assert torch.allclose(state[key], tensor, atol=1e-6)
    assert len(split.histories["fold0/pretraining"].epochs) == 3


def refusal(given) -> str:
    with pytest.raises((ConfigError, FittingError)) as refused:
        check(given, *given.fitted(EVERYBODY))
    text = str(refused.value)
    assert "\n" not in text
    return text


def test_what_cannot_be_pretrained_is_refused_in_one_line(tmp_path) -> None:
    given = problem(tmp_path)
    nobody = replace(given.images["ct"], row_of=np.where(EVERYBODY == 0, 0, -1))
    assert "1 of 64 training patients have an image and a table" in refusal(
        replace(given, images={"ct": nobody})
    )
    still = problem(tmp_path, recipe("simclr", augmented=False))
    assert re.search("two random views of ct.*without `augment`", refusal(still))
    alone = {"records": given.modalities["records"]}
    assert "learns from an image" in refusal(replace(given, modalities=alone))
    one = {"age": FieldSpec(role="input", kind="number")}
    narrow = {"records": Records("records", Records.Settings(), one)}
    asked = recipe("masked_columns", modalities={"records": {"kind": "records"}})
    assert "records has 1; give it more fields" in refusal(
        replace(given, recipe=asked, modalities=narrow, images={})
    )
    tokens = recipe(fusion={"kind": "tab_cross_attn"})
    assert "takes the fields of records one by one" in refusal(problem(tmp_path, tokens))
