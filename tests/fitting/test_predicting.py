from __future__ import annotations

import numpy as np
import pytest

from medmm.encoders.mlp import TableEncoder
from medmm.fitting.inputs import Inputs, Prepared
from medmm.fitting.predicting import predict
from medmm.network.fusion import fusion
from medmm.network.network import Network


@pytest.mark.parametrize(("outputs", "shape"), [(1, ()), (3, (3,))])
def test_nobody_has_logits_of_the_shape_that_somebody_has(outputs: int, shape: tuple[int, ...]) -> None:
    """Splits that are fitted ahead have nobody in their test."""
    network = Network({"a": TableEncoder(2, (4,), 0.0)}, fusion("concat", [4], outputs=outputs))
    inputs = Inputs({"a": Prepared(np.ones((5, 2), np.float32), np.arange(5), ("",) * 5)})
    assert predict(network, inputs, np.arange(5)).shape == (5, *shape)
    assert predict(network, inputs, np.arange(0)).shape == (0, *shape)
