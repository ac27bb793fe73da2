"""Encoders: every way a checkpoint can be wrong is told, and tokens are what the model computes."""

import hashlib
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from stillhouse.core.checkpoints import WRAPPERS, find_checkpoint, load_weights, read_weights
from stillhouse.core.encoders import (
    Encoder,
    EncoderConfig,
    build_encoder,
    create_timm,
    default_statistics,
    normalise,
    pick_device,
    weights_sha256,
)
from stillhouse.core.errors import ResourceError, UsageError

VIT = "vit_tiny_patch16_224"
ARGS: dict[str, Any] = {"embed_dim": 48, "depth": 3, "num_heads": 3, "patch_size": 8, "img_size": 32, "num_classes": 5}


def make(**fields: Any) -> Any:
    """A ViT of which every parameter is drawn."""
    torch.manual_seed(0)
    model = create_timm(VIT, **{**ARGS, **fields})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def saved(path: Path, model: nn.Module | Mapping[str, Tensor]) -> Path:
    tensors = model.state_dict() if isinstance(model, nn.Module) else model
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def config(path: Path | str, **fields: Any) -> EncoderConfig:
    return EncoderConfig(**{"model": VIT, "checkpoint": str(path), "model_args": ARGS, **fields})


def images(size: int = 32, num: int = 2) -> Tensor:
    drawn = np.random.Generator(np.random.PCG64(0)).normal(size=(num, 3, size, size))
    return torch.from_numpy(drawn.astype(np.float32))


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("vit_tiny_patch16_225", "vit_tiny_patch16_224"),
        ("resnet51", "resnet50"),
        ("tf_efficientnet_lite.in1k", "tf_efficientnet_lite4"),
        ("dinov2_vit_small", "vit_small_patch14_dinov2"),
    ],
)
def test_an_unknown_model_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        create_timm(name)
    assert caught.value.message == f"unknown model {name!r}"
    assert caught.value.hint.startswith("did you mean ") and near in caught.value.hint


def test_a_name_near_nothing_points_to_the_list() -> None:
    with pytest.raises(UsageError, match=r"unknown model '%%%'; `stillhouse models PATTERN` lists the known ones"):
        create_timm("%%%")


def test_arguments_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(UsageError) as caught:
        create_timm(VIT, no_such_argument=3)
    assert f"model '{VIT}' with {{'no_such_argument': 3}}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_local_folder_that_is_not_there_is_a_resource(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"the weights of 'local-dir:.*' cannot be fetched: .*; set `checkpoint`"):
        create_timm(f"local-dir:{tmp_path / 'absent'}", pretrained=True)


# --- finding and reading checkpoints ----------------------------------------------------------------------------------


def test_checkpoints_are_found_by_path_and_in_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some_package" / "weights" / "w.pth"
    path.parent.mkdir(parents=True)
    (tmp_path / "some_package" / "__init__.py").write_text("raise RuntimeError('a package is not imported for a file')")
    path.write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_checkpoint(str(path)) == path
    assert find_checkpoint("package:some_package/weights/w.pth") == path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_checkpoint("~/some_package/weights/w.pth") == path


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("/no/such/file.pth", "checkpoint /no/such/file.pth: no such file; name a .safetensors or .pth file"),
        ("package:timm/none.pth", "checkpoint package:timm/none.pth: no such file; name a .safetensors or .pth file"),
        (
            "package:no_such_thing/w.pth",
            "the package 'no_such_thing' is not installed; install the package that has it",
        ),
        (
            "package:no_such.thing/w.pth",
            "the package 'no_such.thing' is not installed; install the package that has it",
        ),
        ("package:/w.pth", "the package '' is not installed"),
        ("package:this/w.pth", "the package 'this' is not installed"),  # a module, not a package
    ],
)
def test_what_cannot_be_found_is_a_resource(where: str, message: str) -> None:
    with pytest.raises(ResourceError) as caught:
        find_checkpoint(where)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("wrapper", [None, *WRAPPERS])
