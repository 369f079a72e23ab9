from __future__ import annotations

import numpy as np
import torch

from medmm.columns import Status, Value
from medmm.fitting.pretraining.pool import Pool, Unlabelled
from medmm.fitting.pretraining.views import blank, chosen, corrupted, owners
from medmm.modalities.records import Records
from tests.fitting.pretraining.small_pretraining import FIELDS, drawn, problem


def test_replaced_fields_come_whole_from_the_donors_and_about_as_often_as_asked() -> None:
    """Two fields of two and one columns; donors hold what no row does."""
    owner = torch.tensor([0, 0, 1])
    rows, donors = torch.zeros(400, 3), torch.tensor([[1.0, 2, 3], [4.0, 5, 6]])
    found = corrupted(rows, owner, donors, 0.3, torch.Generator().manual_seed(1))
    pairs = {tuple(pair) for pair in found[:, :2].tolist()}
    assert pairs == {(0, 0), (1, 2), (4, 5)}
    assert set(found[:, 2].tolist()) == {0, 3, 6}
    for column in (0, 2):
        assert 0.22 < (found[:, column] > 0).float().mean() < 0.38


def test_hidden_are_known_fields_at_least_one_and_never_all() -> None:
    generator = torch.Generator().manual_seed(2)
    known = torch.rand(500, 4, generator=generator) < 0.5
    hidden = chosen(known, 0.3, generator)
    assert not (hidden & ~known).any()
    counts, had = hidden.sum(dim=1), known.sum(dim=1)
    assert (counts[had > 0] >= 1).all()
    assert (counts[had > 1] < had[had > 1]).all()
    assert (counts[had == 0] == 0).all()


def test_a_hidden_field_looks_like_a_missing_one() -> None:
    rows, _, _ = drawn(40, 1)
    records = Records("records", Records.Settings(), FIELDS).fit(rows)
    entries, width = records.entries(), records.shape[0]
    nobody = {name: Value(None, Status.MISSING) for name in FIELDS}
    assert blank(entries, width).tolist() == records.transform(nobody).tolist()
    names = np.array(records.feature_names)
    assert [names[entry.missing] for entry in entries] == [f"{name} missing" for name in FIELDS]
    owner = owners(records.players(), width)
    assert [names[(owner == k).numpy()][0].split("=")[0].split()[0] for k in range(4)] == list(FIELDS)


def test_a_pool_of_two_parts_is_drawn_as_one(tmp_path) -> None:
    given = problem(tmp_path)
    inputs = given.fitted(np.arange(64))[1]
    pool = Pool(((inputs, np.arange(10)), (inputs, np.arange(30, 40))))
    whole = Pool(((inputs, np.r_[0:10, 30:40]),))
    places = np.random.default_rng(0).permutation(20)
    (one, here), (other, there) = pool.batch(places), whole.batch(places)
    assert torch.equal(here, there)
    assert all(torch.equal(one[name], other[name]) for name in inputs.names)
    assert len(pool.kept(pool.present[:, 0])) == int(whole.present[:, 0].sum()) < len(pool) == 20
    assert len(pool.rows_of("ct")) == int(whole.present[:, 0].sum())


def test_unlabelled_of_a_family_or_site_that_is_scored_do_not_join() -> None:
    """Labelled: two of each site. Of site c nobody is labelled; a divided site keeps nobody apart."""
    others = Unlabelled({"records": list("abcd")}, {}, ["a", "b", "c", "own"], ["a", "a", "b", "b"])
    assert others.joining(np.array([0, 1])).tolist() == [0, 2, 3]
    assert others.joining(np.array([2, 3])).tolist() == [1, 2, 3]
    assert others.joined("records", np.array([0, 1])) == ["a", "c", "d"]
    assert others.joining(np.array([0, 2])).tolist() == others.joining(np.arange(4)).tolist() == [0, 1, 2, 3]
