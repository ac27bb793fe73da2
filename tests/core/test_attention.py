from typing import Any

import pytest
import timm
import torch

from stillhouse.core.attention import MOST_TOKENS, prefer_products

CPU = torch.device("cpu")


def tiny() -> Any:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=0).eval()


def test_both_forms_compute_the_same() -> None:
    fused, products, x = tiny(), tiny(), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    prefer_products(products, num_tokens=16, dtype=torch.bfloat16, device=CPU)
    assert [block.attn.fused_attn for block in products.blocks] == [False, False]
    with torch.inference_mode():
        torch.testing.assert_close(products(x), fused(x))


@pytest.mark.parametrize(
    ("num_tokens", "dtype", "device"),
    [(MOST_TOKENS + 1, torch.bfloat16, "cpu"), (16, torch.float32, "cpu"), (16, torch.bfloat16, "cuda")],
)
def test_elsewhere_the_fused_kernel_stays(num_tokens: int, dtype: torch.dtype, device: str) -> None:
    model = tiny()
    before = [block.attn.fused_attn for block in model.blocks]
    prefer_products(model, num_tokens=num_tokens, dtype=dtype, device=torch.device(device))
    assert [block.attn.fused_attn for block in model.blocks] == before