def test_weights_are_found_inside_known_wrappers(tmp_path: Path, wrapper: str | None) -> None:
    weights = {"a": torch.ones(2), "b": torch.zeros(1)}
    torch.save(weights if wrapper is None else {"epoch": 3, wrapper: weights}, tmp_path / "w.pth")
    found = read_weights(tmp_path / "w.pth")
    assert found.keys() == weights.keys() and torch.equal(found["a"], weights["a"])


@pytest.mark.parametrize("content", [[torch.ones(1)], {"a": 3}, {}, {"state_dict": {"a": "text"}}, torch.ones(2)])
def test_what_is_not_a_mapping_of_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"w.pth is not a mapping of names to tensors"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.99])
def test_a_checkpoint_that_is_cut_short_is_refused(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"w.{ending}"
    weights = {"a": torch.randn(100)}
    if ending == "pth":
        torch.save(weights, path)
    else:
        safetensors.torch.save_file(weights, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UsageError, match=rf"checkpoint .*/w.{ending} cannot be read: .*; is it whole\?"):
        read_weights(path)


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "b": Trap(tmp_path / "sprung")}, tmp_path / "zip.pth")
    with open(tmp_path / "bare.pth", "wb") as file:
        pickle.dump(Trap(tmp_path / "sprung"), file)
    for name in ("zip", "bare"):
        with pytest.raises(UsageError, match=rf"checkpoint .*/{name}.pth cannot be read"):
            read_weights(tmp_path / f"{name}.pth")
    assert not (tmp_path / "sprung").exists()


# --- loading weights --------------------------------------------------------------------------------------------------


def test_weights_that_fit_are_loaded(tmp_path: Path) -> None:
    model = make()
    encoder = build_encoder(config(saved(tmp_path / "w.safetensors", model)))
    assert torch.equal(encoder.model.forward_features(images()), model.forward_features(images()))
    assert not encoder.training and not any(parameter.requires_grad for parameter in encoder.parameters())
    assert encoder(images()).cls_BD.shape == (2, 48)  # the classifier is gone


def test_everything_that_does_not_fit_is_reported(tmp_path: Path) -> None:
    weights = make().state_dict()
    del weights["norm.weight"], weights["cls_token"]
    weights |= {"extra.0": torch.ones(1), "extra.1": torch.ones(1), "head.bias": torch.ones(7)}
    with pytest.raises(UsageError) as caught:
        build_encoder(config(saved(tmp_path / "w.safetensors", weights)))
    assert str(caught.value) == (
        f"checkpoint {tmp_path}/w.safetensors is not for this model: 2 missing (cls_token, norm.weight); "
        "2 unexpected (extra.0, extra.1); 1 of another shape (head.bias); check `model` and `keys`"
    )


def test_many_are_counted_and_the_first_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"9 unexpected \(x0, x1, x2, x3, …\)"):
        build_encoder(
            config(saved(tmp_path / "w.safetensors", make().state_dict() | {f"x{i}": torch.ones(1) for i in range(9)}))
        )


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"other.{i:03d}": tensor for i, tensor in enumerate(weights.values())}


def test_keys_in_order_map_by_position(tmp_path: Path) -> None:
    """The order is the file's own, as a state dict is saved: .pth keeps it."""
    model = make()
    torch.save(renamed(model.state_dict()), tmp_path / "w.pth")
    encoder = build_encoder(config(tmp_path / "w.pth", keys="in_order"))
    assert torch.equal(encoder.model.forward_features(images()), model.forward_features(images()))
    with pytest.raises(UsageError, match="missing"):
        build_encoder(config(tmp_path / "w.pth"))


def test_keys_in_order_need_the_same_number(tmp_path: Path) -> None:
    weights = renamed(make().state_dict())
    num = len(weights)
    weights.popitem()
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(UsageError) as caught:
        build_encoder(config(tmp_path / "w.pth", keys="in_order"))
    message = f"checkpoint {tmp_path}/w.pth has {num - 1} tensors, the model {num}; they cannot map in order"
    assert str(caught.value) == message


def test_keys_in_order_need_the_same_shapes(tmp_path: Path) -> None:
    weights = renamed(make().state_dict())
    weights["other.005"] = torch.ones(3)
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"1 of another shape \(blocks.0.norm1.bias\)"):
        build_encoder(config(tmp_path / "w.pth", keys="in_order"))


