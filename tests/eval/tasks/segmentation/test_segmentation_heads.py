"""Heads, losses and learning rates by their definition."""

import pytest
import torch
from torch import nn

from stillhouse.core.encoders import Encoder, create_timm
from stillhouse.core.errors import UsageError
from stillhouse.core.positions import Released
from stillhouse.eval.tasks.dense.features import at_size
from stillhouse.eval.tasks.segmentation.config import SegmentationConfig
from stillhouse.eval.tasks.segmentation.heads import LinearHead
from stillhouse.eval.tasks.segmentation.optimise import decayed_groups, encoder_layers, layer_of, lr_factor
from stillhouse.eval.tasks.segmentation.segmenter import Segmenter, blocks_of, pixel_loss
from stillhouse.eval.tasks.segmentation.upernet import UperNet


def vit(depth: int = 4) -> Encoder:
    torch.manual_seed(0)
    args = {"embed_dim": 24, "num_heads": 2, "patch_size": 8, "img_size": 32, "num_classes": 0}
    return Encoder(create_timm("vit_tiny_patch16_224", depth=depth, **args), "vit").eval().requires_grad_(False)


def cnn() -> Encoder:
    torch.manual_seed(0)
    return Encoder(create_timm("test_resnet", num_classes=0), "cnn").eval().requires_grad_(False)


def maps(*sizes: tuple[int, int, int]) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(2, *size, generator=draw) for size in sizes]


def config(**fields: object) -> SegmentationConfig:
    return SegmentationConfig(set="scenes", **fields)


@pytest.mark.parametrize("norm", [True, False])
def test_the_linear_head_is_one_matrix_over_all_maps(norm: bool) -> None:
    head, given = LinearHead([5, 3], 4, norm=norm), maps((5, 4, 4), (3, 2, 2))
    bias = head.classify.bias
    assert bias is not None
    nn.init.normal_(bias)
    wide = nn.functional.interpolate(given[1], size=(4, 4), mode="bilinear", align_corners=False)
    x = torch.cat([given[0], wide], dim=1)
    if norm:
        x = (x - x.mean(dim=(0, 2, 3), keepdim=True)) / (
            x.var(dim=(0, 2, 3), unbiased=False, keepdim=True) + 1e-5
        ).sqrt()
    expected = torch.einsum("bdhw,kd->bkhw", x, head.classify.weight[:, :, 0, 0]) + bias[:, None, None]
    logits, aux = head(given)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    assert aux is None and len(list(head.parameters())) == (4 if norm else 2)


def test_upernet_on_a_vit_answers_at_four_times_the_grid() -> None:
    head, given = UperNet([12] * 4, 5, pyramid=True, channels=12), maps(*[(12, 6, 8)] * 4)
    assert [tuple(level.shape[2:]) for level in head.neck(given)] == [(24, 32), (12, 16), (6, 8), (3, 4)]
    logits, aux = head(given)
    assert logits.shape == (2, 5, 24, 32) and aux is not None and aux.shape == (2, 5, 6, 8)
    assert head.eval()(given)[1] is None


def test_upernet_takes_the_pyramid_of_a_cnn_as_it_is() -> None:
    sizes = ((8, 16, 16), (16, 8, 8), (24, 4, 4), (32, 2, 2))
    logits, aux = UperNet([size[0] for size in sizes], 3, pyramid=False, channels=16)(maps(*sizes))
    assert logits.shape == (2, 3, 16, 16) and aux is not None and aux.shape == (2, 3, 4, 4)


def test_upernet_has_the_published_number_of_weights() -> None:
    """Proteus-S: neck, pools, laterals, smoothing, fusing, two classifiers; convolutions before a norm without bias."""
    d, k = 384, 150
    norm = 2 * d
    neck = 3 * (4 * d * d + d) + norm
    pools = 4 * (d * d + norm)
    rest = (5 * d * d * 9 + norm) + 3 * (d * d + norm) + 3 * (d * d * 9 + norm) + (4 * d * d * 9 + norm)
    aux = d * 256 * 9 + 512 + 256 * k + k
    head = UperNet([d] * 4, k, pyramid=True, channels=d)
    assert sum(p.numel() for p in head.parameters()) == neck + pools + rest + d * k + k + aux


def test_the_loss_is_divided_by_all_pixels() -> None:
    """Ignored ones add nothing and count all the same."""
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    mask[0, :2] = 255
    each = -logits.log_softmax(dim=1)
    expected = sum(
        float(each[b, mask[b, r, c], r, c])
        for b in range(2)
        for r in range(4)
        for c in range(4)
        if mask[b, r, c] != 255
    )
    assert float(pixel_loss(logits, mask)) == pytest.approx(expected / 32, rel=1e-5)


