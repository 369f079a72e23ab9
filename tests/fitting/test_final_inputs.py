from __future__ import annotations

import json

import pytest

from medmm.bundle import preprocess_json, write_json
from medmm.columns import FieldSpec, Value
from medmm.errors import BundleError
from medmm.fitting.final_inputs import check_read_back
from medmm.fitting.inputs import Inputs, prepare_table
from medmm.modalities.records import Records
from medmm.modalities.tables import TableSettings


def test_a_bundle_that_would_exchange_columns_is_not_sealed(tmp_path):
    fields = {name: FieldSpec(role="input", kind="number") for name in ("weight", "age")}
    rows = [{"weight": Value(70.0), "age": Value(50.0)}, {"weight": Value(90.0), "age": Value(20.0)}]
    fitted = Records("records", TableSettings(), fields).fit(rows)
    inputs = Inputs({"records": prepare_table(fitted, rows)})
    told = preprocess_json({"records": fitted})
    write_json(tmp_path / "preprocess.json", told)
    check_read_back(tmp_path, {"records": rows}, inputs)
    (tmp_path / "preprocess.json").write_text(json.dumps(told, sort_keys=True))
    with pytest.raises(BundleError, match="records prepares patients otherwise"):
        check_read_back(tmp_path, {"records": rows}, inputs)