@pytest.mark.parametrize("fields", [{}, {"reg_tokens": 2}, {"no_embed_class": True}])
def test_position_embeddings_are_resampled_as_timm_does(tmp_path: Path, fields: dict[str, Any]) -> None:
    """A checkpoint of 32 pixels for views of 48: what timm's own loading gives, and its features."""
    model = make(**fields)
    args = {key: value for key, value in {**ARGS, **fields}.items() if key != "img_size"}
    encoder = build_encoder(config(saved(tmp_path / "w.safetensors", model), model_args=args), image_size=48)
    theirs = create_timm(
        VIT, pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "w.safetensors")}, **args, img_size=48
    ).eval()
    assert encoder(images(48)).grid == (6, 6)
    assert torch.equal(encoder.model.pos_embed, theirs.pos_embed)
    assert torch.equal(encoder.model.forward_features(images(48)), theirs.forward_features(images(48)))


@pytest.mark.parametrize("rule", ["plain", "antialias", "offset"])
def test_timms_own_weights_are_resampled_by_a_rule_that_is_named(tmp_path: Path, rule: str) -> None:
    """They are loaded at the size they were released for, 7 x 7 patches here, and come onto 3 x 3 by the rule."""
    args = {key: value for key, value in ARGS.items() if key != "img_size"} | {"patch_size": 32}
    path = saved(tmp_path / "w.safetensors", make(patch_size=32, img_size=224))
    released = {**args, "pretrained_cfg_overlay": {"file": str(path)}}
    named = EncoderConfig.model_validate({"model": VIT, "model_args": released, "positions": rule})
    one = build_encoder(named, image_size=96)
    other = build_encoder(config(path, model_args=args, positions=rule), image_size=96)
    assert one(images(96)).grid == (3, 3)
    assert weights_sha256(one) == weights_sha256(other)


def test_position_embeddings_that_cannot_be_resampled_are_reported(tmp_path: Path) -> None:
    weights = make().state_dict()
    for shape in ((1, 18, 48), (1, 17, 96), (17, 48)):
        weights["pos_embed"] = torch.ones(shape)
        with pytest.raises(UsageError, match=r"1 of another shape \(pos_embed\)"):
            build_encoder(config(saved(tmp_path / "w.safetensors", weights)))


def test_loading_changes_nothing_when_it_fails() -> None:
    model, weights = make(), make().state_dict()
    before = weights_sha256(model)
    with pytest.raises(UsageError):
        load_weights(model, {name: tensor + 1 for name, tensor in weights.items() if name != "norm.bias"}, "w")
    assert weights_sha256(model) == before


# --- identity ---------------------------------------------------------------------------------------------------------


def test_the_hash_sees_every_tensor_and_one_weight() -> None:
    model = create_timm("test_efficientnet", num_classes=0)
    before = weights_sha256(model)
    assert weights_sha256(model) == before
    seen = {before}
    for tensor in model.state_dict().values():
        tensor.view(-1)[-1] += 1
        seen.add(weights_sha256(model))
    assert len(seen) == 1 + len(model.state_dict())


