"""Models of your own: `module:factory` names a function that returns one, in place of a name that timm knows.

It is called with `model_args` and returns a `torch.nn.Module` that has a part of timm's interface:

    forward_features(x)                     pixels, normalised, [B, 3, H, W] -> a map [B, D, h, w]; or tokens [B, N, D], and then
                                            it has `num_prefix_tokens`, how many come before the patches, and
                                            `patch_embed.patch_size`, (height, width)
    forward_head(features, pre_logits)      -> cls [B, D]; with pre_logits false, and `num_classes` above 0, logits
    pretrained_cfg                          may be there: a mapping with the `mean` and `std` of its pixels
    forward_intermediates, feature_info     may be there, as in timm, for levels of single blocks

It sees each image for itself, whatever else is in the batch. `stillhouse.stage1_extract.testing.TeacherTests` checks this.
"""

import importlib
import re
from typing import Any

from torch import nn

from .errors import UsageError, missing_package

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_HUBS = ("hf-hub:", "hf_hub:", "local-dir:")
OF_TIMM_ALONE = frozenset({"num_classes", "pretrained"})


def is_factory(name: str) -> bool:
    """True for `module:factory`; hubs' names have a colon too."""
    return not name.startswith(_HUBS) and _FACTORY.fullmatch(name) is not None


def find_factory(name: str) -> Any:
    """The function; nothing but its module's import is run.

    Raises:
        ResourceError: no such module.
        UsageError: the module has no such function.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        raise missing_package(str(error.name)) from error
    if not callable(found):
        raise UsageError(f"module {module!r} has no function {function!r}", hint="name it as module:function")
    return found


def from_factory(name: str, args: dict[str, Any]) -> nn.Module:
    """What the function makes of `args`, those that only timm's models take left out."""
    model = find_factory(name)(**{key: value for key, value in args.items() if key not in OF_TIMM_ALONE})
    if not isinstance(model, nn.Module) or not hasattr(model, "forward_features") or not hasattr(model, "forward_head"):
        message = f"{name} returned {type(model).__name__}, a model has `forward_features` and `forward_head`"
        raise UsageError(message, hint="see the models of timm, whose interface it is")
    return model
