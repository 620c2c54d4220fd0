"""A raster of bytes that a run makes: the map itself, and how sure the network is of it."""

from dataclasses import dataclass
from typing import Literal

from segpipe.pipeline.maps.legend import Legend

CLASSES = "classes"
"""The labels, (row, column)."""

PROBABILITIES = "probabilities"
"""The probability of each class, (class, row, column)."""

CONFIDENCE = "confidence"
"""The greatest probability and its lead over the second one, (measure, row, column)."""

MEASURES = ("confidence", "margin")
"""The bands of `CONFIDENCE`."""

STEPS = 250
"""Steps from 0 to 1 in which probabilities are stored."""


@dataclass(frozen=True, slots=True)
class Bands:
    """The bands of a layer that has several: their dimension's name, and their own."""

    dimension: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """How a raster of bytes is stored and published.

    Attributes:
        name: of the array that holds it.
        title: what it is, for people.
        bands: its bands; None for a single one without such an axis.
        legend: what its values mean, where they are classes.
        nodata: the value of pixels without one.
        scale: what a value is multiplied with to be a number, where it is one.
        resampling: how pixels are seen from further away.
    """

    name: str
    title: str
    bands: Bands | None = None
    legend: Legend | None = None
    nodata: int = 255
    scale: float | None = None
    resampling: Literal["MODE", "AVERAGE"] = "AVERAGE"

    @property
    def count(self) -> int:
        """How many bands it has."""
        return 1 if self.bands is None else len(self.bands.names)


def class_layer(legend: Legend) -> Layer:
    """The map."""
    return Layer(CLASSES, legend.title, legend=legend, nodata=legend.nodata, resampling="MODE")


def probability_layer(title: str, classes: tuple[str, ...]) -> Layer:
    """The probabilities of classes with these names."""
    named = Bands("class", classes)
    return Layer(PROBABILITIES, f"{title}: probabilities", named, scale=1 / STEPS)


def confidence_layer(title: str) -> Layer:
    """The greatest probability and its lead."""
    return Layer(CONFIDENCE, f"{title}: confidence", Bands("measure", MEASURES), scale=1 / STEPS)
