from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medmm.encoders.image import ImageEncoder, Kind, image_encoder
from medmm.encoders.pretrained import load_pretrained
from medmm.encoders.vision_transformer import Patches
from medmm.errors import ConfigError


def fresh(kind: Kind = "cnn", seed: int = 0, channels: tuple[int, ...] = (4, 8)) -> ImageEncoder:
    torch.manual_seed(seed)
    patches = Patches((32, 32), patch=8, width=16, depth=1, heads=2)
    return image_encoder(
        kind, spatial_dims=2, in_channels=1, channels=channels, dropout=0.0, patches=patches
    ).eval()


def same(one: ImageEncoder, other: ImageEncoder) -> bool:
    image = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    return torch.equal(one(image), other(image))


def test_weights_of_the_same_encoder_are_taken(tmp_path: Path) -> None:
    one, other = fresh(seed=0), fresh(seed=1)
    save_file(one.state_dict(), tmp_path / "weights.safetensors")
    assert not same(one, other)
    assert load_pretrained(other, tmp_path / "weights.safetensors") == []
    assert same(one, other)


@pytest.mark.parametrize("kind", ["resnet10", "vit", "efficientnet-b0"])
def test_names_of_the_published_network_are_understood(kind: Kind, tmp_path: Path) -> None:
    one, other = fresh(kind, seed=0), fresh(kind, seed=1)
    names = one.published_as

    def published(name: str) -> str:
        start = next(own for own in names if name.startswith(own))
        return "module." + names[start] + name.removeprefix(start)

    tensors = {published(name): tensor for name, tensor in one.state_dict().items()}
    tensors |= {"module.fc.weight": torch.ones(2, 3)} if kind == "resnet10" else {}
    save_file(tensors, tmp_path / "published.safetensors")
    load_pretrained(other, tmp_path / "published.safetensors")
    assert same(one, other)


@pytest.mark.parametrize("strict", [True, False])
def test_another_shape_is_refused_in_one_line_that_names_the_tensor(strict: bool, tmp_path: Path) -> None:
    save_file(fresh(channels=(4, 6)).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(
        ConfigError, match=r"features\.1\.\S+ has shape \(6,.*this encoder's has \(8,"
    ) as refused:
        load_pretrained(fresh(), tmp_path / "w.safetensors", strict=strict)
    assert "\n" not in str(refused.value)


def test_missing_tensors_are_refused_unless_they_are_allowed_to_stay(tmp_path: Path) -> None:
    whole = fresh(seed=0).state_dict()
    part = {name: tensor for name, tensor in whole.items() if name.startswith("features.0")}
    save_file({**part, "features.0.running_mean": torch.zeros(4)}, tmp_path / "part.safetensors")
    with pytest.raises(ConfigError, match=r"missing \(features\.1.*1 are unexpected \(features\.0\.running"):
        load_pretrained(fresh(), tmp_path / "part.safetensors")
    other = fresh(seed=1)
    left = load_pretrained(other, tmp_path / "part.safetensors", strict=False)
    assert sorted([*left, *part]) == sorted(whole)
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in part.items())


def test_a_file_of_something_else_is_refused_even_when_not_strict(tmp_path: Path) -> None:
    save_file({"unrelated": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="of another network"):
        load_pretrained(fresh(), tmp_path / "other.safetensors", strict=False)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(tmp_path / "ran"),))

    (tmp_path / "weights.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ConfigError, match="never opened"):
        load_pretrained(fresh(), tmp_path / "weights.pt")
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    tensors = {name: tensor * torch.nan for name, tensor in fresh().state_dict().items()}
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(ConfigError, match="is not finite"):
        load_pretrained(fresh(), tmp_path / "nan.safetensors")
