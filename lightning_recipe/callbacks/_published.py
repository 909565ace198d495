"""Mean and standard deviation of the images that published weights were trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import nn

    Colours = tuple[float, ...]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Of torchvision's weights: its documentation, "Models and pre-trained weights"; ``IMAGENET_DEFAULT_MEAN`` and ``_STD``
of transformers."""
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""``IMAGENET_STANDARD_MEAN`` and ``_STD`` of transformers: from 0 to 1 to -1 to 1."""
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""A. Radford et al., Learning transferable visual models from natural language supervision (2021): their code."""
ROUNDING, SPREAD = 4e-3, 0.2
"""Shares: of a bound, the rounding of bfloat16; of a standard deviation, more than that of 32 uniform numbers is off by
chance, which is 0.45 / sqrt(32) = 0.08."""
CLASSES = 1000
"""Of ImageNet: rows of the last layer that came with the weights."""

OTHERWISE = ("torchvision.models.detection", "torchvision.models.video", "torchvision.models.optical_flow")
"""Detectors normalise by themselves; videos and pairs of images have other numbers."""
OF_TRANSFORMERS = {
    ("google", "vit"): HALVES,
    ("google", "siglip"): HALVES,
    ("google", "siglip_vision_model"): HALVES,
    ("microsoft", "beit"): HALVES,
    ("microsoft", "swin"): IMAGENET,
    ("microsoft", "swinv2"): IMAGENET,
    ("microsoft", "resnet"): IMAGENET,
    ("facebook", "deit"): IMAGENET,
    ("facebook", "convnext"): IMAGENET,
    ("facebook", "convnextv2"): IMAGENET,
    ("facebook", "dinov2"): IMAGENET,
    ("facebook", "vit_mae"): IMAGENET,
    ("openai", "clip"): CLIP,
    ("openai", "clip_vision_model"): CLIP,
}
"""By who published the weights and the ``model_type`` of their configuration, ``preprocessor_config.json`` beside them.
A ``vit`` of others is left out: DINO's and DeiT's are of this type, too, with other numbers."""


class Published(NamedTuple):
    """What a network was trained on.

    Attributes:
        mean: Of each channel; empty if nobody says so.
        std: The same.
        by: Who says so.

    """

    mean: Colours = ()
    std: Colours = ()
    by: str = ""


def published(root: nn.Module, name: str, *, by_class: bool = True) -> Published:
    """The mean and standard deviation that belong to the weights of a network.

    By what the network says: timm's have a dictionary ``pretrained_cfg``, those of transformers a configuration with
    the name that they were loaded by. Classes of torchvision say nothing of their weights: that these are torchvision's
    is told by a last layer that is new, or that of ImageNet. Classes are known by their module, nothing is imported.

    Args:
        root: The LightningModule.
        name: Of a layer of the network.
        by_class: Whether to say so of torchvision and transformers, too.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 1, 1))
        >>> net.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        >>> published(net, "0").mean, published(nn.Sequential(nn.ReLU()), "0").mean
        ((0.5, 0.5, 0.5), ())
        >>> VGG = type("VGG", (nn.Sequential,), {"__module__": "torchvision.models.vgg"})
        >>> published(VGG(nn.Conv2d(3, 8, 3), nn.Linear(8, 2)), "0").mean
        (0.485, 0.456, 0.406)

    """
    parts = name.split(".")
    around = [root.get_submodule(".".join(parts[:depth])) for depth in range(len(parts), -1, -1)]
    for told in (vars(module).get("pretrained_cfg") for module in around):
        if isinstance(told, dict) and told.get("mean") and told.get("std"):
            return Published(tuple(told["mean"]), tuple(told["std"]), "which it publishes")
    if not by_class:
        return Published()
    classes = [type(module).__module__ for module in around]
    if any(c.startswith("torchvision.models.") and not c.startswith(OTHERWISE) for c in classes):
        return Published(*IMAGENET, "as for torchvision's weights") if _is_new(root) else Published()
    configs = [vars(m).get("config") for m, c in zip(around, classes, strict=True) if c.startswith("transformers.")]
    return _of_transformers(configs)


def _of_transformers(configs: list[Any]) -> Published:
    """By the configurations around a layer, the nearest first; that of a part has no name, but the whole one's has."""
    kinds = [kind for config in configs if (kind := getattr(config, "model_type", ""))]
    names = [name for config in configs if (name := getattr(config, "_name_or_path", ""))]
    if not kinds or not names or names[0].count("/") != 1:
        return Published()
    colours = OF_TRANSFORMERS.get((names[0].partition("/")[0], kinds[0]))
    return Published() if colours is None else Published(*colours, f"as {names[0]} was trained with")


def _is_new(root: nn.Module) -> bool:
    """Whether the last weight is as torch draws those of its layers, or zero, or the one of ImageNet's classes.

    Torch's are uniform up to one over the root of the inputs of an output: a few steps of training take some beyond.
    """
    weights = [parameter.detach() for parameter in root.parameters() if parameter.ndim > 1]
    if not weights:
        return False
    last = weights[-1].flatten(1).float()
    bound, largest = last.shape[1] ** -0.5, float(last.abs().max())
    uniform = largest <= bound * (1 + ROUNDING) and abs(float(last.std()) * 3**0.5 / bound - 1) < SPREAD
    return len(last) == CLASSES or largest == 0 or uniform
