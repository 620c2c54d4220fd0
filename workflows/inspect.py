"""What a model is: parameters, bands, classes, and how far it sees."""

from dataclasses import asdict, dataclass
from typing import Any

from segpipe.models.card import ModelCard
from segpipe.models.footprint import Footprint
from segpipe.models.proof import Proof
from segpipe.models.proof import prove as compare_tiles
from segpipe.workflows.catalogue import Model, find_or_build


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model's card and what was measured on its network."""

    card: ModelCard
    parameters: int
    footprint: Footprint
    sha256: str
    proof: Proof | None = None

    def to_dict(self) -> dict[str, Any]:
        """The model as `segpipe inspect --json` prints it."""
        card = self.card
        return {
            "name": card.name,
            "parameters": self.parameters,
            "bands": list(card.bands),
            "classes": [asdict(info) for info in card.classes],
            "footprint": self.footprint.to_dict(),
            "window": card.window,
            "description": card.description,
            "licence": card.licence,
            "training_data": card.training_data,
            "metrics": card.metrics,
            "sha256": self.sha256,
            "proof": self.proof and {**asdict(self.proof), "holds": self.proof.holds},
        }


def inspect(model: Model | None = None, *, prove: bool = False) -> Inspection:
    """The facts about a package, a bundled model or a registered architecture.

    With `prove`, tiles are compared with the whole image in float64, on the model's weights and on
    random ones, if the network is said to be exact; that takes seconds to a minute.

    Raises:
        ModelError: there is no such model, or its package is refused.
    """
    found = find_or_build(model)
    footprint = found.footprint
    proof = None
    if prove and footprint.exact:
        proof = compare_tiles(found.network, footprint, len(found.card.bands))
    return Inspection(found.card, found.parameters, footprint, found.digest, proof)