@pytest.mark.parametrize("encoder", [vit(), cnn()], ids=["vit", "cnn"])
def test_a_step_of_fine_tuning_lowers_the_loss_and_leaves_the_encoder_alone(encoder: Encoder) -> None:
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    torch.manual_seed(0)
    segmenter = Segmenter(encoder, config(preset="proteus_upernet", dropout=0, drop_path=0), 3, 64).train()
    x_BCHW = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    mask_BHW = (x_BCHW[:, 0] > 0).long()
    optimiser = torch.optim.SGD(segmenter.parameter_groups(), lr=0.05)
    first = segmenter.loss(x_BCHW, mask_BHW)
    first.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in segmenter.head.parameters())
    optimiser.step()
    assert segmenter.loss(x_BCHW, mask_BHW).item() < first.item()
    now = dict(segmenter.encoder.named_parameters())
    moved = [name for name, tensor in now.items() if "pos_embed" not in name and not torch.equal(tensor, before[name])]
    assert len(moved) > 10
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_a_trained_encoder_goes_on_from_its_own_positions() -> None:
    """Not from the released ones, which a frozen encoder is brought to another size from."""
    encoder = vit()
    encoder.released = Released(torch.zeros(1, 1 + 9, 24), "plain")
    trained = Segmenter(encoder, config(preset="proteus_upernet"), 3, 32).encoder
    assert trained.released is None and encoder.released is not None
    nn.init.ones_(trained.model.pos_embed)
    assert bool((at_size(trained, (32, 64)).model.pos_embed > 0.99).all())
    frozen = Segmenter(encoder, config(), 3, 48).encoder
    assert bool((frozen.model.pos_embed == 0).all())


def test_the_auxiliary_loss_has_its_weight() -> None:
    fields = {"preset": "proteus_upernet", "dropout": 0, "drop_path": 0}
    x_BCHW, mask_BHW = torch.randn(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.long)
    torch.manual_seed(0)
    segmenter = Segmenter(vit(), config(**fields), 3, 32).train()
    main, aux = segmenter.answers(x_BCHW)
    assert aux is not None
    expected = pixel_loss(main, mask_BHW) + 0.4 * pixel_loss(aux, mask_BHW)
    torch.testing.assert_close(segmenter.loss(x_BCHW, mask_BHW), expected)


def test_a_frozen_encoder_is_neither_trained_nor_put_into_training() -> None:
    encoder = cnn()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    segmenter = Segmenter(encoder, config(), 3, 32).train()
    segmenter.loss(torch.randn(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.long)).backward()  # type: ignore[no-untyped-call]
    assert not segmenter.encoder.training and segmenter.head.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in segmenter.encoder.parameters())
    groups = segmenter.parameter_groups()
    assert len(groups) == 1 and len(list(groups[0]["params"])) == 4  # type: ignore[call-overload]


def test_layer_decay_is_the_published_power() -> None:
    """0.65 ** (N + 2 - id - 1): N + 1 steps down at the embedding, none at the head."""
    encoder, head = vit(4), nn.Linear(2, 2)
    layers, last = encoder_layers(encoder)
    assert last == 5 and layers["patch_embed.proj.weight"] == layers["pos_embed"] == layers["cls_token"] == 0
    assert [layers[f"blocks.{i}.attn.qkv.weight"] for i in range(4)] == [1, 2, 3, 4] and layers["norm.weight"] == 5
    owner = {id(p): name for name, p in (*encoder.model.named_parameters(), *head.named_parameters())}
    seen = {}
    for group in decayed_groups(encoder, head, 0.05, 0.65):
        for parameter in group["params"]:
            name = owner[id(parameter)]
            seen[name] = group["scale"]
            layer = layers.get(name, last)
            assert group["scale"] == 0.65 ** (4 + 2 - layer - 1)
            assert group["weight_decay"] == (0.0 if parameter.ndim == 1 else 0.05)
    assert seen.keys() == set(owner.values()) and seen["pos_embed"] == 0.65**5 and seen["weight"] == 1.0
    assert layer_of("blocks.10.mlp.fc1.bias", 12) == 11 and layer_of("norm.bias", 12) == 13


def test_layers_of_a_cnn_grow_from_the_stem() -> None:
    layers, last = encoder_layers(cnn())
    assert layers["conv1.0.weight"] == 0 < layers["layer1.0.conv1.weight"] < layers["layer4.0.conv1.weight"] < last


def test_stochastic_depth_grows_over_the_blocks() -> None:
    segmenter = Segmenter(vit(5), config(preset="proteus_upernet", blocks=(0, 1, 3, 4)), 3, 32)
    rates = [block.drop_path2.drop_prob for block in segmenter.encoder.model.blocks]
    assert rates == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])


def test_learning_rates_of_both_frameworks() -> None:
    def of_dinov2(step: int) -> float:
        return lr_factor(step, 40_000, 1500, "start")

    assert of_dinov2(0) == pytest.approx(1e-6) and of_dinov2(750) == pytest.approx(0.5 * (1 - 750 / 40_000), rel=1e-5)
    assert of_dinov2(1500) == 1 - 1500 / 40_000 and of_dinov2(20_000) == 0.5

    def of_proteus(step: int) -> float:
        return lr_factor(step, 60_000, 1500, "warmup")

    assert of_proteus(0) == pytest.approx(1e-6) and of_proteus(1499) == of_proteus(1500) == 1
    assert of_proteus(59_999) == 0 and of_proteus(1500 + 29_249) == pytest.approx(0.5, abs=1e-4)
    assert lr_factor(0, 1, 0, "start") == lr_factor(0, 1, 0, "warmup") == 1


def test_blocks_of_the_presets() -> None:
    deep, shallow = vit(12), vit(4)
    assert blocks_of(deep, "last") == ("last",) and blocks_of(deep, "last_four") == (8, 9, 10, 11)
    assert blocks_of(deep, "proteus") == (3, 5, 7, 11) and blocks_of(shallow, "proteus") == (0, 1, 2, 3)
    assert blocks_of(cnn(), "proteus") == (1, 2, 3, 4) and blocks_of(deep, (0, 5)) == (0, 5)
    with pytest.raises(UsageError, match="UperNet reads four maps, and vit gives 1 of blocks: last; name four"):
        Segmenter(shallow, config(preset="proteus_upernet", blocks="last"), 3, 32)
