"""The bins head by hand, the shapes and layers of both transformer heads, and who may use them."""

import pytest
import torch
from torch import nn

from stillhouse.core.errors import UsageError
from stillhouse.eval.tasks.dense.features import Maps
from stillhouse.eval.tasks.depth.dpt import Dpt
from stillhouse.eval.tasks.depth.heads import BinsHead, with_cls


def some_maps(widths: list[int], grid: tuple[int, int] = (5, 7), num: int = 2) -> Maps:
    generator = torch.Generator().manual_seed(0)
    return Maps(
        tuple(torch.randn(num, width, *grid, generator=generator) for width in widths),
        tuple(torch.randn(num, width, generator=generator) for width in widths),
    )


def test_the_expected_bin_by_hand() -> None:
    """Bins at 1, 2 and 3 m; logits 0.9, -5 and 0.4 become weights 1.0, 0.1 and 0.5."""
    head = BinsHead([2], min_depth=1.0, max_depth=3.0, num_bins=3)
    with torch.no_grad():
        head.conv.weight.zero_()
        head.conv.bias.copy_(torch.tensor([0.9, -5.0, 0.4]))  # type: ignore[union-attr]
        depth = head(Maps((torch.randn(1, 1, 2, 3),), (torch.randn(1, 1),)))
    assert depth.shape == (1, 1, 8, 12)
    torch.testing.assert_close(depth, torch.full_like(depth, (1.0 * 1 + 0.1 * 2 + 0.5 * 3) / 1.6))


def test_every_patch_sees_the_cls_token_of_its_block() -> None:
    """The channels are block 0's map, block 0's cls, block 1's map, block 1's cls."""
    maps, head = some_maps([4, 4]), BinsHead([8, 8], min_depth=0.001, max_depth=10, num_bins=16)
    up = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
    wide = [part for each, cls in zip(maps.maps, maps.cls, strict=True)
            for part in (up(each), cls[:, :, None, None].expand(-1, -1, 20, 28))]  # fmt: skip
    logits = nn.functional.conv2d(torch.cat(wide, dim=1), head.conv.weight, head.conv.bias)
    weights = (logits.relu() + 0.1) / (logits.relu() + 0.1).sum(1, keepdim=True)
    by_hand = (weights * torch.linspace(0.001, 10, 16)[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(head(maps), by_hand, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm) for module in head.modules())
    assert with_cls(maps.maps[0], maps.cls[0]).shape == (2, 8, 5, 7)


@pytest.mark.parametrize("grid", [(4, 6), (5, 7), (1, 1)])
@pytest.mark.parametrize("normalised", [False, True])
def test_dpt_is_as_fine_as_published(grid: tuple[int, int], normalised: bool) -> None:
    torch.manual_seed(0)
    head, maps = Dpt([(16, 16)] * 4, normalised=normalised, min_depth=0.001).eval(), some_maps([16] * 4, grid)
    with torch.no_grad():
        depth = head(maps)
    times = 8 if normalised else 16
    even = [side + side % 2 for side in grid]
    assert depth.shape == (2, 1, times * even[0], times * even[1])
    assert normalised or depth.min() >= 0.001


def test_dpts_differ_as_published() -> None:
    plain, normal = (Dpt([(64, 64)] * 4, normalised=each, min_depth=0.001) for each in (False, True))
    assert [level.narrow.out_channels for level in plain.levels] == [8, 16, 32, 64]  # type: ignore[union-attr]
    assert all(level.readout[0].in_features == 128 for level in plain.levels)  # type: ignore[index,union-attr]
    norms = [[m for m in head.modules() if isinstance(m, nn.BatchNorm2d)] for head in (plain, normal)]
    assert (len(norms[0]), len(norms[1])) == (
        0,
        2 * (4 + 3) + 1,
    )  # two a residual, four blocks and three skips; one more
    last = [m for m in normal.output.modules() if not isinstance(m, nn.Sequential)]
    assert [type(m) for m in last] == [nn.Dropout2d, nn.Conv2d]


def test_the_readout_reads_the_cls_token() -> None:
    head, maps = Dpt([(8, 8)] * 4, normalised=False, min_depth=0.001).eval(), some_maps([8] * 4)
    with torch.no_grad():
        before = head.levels[0](maps.maps[0], maps.cls[0])
        assert not torch.equal(before, head.levels[0](maps.maps[0], maps.cls[0] + 1))


def test_dpt_needs_four_blocks() -> None:
    with pytest.raises(UsageError, match="dpt reads 4 blocks, got 3"):
        Dpt([(8, 8)] * 3, normalised=False, min_depth=0.001)
