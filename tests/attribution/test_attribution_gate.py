from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medmm.attribution.gate import GatePatient, GateReport, gate
from medmm.attribution.image import integrated_gradients
from medmm.encoders.image import image_encoder
from medmm.errors import ExplanationError
from medmm.evaluation.resampling import Estimate
from medmm.network.fusion import Concat, Stack
from medmm.network.network import Network

SIZE = 20
HERE = np.ones(1, dtype=bool)


def radiograph(seed: int, *, lesion: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy image with two dark distractors and perhaps a bright lesion, and the lesion's mask."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 0.1, (SIZE, SIZE))
    grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij"))

    def disk(radius: float) -> np.ndarray:
        centre = rng.uniform(4, SIZE - 4, 2)
        return ((grid - centre[:, None, None]) ** 2).sum(axis=0) < radius**2

    for _ in range(2):
        image[disk(2)] -= 1
    mask = disk(2.2) if lesion else np.zeros((SIZE, SIZE), dtype=bool)
    image[mask] = 1
    return image[None].astype(np.float32), mask


@pytest.fixture(scope="module")
def trained() -> Network:
    """A network that has learned to see the lesion."""
    torch.manual_seed(0)
    encoder = image_encoder("cnn", spatial_dims=2, in_channels=1, channels=(8, 16), dropout=0.0)
    network = Network({"film": encoder}, Concat([16], dropout=0.0))
    labels = np.arange(160) % 2
    images = torch.from_numpy(np.stack([radiograph(i, lesion=bool(y))[0] for i, y in enumerate(labels)]))
    target, optimiser = torch.from_numpy(labels).float(), torch.optim.AdamW(network.parameters(), lr=0.01)
    for step in range(120):
        rows = np.random.default_rng(step).choice(160, 32, replace=False)
        logits = network({"film": images[rows]}, torch.ones(32, 1))
        loss = nn.functional.binary_cross_entropy_with_logits(logits, target[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.3
    return network.eval()


def patients(count: int, *, lesion: bool = True, masks: bool = True) -> list[GatePatient]:
    drawn = [radiograph(1000 + i, lesion=lesion) for i in range(count)]
    return [GatePatient({"film": image}, HERE, mask if masks else None) for image, mask in drawn]


def row(report: GateReport, check: str) -> object:
    return next(row for row in report.rows if row.check == check)


class Contrast(nn.Module):
    """A logit that is the image's own energy: nothing in it was learned, so its map means nothing."""

    out_features = 1

    def forward(self, image: Tensor) -> Tensor:
        return (image**2).flatten(1).sum(dim=1, keepdim=True)


class Misleading(nn.Module):
    """Brightness on the left makes the logit, but the gradient points to the right."""

    out_features = 1

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(SIZE, SIZE))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)

    def forward(self, image: Tensor) -> Tensor:
        left, right = image[..., : SIZE // 2, :], image[..., SIZE // 2 :, :]
        hidden = (left.detach() ** 2).flatten(1).sum(dim=1, keepdim=True)
        shown = (right * self.weight[SIZE // 2 :]).flatten(1).sum(dim=1, keepdim=True)
        return hidden + 1e-3 * shown


def alone(encoder: nn.Module) -> Network:
    return Network(
        {"film": encoder}, Stack.of(slope=[1], shift=[0], weight=[1], presence_weight=[0], intercept=0)
    )


def test_a_network_that_sees_the_lesion_passes(trained: Network) -> None:
    report = gate(trained, patients(8), "film")
    assert report.passed
    assert [r.check for r in report.rows] == ["randomisation", "deletion", "finding"]
    assert row(report, "finding").figure > 4
    assert report.sentence.startswith("Sanity gate passed: rank correlation")


def test_without_masks_the_finding_is_not_asked(trained: Network) -> None:
    report = gate(trained, patients(6, masks=False), "film")
    assert [r.check for r in report.rows] == ["randomisation", "deletion"]


def test_four_patients_are_too_few_to_pass(trained: Network) -> None:
    report = gate(trained, patients(4), "film")
    assert not report.passed
    assert not any(r.passed for r in report.rows)


def test_nobody_at_all_is_no_pass(trained: Network) -> None:
    assert not gate(trained, [], "film").passed


def test_a_map_of_the_images_own_contrast_is_withheld() -> None:
    report = gate(alone(Contrast()), patients(6), "film")
    assert not row(report, "randomisation").passed
    assert row(report, "randomisation").figure == pytest.approx(1)
    assert not row(report, "finding").passed
    assert not report.passed
    assert report.sentence.startswith("Map withheld, sanity gate not passed: rank correlation")


def test_a_map_that_points_elsewhere_is_withheld() -> None:
    report = gate(alone(Misleading()), patients(8, masks=False), "film")
    assert not row(report, "deletion").passed
    assert not report.passed


def test_an_encoder_that_never_learned_misses_the_finding() -> None:
    torch.manual_seed(3)
    encoder = image_encoder("cnn", spatial_dims=2, in_channels=1, channels=(8, 16), dropout=0.0)
    report = gate(Network({"film": encoder}, Concat([16], dropout=0.0)).eval(), patients(10), "film")
    assert not row(report, "finding").passed
    assert not report.passed


def test_an_image_that_the_fusion_ignores_has_no_map_to_show(trained: Network) -> None:
    deaf = Stack.of(slope=[1], shift=[0], weight=[0], presence_weight=[0], intercept=0)
    report = gate(Network({"film": Contrast()}, deaf), patients(5), "film")
    assert not report.passed


def test_blank_images_do_not_pass(trained: Network) -> None:
    blank: Sequence[GatePatient] = [GatePatient({"film": np.zeros((1, SIZE, SIZE), np.float32)}, HERE)] * 6
    assert not gate(trained, blank, "film").passed


def test_the_gate_is_seeded_and_leaves_network_and_torch_alone(trained: Network) -> None:
    before = {name: x.clone() for name, x in trained.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = gate(trained, patients(5), "film", seed=4)
    assert torch.equal(torch.rand(3), expected)
    assert first == gate(trained, patients(5), "film", seed=4)
    assert all(torch.equal(x, before[name]) for name, x in trained.state_dict().items())


def test_a_patient_without_the_image_is_named_as_the_problem(trained: Network) -> None:
    with pytest.raises(ExplanationError, match="film: absent"):
        gate(trained, [GatePatient({}, np.zeros(1, dtype=bool))], "film")


def test_the_map_of_the_trained_network_lies_on_the_lesion(trained: Network) -> None:
    shares = []
    for patient in patients(6):
        found = integrated_gradients(trained, patient.inputs, HERE, "film")
        shares.append(np.abs(found.spatial)[patient.finding].sum() / np.abs(found.spatial).sum())
    assert np.median(shares) > 0.15


@pytest.mark.parametrize(
    ("auroc", "passed"),
    [
        (Estimate(0.75, 0.67, 0.84), True),
        (Estimate(0.55, 0.45, 0.64), False),
        (Estimate(0.3, 0.2, 0.4), False),
        (Estimate(float("nan"), float("nan"), float("nan")), False),
    ],
)
def test_an_image_that_ranks_nobody_has_no_map_to_show(
    trained: Network, auroc: Estimate, passed: bool
) -> None:
    report = gate(trained, patients(8), "film", skill=(auroc, 100))
    assert row(report, "skill").passed == report.passed == passed
    assert row(report, "skill").patients == 100
    if auroc.value == 0.55:
        assert report.sentence == (
            "Map withheld, sanity gate not passed: out-of-fold, the image alone has an AUROC of"
            " 0.55 (0.45 to 0.64) (its interval must lie above 0.5)."
        )
