"""What a model is: parameters, bands, classes, and how far it sees."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from segpipe.models.architectures.network import Network, Sizes, sizes
from segpipe.models.card import ModelCard
from segpipe.models.errors import ModelError
from segpipe.models.footprint import Footprint, receptive_field
from segpipe.models.footprints.proof import Proof
from segpipe.models.package import SegmentationModel
from segpipe.workflows.catalogue import Model, find_or_build


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model's card and what was measured on its network.

    Attributes:
        card: as it stands in the package.
        sizes: parameters in all and in parts; papers leave upsampling kernels out of their counts.
        footprint: how far an output pixel sees.
        sha256: of all that labels depend on.
        receptive_field: pixels that a unit of the last map sees in either direction, as papers
            give it, if the network is a classifier's conversion.
        proof: tiles against the whole, if that was asked for now or when the model was imported.
    """

    card: ModelCard
    sizes: Sizes
    footprint: Footprint
    sha256: str
    receptive_field: int | None = None
    proof: Proof | None = None

    def to_dict(self) -> dict[str, Any]:
        """The model as `segpipe inspect --json` prints it."""
        card = self.card
        return {
            "name": card.name,
            "parameters": self.sizes.total,
            "parameters_without_upsampling": self.sizes.total - self.sizes.upsampling,
            "encoder_parameters": self.sizes.encoder,
            "bands": list(card.bands),
            "units": card.units,
            "classes": [asdict(info) for info in card.classes],
            "footprint": self.footprint.to_dict(),
            "receptive_field": self.receptive_field,
            "window": card.window,
            "description": card.description,
            "licence": card.licence,
            "training_data": card.training_data,
            "metrics": card.metrics,
            "sha256": self.sha256,
            "proof": self.proof and {**asdict(self.proof), "holds": self.proof.holds},
        }


def inspect(
    model: Model | None = None, *, prove: bool = False, trust_model: str | None = None
) -> Inspection:
    """The facts about a package, a bundled model or a registered architecture.

    An architecture may come with options, as in `unet:depth=3,width=32`.

    With `prove`, tiles are compared with the whole image in float64, on the model's weights and on
    random ones, if the network is said to be exact; that takes seconds to a minute.

    Raises:
        ModelError: there is no such model, or its package is refused.
    """
    found = find_or_build(model, trust_model)
    return Inspection(
        found.card,
        replace(sizes(found.network), total=found.parameters),
        found.footprint,
        found.digest,
        _receptive_field(found),
        found.prove() if prove else found.proof,
    )


def _receptive_field(model: SegmentationModel) -> int | None:
    converted = model.network.converted() if isinstance(model.network, Network) else None
    if converted is None:
        return None
    try:
        return receptive_field(converted, len(model.card.bands))[1]
    except ModelError:
        # A unit that sees the whole image has none.
        return None