def test_the_hash_is_sha256_over_names_types_shapes_and_bytes() -> None:
    module = nn.Linear(2, 1)
    digest = hashlib.sha256()
    for name, shape in (("bias", "(1,)"), ("weight", "(1, 2)")):
        digest.update(f"{name} torch.float32 {shape}\n".encode())
        digest.update(module.state_dict()[name].numpy().tobytes())
    assert weights_sha256(module) == digest.hexdigest()
    assert weights_sha256(module.bfloat16()) != digest.hexdigest()


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args", "size", "grid", "vit"),
    [
        (VIT, ARGS, 32, (4, 4), True),
        (VIT, {**ARGS, "reg_tokens": 3}, 32, (4, 4), True),
        (VIT, {**ARGS, "img_size": (32, 48)}, (32, 48), (4, 6), True),
        (VIT, {**ARGS, "class_token": False, "global_pool": "avg"}, 32, (4, 4), True),
        ("test_resnet", {}, 96, (3, 3), False),
        ("test_efficientnet", {}, (64, 96), (2, 3), False),
        ("test_convnext", {}, 64, (2, 2), False),
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2, "depths": (1, 1, 1, 1)}, 64, (2, 2), False),
    ],
)
def test_any_model_gives_cls_and_a_grid(
    name: str, args: dict[str, Any], size: int | tuple[int, int], grid: tuple[int, int], vit: bool
) -> None:
    model = create_timm(name, **{**args, "num_classes": 0}).eval()
    encoder = Encoder(model, name)
    height, width = (size, size) if isinstance(size, int) else size
    x_BCHW = torch.randn(2, 3, height, width)
    with torch.no_grad():
        tokens = encoder(x_BCHW)
        assert torch.equal(tokens.cls_BD, model(x_BCHW))
        feats = model.forward_features(x_BCHW)
    assert encoder.is_vit == vit
    assert tokens.grid == grid
    assert tokens.patch_BTD.shape == (2, grid[0] * grid[1], model.num_features)
    if vit:
        assert torch.equal(tokens.patch_BTD, feats[:, model.num_prefix_tokens :])
    else:
        where = feats[:, :, 0, 1] if getattr(model, "output_fmt", "NCHW") == "NCHW" else feats[:, 0, 1]
        assert torch.equal(tokens.patch_BTD[:, 1], where)  # rows from the top, each from the left


def test_the_last_blocks_of_a_vit_are_its_blocks_after_the_norm() -> None:
    model = make(num_classes=0)
    with torch.no_grad():
        x = model.patch_embed.proj(images()).flatten(2).transpose(1, 2)
        x = torch.cat([model.cls_token.expand(2, 1, -1), x], dim=1) + model.pos_embed
        expected = []
        for block in model.blocks:
            x = block(x)
            expected.append(model.norm(x))
        for num in (1, 2, 3, 9):
            cls, patch_BTD = Encoder(model, VIT).last_blocks(images(), num)
            assert len(cls) == min(num, 3)
            for found, normed in zip(cls, expected[-num:], strict=True):
                torch.testing.assert_close(found, normed[:, 0])
            torch.testing.assert_close(patch_BTD, expected[-1][:, 1:])
        torch.testing.assert_close(cls[-1], Encoder(model, VIT)(images()).cls_BD)


@pytest.mark.parametrize(("name", "args"), [("test_resnet", {}), (VIT, {"class_token": False, "global_pool": "avg"})])
def test_a_model_without_cls_has_one_block(name: str, args: dict[str, Any]) -> None:
    encoder = Encoder(create_timm(name, **{**(ARGS if name == VIT else {}), **args, "num_classes": 0}).eval(), name)
    with torch.no_grad():
        cls, patch_BTD = encoder.last_blocks(images(), 4)
        tokens = encoder(images())
    assert len(cls) == 1
    assert torch.equal(cls[0], tokens.cls_BD) and torch.equal(patch_BTD, tokens.patch_BTD)


@pytest.mark.parametrize("given", [None, 48])
def test_vits_are_built_for_the_size_of_the_views(tmp_path: Path, given: int | None) -> None:
    args = {key: value for key, value in ARGS.items() if key != "img_size"}
    size = given or 224
    path = saved(tmp_path / "w.safetensors", make(img_size=size))
    encoder = build_encoder(config(path, model_args=args), image_size=given)
    assert encoder(images(size)).grid == (size // 8, size // 8)


# --- pixels and devices -----------------------------------------------------------------------------------------------


def test_normalise_is_the_textbook_formula() -> None:
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (3, 4, 5, 3), np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = normalise(pixels, mean, std, torch.device("cpu"))
    expected = ((pixels.astype(np.float64) / 255 - mean) / std).transpose(0, 3, 1, 2)
    assert found.dtype == torch.float32 and found.shape == (3, 3, 4, 5)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_default_statistics_are_the_models_own() -> None:
    assert default_statistics(Encoder(create_timm(VIT, **ARGS), VIT)) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert default_statistics(Encoder(nn.Identity(), "none")) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(ResourceError, match=r"device 'cuda:1': no CUDA device is visible; use device: cpu or auto"):
        pick_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")
