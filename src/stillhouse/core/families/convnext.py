"""ConvNeXt and ConvNeXt V2 (Liu et al. 2022, Woo et al. 2023).

cls is the mean over the map, through the final norm, as the release pools it; `patch` is the map before any norm.
"""

from torch import Tensor

from .base import IMAGENET, Family, Weights, renamed

RULES = (
    (r"downsample_layers\.0\.", "stem."),
    (r"downsample_layers\.(\d+)\.(\d+)\.", r"stages.\1.downsample.\2."),
    (r"stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"dwconv\.", "conv_dw."),
    (r"pwconv(\d)\.", r"mlp.fc\1."),
    (r"grn\.gamma$", "mlp.grn.weight"),
    (r"grn\.beta$", "mlp.grn.bias"),
    (r"^norm\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def rename_convnext(weights: Weights, wanted: Weights) -> dict[str, Tensor]:
    """Linear layers may be 1 x 1 convolutions in timm, and the vectors of GRN have leading axes in the release."""
    found = renamed(weights, RULES)
    for name, tensor in found.items():
        place = wanted.get(name)
        same_but_ones = place is not None and [n for n in place.shape if n > 1] == [n for n in tensor.shape if n > 1]
        if place is not None and same_but_ones:
            found[name] = tensor.reshape(place.shape)
    return found


CONVNEXT = Family(
    key="convnext",
    title="ConvNeXt",
    examples=(
        "convnext_tiny.fb_in22k",
        "convnext_base.fb_in22k",
        "convnext_large.fb_in22k",
        "convnextv2_base.fcmae_ft_in22k_in1k",
    ),
    licence="",  # MIT, and CC-BY-NC-4.0 for V2
    statistics=IMAGENET,
    marks=(r"downsample_layers\.0\.0\.weight",),
    classifier=r"head\.(weight|bias)",
    to_timm=rename_convnext,
)
