from __future__ import annotations

import numpy as np
import pytest
import torch

from medmm.columns import FieldSpec, Value
from medmm.encoders.mlp import CategoryVectors, TableEncoder, width_of
from medmm.errors import ConfigError
from medmm.modalities.records import Records
from medmm.modalities.tables import TableEncoderSettings, TableSettings
from medmm.network.export import TOLERANCE, disagreement, graph_of

FIELDS = {
    "ward": FieldSpec(role="input", kind="category", label="Ward"),
    "age": FieldSpec(role="input", kind="number"),
    "sex": FieldSpec(role="input", kind="category"),
}
EMBEDDING = TableEncoderSettings(hidden=(3,), dropout=0.0, categories="embedding")


def patient(ward: str, age: float, sex: str) -> dict[str, Value]:
    return {"ward": Value(ward), "age": Value(age), "sex": Value(sex)}


TRAIN = [patient("abc"[i % 3], 40.0 + i, "fm"[i % 2]) for i in range(12)]


def fitted(block: TableEncoderSettings = EMBEDDING) -> Records:
    return Records("records", TableSettings(encoder=block), FIELDS).fit(TRAIN)


def test_the_layer_by_hand() -> None:
    layer = CategoryVectors(6, [range(1, 4), range(4, 6)])
    assert [tuple(v.shape) for v in layer.vectors] == [(3, 2), (2, 1)]
    with torch.no_grad():
        layer.vectors[0].copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        layer.vectors[1].copy_(torch.tensor([[7.0], [8.0]]))
    rows = torch.tensor([[0.5, 0, 1, 0, 0, 1], [-2.0, 0, 0, 1, 1, 0], [9.0, 1, 0, 0, 0, 1]])
    assert layer(rows).tolist() == [[0.5, 3, 4, 8], [-2.0, 5, 6, 7], [9.0, 1, 2, 8]]
    assert layer.out_features == 4


@pytest.mark.parametrize(("levels", "width"), [(2, 1), (4, 2), (5, 3), (98, 49), (99, 50), (5000, 50)])
def test_the_width_is_half_the_levels_and_fifty_at_most(levels: int, width: int) -> None:
    assert width_of(levels) == width


def test_every_level_an_unseen_one_and_an_absent_one_have_a_vector_each() -> None:
    records = fitted()
    layer = records.encoder().layers[0]
    assert isinstance(layer, CategoryVectors)
    names = records.feature_names
    tables = dict(zip((names[start] for start, _ in layer.places), layer.vectors, strict=True))
    assert {name: tuple(table.shape) for name, table in tables.items()} == {
        "ward=a": (5, 3),
        "sex=f": (4, 2),
    }
    seen = [patient(ward, 45.0, "m") for ward in "abc"] + [
        patient("never", 45.0, "m"),
        patient("", 45.0, "m"),
    ]
    rows = torch.from_numpy(np.stack([records.transform(row) for row in seen]))
    assert torch.equal(layer(rows)[:, -5:-2], tables["ward=a"])


def test_a_field_stays_one_player_whose_change_the_encoder_sees() -> None:
    records = fitted()
    ward = records.players()[0]
    assert (ward.label, ward.columns) == ("Ward", (0, 1, 2, 3, 4))
    assert records.feature_names == fitted(TableEncoderSettings()).feature_names
    encoder = records.encoder().eval()
    rows = torch.from_numpy(np.stack([records.transform(patient(ward, 45.0, "m")) for ward in "ab"]))
    one, other = encoder(rows + 0.0)
    assert encoder.out_features == 3
    assert not torch.equal(one, other)


def test_vectors_of_categories_export_and_agree_with_torch() -> None:
    records = fitted(TableEncoderSettings(categories="embedding"))
    encoder = records.encoder().eval()
    rows = {"records": torch.from_numpy(np.stack([records.transform(row) for row in TRAIN[:5]]))}
    assert disagreement(encoder, graph_of(encoder, rows, "embedding"), rows) <= TOLERANCE


def test_one_hot_is_the_default_and_begins_with_the_weights_it_always_had() -> None:
    torch.manual_seed(0)
    encoder = fitted(TableEncoderSettings()).encoder()
    torch.manual_seed(0)
    assert isinstance(encoder, TableEncoder)
    assert torch.equal(encoder.layers[0].weight, torch.nn.Linear(11, 32).weight)


def test_a_setting_that_could_do_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="a setting of the mlp"):
        TableEncoderSettings(kind="ft_transformer", categories="embedding")
    with pytest.raises(ConfigError, match="no input of kind `category`"):
        Records("records", TableSettings(encoder=EMBEDDING), {"age": FIELDS["age"]})
