from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from medmm.columns import FieldSpec, ImageSpec, Value
from medmm.encoders.mlp import TableEncoder
from medmm.errors import ConfigError
from medmm.modalities.image import Image, ImageSettings
from medmm.modalities.records import Records
from medmm.modalities.tables import TableSettings
from medmm.modality import stacked
from medmm.network.fusion import Stack, fusion
from medmm.network.network import Ensemble, Network, build, drop_modalities, unimodal

WIDTHS = {"a": 4, "b": 3}


class Seen(nn.Module):
    """An encoder that remembers the rows it was given."""

    out_features = 2

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(x)
        return x[:, :2]


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    encoders = {name: TableEncoder(width, (5, width), 0.0) for name, width in WIDTHS.items()}
    return Network(encoders, fusion("concat", list(WIDTHS.values()), hidden=(6,), dropout=0.0)).eval()


def batch(seed: int = 0, count: int = 7) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: torch.randn(count, width, generator=generator) for name, width in WIDTHS.items()}
    return inputs, torch.randint(0, 2, (count, 2), generator=generator).float()


def test_encoders_see_present_rows_only() -> None:
    seen = Seen()
    joined = Network({"a": seen}, fusion("concat", [2], hidden=(), dropout=0.0))
    x = torch.arange(12.0).view(4, 3)
    joined({"a": x}, torch.tensor([[1.0], [0], [1], [0]]))
    joined({"a": x}, torch.zeros(4, 1))
    joined({}, torch.zeros(4, 1))
    assert len(seen.rows) == 1
    assert torch.equal(seen.rows[0], x[[0, 2]])


def test_forward_is_encode_then_fuse() -> None:
    joined = network()
    inputs, present = batch()
    embeddings = {name: joined.encode(name, x) for name, x in inputs.items()}
    torch.testing.assert_close(joined(inputs, present), joined.fuse(embeddings, present))


@given(st.permutations(range(7)))
def test_a_patient_scores_the_same_in_any_company(order: list[int]) -> None:
    joined = network()
    inputs, present = batch()
    together = joined(inputs, present)
    shuffled = joined({n: x[order] for n, x in inputs.items()}, present[order])
    torch.testing.assert_close(shuffled, together[order], atol=1e-6, rtol=0)
    alone = joined({n: x[:1] for n, x in inputs.items()}, present[:1])
    torch.testing.assert_close(alone, together[:1], atol=1e-6, rtol=0)


def test_a_present_modality_without_input_is_refused() -> None:
    with pytest.raises(ValueError, match="'b' is present for 7"):
        network()({"a": torch.zeros(7, 4)}, torch.ones(7, 2))


def test_widths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="the fusion joins"):
        Network({"a": TableEncoder(3, (4,), 0.0)}, fusion("concat", [5]))
    with pytest.raises(ConfigError, match="ReLU has no integer out_features"):
        Network({"a": nn.ReLU()}, Stack([1]))


@given(st.integers(0, 1000))
def test_an_ensemble_is_the_mean_of_its_members(seed: int) -> None:
    members = [network(i) for i in range(3)]
    (inputs, present), (other, _), (third, _) = (batch(seed + i) for i in range(3))
    own = [inputs, {"a": inputs["a"], "b": other["b"]}, {"a": inputs["a"], "b": third["b"]}]
    joined = Ensemble.of(members, {"b": (3, 3, 3)})
    together = {"a": inputs["a"], "b": torch.cat([x["b"] for x in own], dim=1)}
    expected = torch.stack([m(x, present) for m, x in zip(members, own, strict=True)]).mean(0)
    torch.testing.assert_close(joined(together, present), expected, atol=1e-5, rtol=1e-5)
    assert joined.names == members[0].names


def test_members_of_an_ensemble_have_the_same_modalities() -> None:
    one = network()
    other = Network({"a": TableEncoder(4, (4,), 0.0)}, fusion("concat", [4]))
    with pytest.raises(ConfigError, match="same modalities"):
        Ensemble.of([one, other])
    with pytest.raises(ConfigError, match="2 encoders cannot share"):
        Ensemble.of([one, one], {"a": (1, 2, 3)})


def test_build_makes_single_networks_and_ensembles_from_modalities() -> None:
    rows = [{"age": Value(40.0 + i), "sex": Value("fm"[i % 2])} for i in range(12)]
    fields = {"age": FieldSpec(role="input", kind="number"), "sex": FieldSpec(role="input")}
    unfitted = Records("records", TableSettings(), fields)
    zones = Image(
        "zones", ImageSettings(shape=(8, 8, 8)), ImageSpec(dir="x", kind="label_map", labels=(1, 2))
    )
    records = stacked([unfitted.fit(rows[:6]), unfitted.fit([*rows[:6], *rows[:1]])])
    images = stacked([zones, zones])
    for kind, options in (("concat", {"hidden": (4,)}), ("late_stack", {})):
        single = build({"zones": zones, "records": unfitted.fit(rows)}, kind, options)
        logit = single({"zones": torch.zeros(2, 2, 8, 8, 8), "records": torch.zeros(2, 6)}, torch.ones(2, 2))
        assert logit.shape == (2,)
        both = build({"zones": images, "records": records}, kind, options, members=2).eval()
        logit = both({"zones": torch.zeros(2, 2, 8, 8, 8), "records": torch.zeros(2, 12)}, torch.ones(2, 2))
        assert logit.shape == (2,)


def test_unimodal_is_an_encoder_of_width_one() -> None:
    alone = unimodal(TableEncoder(4, (3,), 0.0))
    joined = Network({"a": alone}, Stack([1]))
    x = torch.randn(5, 4)
    assert torch.equal(joined({"a": x}, torch.ones(5, 1)), alone(x).squeeze(1))


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.2, 0.9, 0.999]))
def test_dropped_modalities_were_there_and_never_all_of_them(seed: int, share: float) -> None:
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]]).float()
    kept = drop_modalities(present, share, torch.Generator().manual_seed(seed))
    assert bool((kept <= present).all())
    assert kept.any(dim=1).tolist() == present.any(dim=1).tolist()
    assert torch.equal(kept, drop_modalities(present, share, torch.Generator().manual_seed(seed)))
    if share == 0:
        assert torch.equal(kept, present)


def test_modalities_are_dropped_at_the_stated_rate_and_rescued_evenly() -> None:
    present = torch.ones(20_000, 2)
    kept = drop_modalities(present, 0.2, torch.Generator().manual_seed(0))
    # Dropped alone with 0.2 · 0.8; both dropped, and then one of the two rescued, with 0.2².
    assert kept.mean(dim=0).tolist() == pytest.approx([1 - 0.2 + 0.02] * 2, abs=0.01)
