"""From a classifier of whole images to a package that labels every pixel with it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segpipe.models.architectures.classifiers import CLASSIFIERS, Classifier
from segpipe.models.card import ModelCard
from segpipe.models.converted import Agreement, compare, labelling
from segpipe.models.convolutionalize import convert as convert_graph
from segpipe.models.errors import ModelError
from segpipe.models.footprint import Footprint
from segpipe.models.formats.checkpoint import read_state
from segpipe.models.formats.layer_graph import trace
from segpipe.models.package import PackageExistsError, SegmentationModel, save
from segpipe.pipeline.storage import reported
from segpipe.workflows.cards import describe
from segpipe.workflows.code import from_code, is_code

USUAL_SIDE = 224
"""Side in pixels of the images that classifiers take, if nobody says otherwise."""

_BANDS, _CLASSES = 3, 21
"""Of classifiers that are built without weights and without names."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A package that was made of a classifier, and what one pass over an image is worth.

    Attributes:
        package: the folder.
        card: as it stands in the package.
        parameters: how many numbers training can change.
        side: of the classifier's crops, in pixels.
        stride: pixels from one score to the next.
        footprint: of the network that labels pixels.
        padded: layers by which crops differ from one pass; without any the scores are the same.
        agreement: the scores of one pass beside those of crops, on noise.
        warnings: what the user should know.
    """

    package: Path
    card: ModelCard
    parameters: int
    side: int
    stride: int
    footprint: Footprint
    padded: tuple[str, ...]
    agreement: Agreement
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The conversion as `segpipe convert --json` prints it."""
        return {
            "package": str(self.package),
            "name": self.card.name,
            "parameters": self.parameters,
            "bands": list(self.card.bands),
            "classes": [info.name for info in self.card.classes],
            "side": self.side,
            "stride": self.stride,
            "footprint": self.footprint.to_dict(),
            "padded": list(self.padded),
            "agreement": asdict(self.agreement),
            "warnings": list(self.warnings),
        }


def convert(
    classifier: str | nn.Module,
    *,
    output: str | Path,
    side: int | None = None,
    weights: str | Path | None = None,
    card_file: Path | None = None,
    band_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    colors: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    window: int | None = None,
    overwrite: bool = False,
) -> Converted:
    """Makes a package of a classifier: the same weights, one score for every cell of an image.

    Args:
        classifier: a name of `models/architectures/classifiers`, `package.module:function`, or the
            network itself, (N, bands, side, side) to (N, classes).
        output: the package's folder, whose name becomes the model's.
        side: of the images that the classifier was trained on, in pixels; that of its paper, or
            224, if it isn't said.
        weights: its state dict, as safetensors or by `torch.save`.
        card_file, band_names, class_names, colors, mean, std, window: see `cards.describe`.
        overwrite: whether an older package of that name may go.

    Raises:
        ModelError: the classifier, a layer of it or the weights are refused.
        PackageExistsError: `output` is there already.
        InputRefusedError: the card's file is refused.
    """
    folder = Path(output)
    if folder.exists() and not overwrite:
        raise PackageExistsError(f"{folder} is already there; choose another name or remove it")
    state = None if weights is None else read_state(Path(weights))
    known = CLASSIFIERS.get(classifier) if isinstance(classifier, str) else None
    if known is not None:
        names = len(band_names or ()) or _BANDS, len(class_names or ()) or _CLASSES
        network = _built(known, known.sizes(state) if state else names)
        state = state and known.needed(state)
    else:
        network = _given(classifier)
    if state is not None:
        _load(network, state, Path(weights or ""))
    conversion = convert_graph(trace(network), side or (known.side if known else USUAL_SIDE))
    card = describe(
        folder.name,
        conversion.bands,
        conversion.classes,
        card_file=card_file,
        band_names=band_names,
        class_names=class_names,
        colors=colors,
        mean=mean,
        std=std,
        window=window or conversion.side,
    )
    labels = labelling(conversion, network)
    model = SegmentationModel(labels, card)
    with reported("write", folder):
        save(model, folder, overwrite=overwrite)
    random = known is not None and state is None
    return Converted(
        package=folder,
        card=card,
        parameters=model.parameters,
        side=conversion.side,
        stride=conversion.stride,
        footprint=model.footprint,
        padded=conversion.padded,
        agreement=compare(labels, conversion.bands),
        warnings=(f"{classifier} has random weights; give its own with --weights",) * random,
    )


def _built(known: Classifier, sizes: tuple[int, int]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return known.builder(*sizes)


def _given(classifier: str | nn.Module) -> nn.Module:
    if isinstance(classifier, nn.Module):
        return classifier
    if not is_code(classifier):
        raise ModelError(
            f"no classifier is called {classifier!r:.80}; there are {', '.join(CLASSIFIERS)}, and "
            "your own as package.module:function"
        )
    found = from_code(classifier)
    if not isinstance(found, nn.Module):
        raise ModelError(f"{classifier} gives a {type(found).__name__} and no torch.nn.Module")
    return found


def _load(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Gives the network the tensors of a file, all of them and no others."""
    expected = network.state_dict()
    # Counted since torch 0.4, and by nobody needed here.
    counts = {name: one for name, one in expected.items() if name.endswith("num_batches_tracked")}
    whole = {**counts, **state}
    for title, names in (
        ("lacks", expected.keys() - whole),
        ("has a stray", whole.keys() - expected),
    ):
        if names:
            raise ModelError(
                f"{path} {title} {min(names)!r:.80}, one of {len(names)} such tensors; it isn't "
                "this classifier's"
            )
    for name, tensor in whole.items():
        if tensor.shape != expected[name].shape:
            raise ModelError(
                f"{path}: {name} is {list(tensor.shape)}, this classifier has "
                f"{list(expected[name].shape)}"
            )
    network.load_state_dict(whole)
