"""Which network a state dict belongs to, and the network with these weights."""

import importlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segpipe.models.architectures.network import Network, Option
from segpipe.models.architectures.registry import ARCHITECTURES, build, parse
from segpipe.models.errors import ModelError
from segpipe.models.footprints.exported import REFUSALS, first_line
from segpipe.models.formats.layer_graph import layer_graph

SMP = "smp"
"""Name of all of segmentation-models-pytorch: `smp:arch=fpn,encoder=resnet34`."""

COUNTERS = "num_batches_tracked"
"""Buffers of batch norms that only training reads; old checkpoints lack them."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Another library's names for the tensors of an architecture of ours.

    `renames` are tried in this order on the start of a name, and the first that fits counts; names
    that start with one of `dropped` belong to parts that only training uses.
    """

    library: str
    architecture: str
    renames: Sequence[tuple[str, str]]
    dropped: tuple[str, ...] = ()

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict with our names."""
        return {
            self._rename(name): tensor
            for name, tensor in state.items()
            if not name.startswith(self.dropped)
        }

    def _rename(self, name: str) -> str:
        for theirs, ours in self.renames:
            found, count = re.subn(f"^{theirs}", ours, name)
            if count:
                return found
        return name


_UNET = (
    (r"decoder\.blocks\.(\d+)\.conv1\.(\d)\.", r"up.\1.\2."),
    (r"decoder\.blocks\.(\d+)\.conv2\.0\.", r"up.\1.3."),
    (r"decoder\.blocks\.(\d+)\.conv2\.1\.", r"up.\1.4."),
    (r"segmentation_head\.0\.", "score."),
)
LAYOUTS = (
    Layout(
        "torchvision",
        "fcn-resnet50",
        ((r"backbone\.", "encoder."), (r"classifier\.", "head.")),
        ("aux_classifier.",),
    ),
    Layout(
        "torchvision",
        "deeplabv3-resnet50",
        (
            (r"backbone\.", "encoder."),
            (r"classifier\.0\.convs\.4\.1\.", "pyramid.branches.4.project.0."),
            (r"classifier\.0\.convs\.4\.2\.", "pyramid.branches.4.project.1."),
            (r"classifier\.0\.convs\.", "pyramid.branches."),
            (r"classifier\.0\.project\.", "pyramid.project.0."),
            (r"classifier\.1\.", "head.0."),
            (r"classifier\.2\.", "head.1."),
            (r"classifier\.4\.", "head.3."),
        ),
        ("aux_classifier.",),
    ),
    Layout("segmentation-models-pytorch", "unet-resnet18", _UNET),
    Layout("segmentation-models-pytorch", "unet-resnet34", _UNET),
)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A state dict with the names of an architecture, which it may or may not fit.

    `wanted` are the architecture's own tensors, without memory, for two bands and two classes.
    """

    name: str
    options: Mapping[str, Option]
    state: Mapping[str, Tensor]
    wanted: Mapping[str, Tensor]

    def strangers(self) -> list[str]:
        """Names that only one side has."""
        wanted = {name for name in self.wanted if not name.endswith(COUNTERS)}
        found = {name for name in self.state if not name.endswith(COUNTERS)}
        return sorted(wanted ^ found)

    def misfits(self) -> list[str]:
        """Names of tensors that differ in more sizes than the one that bands or classes decide."""
        return [
            name
            for name, tensor in self.wanted.items()
            if name in self.state and _differing(tensor, self.state[name]) > 1
        ]


def _differing(one: Tensor, other: Tensor) -> int:
    if one.ndim != other.ndim:
        return max(one.ndim, other.ndim)
    return sum(a != b for a, b in zip(one.shape, other.shape, strict=True))


def _template(
    name: str, options: Mapping[str, Option], bands: int = 2, classes: int = 2
) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build(name, bands, classes, **options).state_dict()


def import_state(
    state: Mapping[str, Tensor],
    name: str | None = None,
    bands: int | None = None,
    classes: int | None = None,
) -> Network:
    """The network that has these weights, on the CPU and in fp32.

    Args:
        state: tensors by name, as the registered architectures, torchvision's `fcn_resnet50` and
            `deeplabv3_resnet50`, and segmentation-models-pytorch name them.
        name: a registered name, with options as `unet:depth=3`, or `smp:arch=A,encoder=E`; None
            for the one whose names fit.
        bands, classes: what the network has to take and give; None for what the weights say.

    Raises:
        ModelError: no network has such tensors; the message has the first that differs.
    """
    if name is not None and name.partition(":")[0] == SMP:
        return _from_smp(state, name, bands, classes)
    candidate = _nearest(_candidates(state, name))
    if strangers := candidate.strangers():
        raise _refusal(candidate, strangers, named=name is not None)
    own, options = candidate.name, candidate.options
    bands = _agreed("bands", candidate, bands, _template(own, options, bands=3))
    classes = _agreed("classes", candidate, classes, _template(own, options, classes=3))
    network = build(own, bands, classes, **options)
    _fill(network, candidate.state, own)
    return network


