"""A network as data: its layers with their numbers, and the steps of its forward pass, as JSON."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from segpipe.models.errors import ModelError
from segpipe.models.formats.layer_vocabulary import FUNCTIONS, LAYERS

LONGEST_TEXT = 4 << 20
"""Characters of a graph; a DenseNet of 201 layers has some 100,000."""

LARGEST_NUMBER = 1 << 24
"""Of channels, sides and sizes, whichever sign they have."""

LONGEST_LIST = 4096
LONGEST_WORD = 64
DEEPEST = 4
_NAME = re.compile(r"\w{1,64}(\.\w{1,64}){0,31}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Value:
    """What step number `step` gave; 0 is the image, the first step is 1."""

    step: int


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor that the network holds beside its layers."""

    name: str


@dataclass(frozen=True, slots=True)
class Part:
    """A slice between brackets."""

    start: "Argument"
    stop: "Argument"
    step: "Argument"


@dataclass(frozen=True, slots=True)
class Rest:
    """The three dots between brackets."""


Argument: TypeAlias = (
    "bool | int | float | str | Value | Held | Part | Rest | tuple[Argument, ...] | None"
)


@dataclass(frozen=True, slots=True)
class Layer:
    """A class of torch.nn by name, and what its constructor is given."""

    kind: str
    options: Mapping[str, Argument]


@dataclass(frozen=True, slots=True)
class HeldTensor:
    """Shape of a tensor beside the layers, and whether training changes it."""

    shape: tuple[int, ...]
    learned: bool


@dataclass(frozen=True, slots=True)
class Step:
    """A call of the layer, or of the function, of this name."""

    kind: Literal["layer", "function"]
    name: str
    args: tuple[Argument, ...]
    kwargs: Mapping[str, Argument]

    @property
    def reads(self) -> frozenset[int]:
        """The steps whose values it takes."""
        return frozenset(one.step for one in self._leaves() if isinstance(one, Value))

    @property
    def holds(self) -> frozenset[str]:
        """The names of the network's tensors that it takes."""
        return frozenset(one.name for one in self._leaves() if isinstance(one, Held))

    def _leaves(self) -> Iterator["Argument"]:
        return leaves((*self.args, *self.kwargs.values()))


@dataclass(frozen=True, slots=True)
class Graph:
    """Layers and tensors by name, the steps in their order, and the step that gives the scores."""

    layers: Mapping[str, Layer]
    tensors: Mapping[str, HeldTensor]
    steps: tuple[Step, ...]
    output: int

    def to_json(self) -> str:
        """The text that `from_json` takes; equal graphs have equal texts.

        Raises:
            ModelError: the graph is too long.
        """
        data = {
            "layers": {
                name: [layer.kind, {key: _encoded(value) for key, value in layer.options.items()}]
                for name, layer in self.layers.items()
            },
            "tensors": {
                name: [list(held.shape), held.learned] for name, held in self.tensors.items()
            },
            "steps": [
                [
                    step.kind,
                    step.name,
                    [_encoded(one) for one in step.args],
                    {key: _encoded(value) for key, value in step.kwargs.items()},
                ]
                for step in self.steps
            ],
            "output": self.output,
        }
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
        if len(text) > LONGEST_TEXT:
            raise ModelError(f"a graph has {LONGEST_TEXT:,} characters at most, got {len(text):,}")
        return text

    @classmethod
    def from_json(cls, text: str) -> "Graph":
        """The graph that a text describes; every name, number and reference is checked.

        Raises:
            ModelError: the text isn't a graph, or has something in it that no graph has.
        """
        if len(text) > LONGEST_TEXT:
            raise ModelError(f"a graph has {LONGEST_TEXT:,} characters at most, got {len(text):,}")
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"a network's graph isn't JSON: {error}") from error
        match data:
            case {
                "layers": dict(layers),
                "tensors": dict(tensors),
                "steps": list(steps),
                "output": int(output),
                **others,
            } if not others and 0 <= output <= len(steps):
                return cls(
                    {_name(name): _layer(one) for name, one in layers.items()},
                    {_name(name): _tensor(one) for name, one in tensors.items()},
                    tuple(
                        _step(one, number, layers, tensors) for number, one in enumerate(steps, 1)
                    ),
                    output,
                )
        raise ModelError("a network's graph is a table of layers, tensors, steps and an output")


def leaves(argument: Argument) -> Iterator[Argument]:
    """The argument itself, or what stands in its tuples and slices."""
    match argument:
        case tuple():
            for one in argument:
                yield from leaves(one)
        case Part(start, stop, step):
            yield from leaves((start, stop, step))
        case _:
            yield argument


def _encoded(argument: Argument) -> object:
    match argument:
        case Value(step):
            return {"value": step}
        case Held(name):
            return {"tensor": name}
        case Part(start, stop, step):
            return {"slice": [_encoded(one) for one in (start, stop, step)]}
        case Rest():
            return {"slice": []}
        case tuple():
            return [_encoded(one) for one in argument]
    return argument


def _decoded(data: object, depth: int = 0) -> Argument:
    match data:
        case None | bool():
            return data
        case int() if abs(data) <= LARGEST_NUMBER:
            return data
        case float() if math.isfinite(data):
            return data
        case str() if len(data) <= LONGEST_WORD and data.isidentifier():
            return data
        case list() if depth < DEEPEST and len(data) <= LONGEST_LIST:
            return tuple(_decoded(one, depth + 1) for one in data)
        case {"value": int(step), **others} if not others:
            return Value(step)
        case {"tensor": str(name), **others} if not others:
            return Held(name)
        case {"slice": [start, stop, step], **others} if not others and depth < DEEPEST:
            return Part(*(_decoded(one, depth + 1) for one in (start, stop, step)))
        case {"slice": [], **others} if not others:
            return Rest()
    raise ModelError(f"a network's graph has an argument that is out of bounds: {data!r:.80}")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ModelError(f"a layer's name is words between dots, got {text!r:.80}")
    return text


def _layer(data: object) -> Layer:
    match data:
        case [str(kind), dict(options)] if kind in LAYERS:
            found = {key: _decoded(value) for key, value in options.items()}
            if not any(_refers(value) for value in found.values()):
                return Layer(kind, found)
    raise ModelError(f"a network's graph has a layer of an unknown kind: {data!r:.80}")


def _refers(argument: Argument) -> bool:
    return any(isinstance(one, Value | Held | Rest) for one in leaves(argument))


def _tensor(data: object) -> HeldTensor:
    match data:
        case [list(shape), bool(learned)] if len(shape) <= 8 and all(
            type(side) is int and 0 <= side <= LARGEST_NUMBER for side in shape
        ):
            return HeldTensor(tuple(shape), learned)
    raise ModelError(f"a network's graph has a tensor of a strange shape: {data!r:.80}")


def _step(
    data: object, number: int, layers: Mapping[str, object], tensors: Mapping[str, object]
) -> Step:
    match data:
        case [("layer" | "function") as kind, str(name), list(args), dict(kwargs)] if name in (
            layers if kind == "layer" else FUNCTIONS
        ):
            step = Step(
                kind,
                name,
                tuple(_decoded(one) for one in args),
                {key: _decoded(value) for key, value in kwargs.items()},
            )
            if all(0 <= read < number for read in step.reads) and step.holds <= tensors.keys():
                return step
    raise ModelError(
        f"step {number} of a network's graph calls what it may not, or reads what isn't there: "
        f"{data!r:.80}"
    )
