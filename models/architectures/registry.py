"""The names under which networks can be built, trained, saved and loaded."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from segpipe.models import converted
from segpipe.models.architectures.compact import CompactFCN
from segpipe.models.architectures.deeplab import DeepLabV3ResNet50
from segpipe.models.architectures.fcn import (
    FCNResNet50,
    fcn8s_alexnet,
    fcn8s_vgg16,
    fcn16s_alexnet,
    fcn16s_vgg16,
    fcn32s_alexnet,
    fcn32s_googlenet,
    fcn32s_vgg16,
)
from segpipe.models.architectures.layers import require
from segpipe.models.architectures.network import Architecture, Network, Option
from segpipe.models.architectures.segnet import SegNetVGG16
from segpipe.models.architectures.unet import UNet, unet_resnet18, unet_resnet34
from segpipe.models.converted import ConvertedClassifier
from segpipe.models.errors import ModelError
from segpipe.models.formats import layer_graph
from segpipe.models.formats.layer_graph import LayerGraph

MOST_BANDS = 1024
MOST_CLASSES = 255


@dataclass(frozen=True, slots=True)
class Entry:
    """A builder (bands, classes, and its options by keyword), and what it builds."""

    builder: Callable[..., Network]
    summary: str

    @property
    def options(self) -> dict[str, Option]:
        """The options that have a default, with it."""
        return {p.name: p.default for p in self._keywords if p.default is not p.empty}

    @property
    def required(self) -> tuple[str, ...]:
        """The options that have none: such a network is read from a package, never built anew."""
        return tuple(p.name for p in self._keywords if p.default is p.empty)

    @property
    def _keywords(self) -> list[inspect.Parameter]:
        parameters = inspect.signature(self.builder).parameters.values()
        return [p for p in parameters if p.kind is p.KEYWORD_ONLY]


ARCHITECTURES: Mapping[str, Entry] = MappingProxyType(
    {
        "fcn32s-vgg16": Entry(fcn32s_vgg16, "FCN-32s over VGG16"),
        "fcn16s-vgg16": Entry(fcn16s_vgg16, "FCN-16s over VGG16: one skip"),
        "fcn8s-vgg16": Entry(fcn8s_vgg16, "FCN-8s over VGG16: two skips"),
        "fcn32s-alexnet": Entry(fcn32s_alexnet, "FCN-32s over AlexNet"),
        "fcn16s-alexnet": Entry(fcn16s_alexnet, "FCN-16s over AlexNet: one skip"),
        "fcn8s-alexnet": Entry(fcn8s_alexnet, "FCN-8s over AlexNet: two skips"),
        "fcn32s-googlenet": Entry(fcn32s_googlenet, "FCN-32s over GoogLeNet"),
        "segnet-vgg16": Entry(SegNetVGG16, "SegNet over VGG16: max-unpooling or transposed"),
        "fcn-compact": Entry(CompactFCN, "a small FCN with skips, quick on a CPU"),
        "unet": Entry(UNet, "U-Net of any depth and width"),
        "unet-resnet18": Entry(unet_resnet18, "U-Net over ResNet18"),
        "unet-resnet34": Entry(unet_resnet34, "U-Net over ResNet34"),
        "fcn-resnet50": Entry(FCNResNet50, "FCN over ResNet50, output stride 8"),
        "deeplabv3-resnet50": Entry(
            DeepLabV3ResNet50, "DeepLabV3 over ResNet50; exact with the option pooling_window"
        ),
        layer_graph.NAME: Entry(LayerGraph, "any network of known layers, stored as data"),
        converted.NAME: Entry(ConvertedClassifier, "a classifier that became convolutional"),
    }
)


def parse(text: str) -> tuple[str, dict[str, Option]]:
    """Name and options of an architecture that is written as NAME or NAME:KEY=VALUE,KEY=VALUE.

    `unet:depth=3,width=32` gives ("unet", {"depth": 3, "width": 32}).

    Raises:
        ModelError: as `options_of`.
    """
    name, _, rest = text.partition(":")
    return name, options_of(name, rest.split(",") if rest else ())


def options_of(name: str, pairs: Iterable[str]) -> dict[str, Option]:
    """The options of an architecture from texts KEY=VALUE; whole numbers where the default is one.

    Raises:
        ModelError: the name or an option isn't known, or a text isn't of this form.
    """
    known = _entry(name).options
    options: dict[str, Option] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ModelError(f"an option of {name} is written as KEY=VALUE, got {pair!r:.80}")
        _require_known(name, [key])
        options[key] = _whole(key, value) if isinstance(known.get(key), int) else value
    return options


def names() -> tuple[str, ...]:
    """Every registered name of which a new network can be built."""
    return tuple(name for name, entry in ARCHITECTURES.items() if not entry.required)


def build(name: str, bands: int, classes: int, **options: Option) -> Network:
    """A new network (N, bands, H, W) to (N, classes, H, W), with random weights.

    It is made on torch's current device; under `torch.device("meta")` it takes no memory.

    Raises:
        ModelError: the name or an option isn't known, or a number is out of bounds.
    """
    return create(Architecture(name, bands, classes, options))


def create(architecture: Architecture) -> Network:
    """A new network of this architecture; options that it leaves out take their defaults.

    Raises:
        ModelError: as `build`.
    """
    name = architecture.name
    entry = _entry(name)
    require("bands", architecture.bands, 1, MOST_BANDS)
    require("classes", architecture.classes, 1, MOST_CLASSES)
    _require_known(name, architecture.options)
    if missing := sorted(set(entry.required) - set(architecture.options)):
        raise ModelError(f"{name} lacks the option {missing[0]!r}; it is read from packages only")
    whole = completed(architecture)
    network = entry.builder(whole.bands, whole.classes, **whole.options)
    network.architecture = whole
    return network


def completed(architecture: Architecture) -> Architecture:
    """The same architecture with the defaults of the options that it leaves out.

    Raises:
        ModelError: its name isn't known.
    """
    options = {**_entry(architecture.name).options, **architecture.options}
    return replace(architecture, options=options)


def _entry(name: str) -> Entry:
    entry = ARCHITECTURES.get(name)
    if entry is None:
        raise ModelError(f"no architecture is called {name!r:.80}; there are {', '.join(names())}")
    return entry


def _require_known(name: str, options: Iterable[str]) -> None:
    entry = _entry(name)
    known = (*entry.options, *entry.required)
    for option in sorted(set(options) - set(known)):
        listed = ", ".join(known) or "none"
        raise ModelError(f"{name} has no option {option!r:.80}; its options are: {listed}")


def _whole(key: str, value: str) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise ModelError(f"{key} is a whole number, got {value!r:.80}") from error