def _candidates(state: Mapping[str, Tensor], name: str | None) -> Iterator[_Candidate]:
    """The state dict as each architecture's, with our own names and with other libraries'."""
    options: Mapping[str, Option] = {}
    architectures = [one for one, entry in ARCHITECTURES.items() if not entry.required]
    if name is not None:
        own, options = parse(name)
        architectures = [own]
    for architecture in architectures:
        wanted = _template(architecture, options)
        yield _Candidate(architecture, options, state, wanted)
        for layout in LAYOUTS:
            if layout.architecture == architecture:
                yield _Candidate(architecture, options, layout.renamed(state), wanted)


def _nearest(candidates: Iterable[_Candidate]) -> _Candidate:
    """The first candidate that fits, or the one with the fewest strangers."""
    others: list[tuple[int, int, _Candidate]] = []
    for candidate in candidates:
        distance = len(candidate.strangers()), len(candidate.misfits())
        if distance == (0, 0):
            return candidate
        others.append((*distance, candidate))
    return min(others, key=lambda one: one[:2])[2]


def _refusal(candidate: _Candidate, strangers: Sequence[str], *, named: bool) -> ModelError:
    wanted = candidate.wanted
    missing = [name for name in strangers if name in wanted]
    stray = [name for name in strangers if name not in wanted]
    found = [
        f"{title} {names[0]!r:.80} and {len(names) - 1} more"
        if len(names) > 1
        else f"{title} {names[0]!r:.80}"
        for title, names in (("lacks", missing), ("has a stray", stray))
        if names
    ]
    advice = (
        "name the architecture that it was trained with"
        if named
        else "that is the nearest architecture; name the right one with --architecture, such as "
        "unet:depth=3,width=32 or smp:arch=fpn,encoder=resnet34"
    )
    return ModelError(f"the checkpoint {', '.join(found)} for {candidate.name}; {advice}")


def _agreed(
    title: str, candidate: _Candidate, wanted: int | None, other: Mapping[str, Tensor]
) -> int:
    """Bands or classes as the weights have them, if that is what is wanted.

    `other` is the template with one more of them, so that the first size that differs tells.
    """
    for name, tensor in candidate.wanted.items():
        for axis, (two, three) in enumerate(zip(tensor.shape, other[name].shape, strict=True)):
            shape = candidate.state[name].shape if name in candidate.state else ()
            if two == three or axis >= len(shape):
                continue
            if wanted not in (None, shape[axis]):
                raise ModelError(
                    f"the checkpoint has {shape[axis]} {title} ({name} is {list(shape)}), and "
                    f"{wanted} are named"
                )
            return int(shape[axis])
    raise ModelError(f"{candidate.name} doesn't tell its {title}; no such checkpoint can be read")


def _fill(network: nn.Module, state: Mapping[str, Tensor], title: str) -> None:
    own = network.state_dict()
    for name in sorted(own):
        if name not in state:
            if name.endswith(COUNTERS):
                continue
            raise ModelError(f"the checkpoint lacks {name!r:.80} for {title}")
        if own[name].shape != state[name].shape:
            raise ModelError(
                f"the checkpoint's {name} is {list(state[name].shape)}, {title} has "
                f"{list(own[name].shape)}"
            )
        own[name].copy_(state[name])
    if stray := sorted(name for name in state if name not in own and not name.endswith(COUNTERS)):
        raise ModelError(f"the checkpoint has a stray {stray[0]!r:.80} for {title}")


def _from_smp(
    state: Mapping[str, Tensor], text: str, bands: int | None, classes: int | None
) -> Network:
    """A network of segmentation-models-pytorch, traced so that running it needs no such library."""
    options = _smp_options(text)
    if bands is None or classes is None:
        raise ModelError(f"the weights of {text} don't tell bands and classes; name both")
    try:
        library = importlib.import_module("segmentation_models_pytorch")
    except ImportError as error:
        raise ModelError(
            f"{text} needs segmentation-models-pytorch: pip install 'segpipe[smp]'"
        ) from error
    try:
        network = library.create_model(
            options.pop("arch"),
            options.pop("encoder"),
            encoder_weights=None,
            in_channels=bands,
            classes=classes,
            **options,
        )
    except (*REFUSALS, ImportError) as error:
        raise ModelError(
            f"segmentation-models-pytorch can't build {text}: {first_line(error)}"
        ) from error
    _fill(network, state, text)
    # It would look at the image's size, which the stride settles.
    network.requires_divisible_input_shape = False
    return code_free(network, bands, classes)


def code_free(network: nn.Module, bands: int, classes: int) -> Network:
    """The network as a package can hold it, without its code.

    Raises:
        ModelError: it does what can't be stored.
    """
    try:
        return layer_graph(network, bands, classes)
    except ModelError as error:
        raise ModelError(
            f"{error}; export it with torch.onnx.export or torch.export.save (.pt2), and import "
            "that file"
        ) from error


def _smp_options(text: str) -> dict[str, Option]:
    pairs = [pair.partition("=") for pair in text.partition(":")[2].split(",")]
    options: dict[str, Option] = {
        key: int(value) if value.isdigit() else value for key, _, value in pairs
    }
    if not {"arch", "encoder"} <= options.keys() or not all(map(str, options.values())):
        raise ModelError(
            f"such a network is written as {SMP}:arch=fpn,encoder=resnet34, got {text}"
        )
    return options
