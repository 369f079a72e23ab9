from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medmm.fitting.partition import deal, select_set, set_aside

strata = st.lists(st.sampled_from(["a", "b", "c"]), min_size=6, max_size=60)


@given(strata, st.integers(2, 5), st.integers(0, 9))
def test_folds_differ_by_one_patient_at_most_in_every_stratum(labels, folds, seed):
    dealt = deal(labels, [f"{i:03}" for i in range(len(labels))], folds=folds, seed=seed)
    sizes = np.bincount(dealt, minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    for stratum in set(labels):
        within = np.bincount(dealt[np.array(labels) == stratum], minlength=folds)
        assert within.max() - within.min() <= 1


@given(strata, st.integers(0, 9), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(labels, seed, shuffle):
    keys = [f"{i:03}" for i in range(len(labels))]
    order = list(range(len(labels)))
    shuffle.shuffle(order)
    dealt = deal(labels, keys, folds=3, seed=seed)
    again = deal([labels[i] for i in order], [keys[i] for i in order], folds=3, seed=seed)
    assert [int(dealt[i]) for i in order] == again.tolist()


@given(st.integers(10, 200), st.integers(0, 9))
def test_the_share_of_each_class_is_set_aside(count, seed):
    labels = np.arange(count) % 3 == 0
    aside = set_aside(labels.astype(float), [str(i) for i in range(count)], share=0.2, seed=seed)
    for label in (True, False):
        members = labels == label
        assert aside[members].sum() == round(0.2 * members.sum())


def test_nobody_chooses_the_epoch_where_few_would_unless_the_recipe_asks():
    keys = [f"{i:03}" for i in range(200)]
    labels = (np.arange(200) % 4 == 0).astype(float)  # 50 events: 15 % of them are 8
    assert not select_set(labels, keys, share=None, seed=0).any()
    asked = select_set(labels, keys, share=0.2, seed=0)
    assert labels[asked].sum() == 10
    assert asked.sum() == 40
    assert not select_set(labels, keys, share=0.04, seed=0).any()  # two events choose nothing


def test_with_enough_of_each_class_some_choose_the_epoch():
    labels = (np.arange(400) % 2).astype(float)
    aside = select_set(labels, [f"{i:03}" for i in range(400)], share=None, seed=0)
    assert aside.sum() == 60
