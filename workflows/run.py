"""The main job: from a raster to a published map."""

from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Literal

from segpipe.models.engine import Precision
from segpipe.models.predictor import ENGINES
from segpipe.pipeline.journal import Journal, noting_errors
from segpipe.pipeline.scenes.location import is_remote, place_of
from segpipe.pipeline.staging import staged_beside
from segpipe.workflows.catalogue import Model, find
from segpipe.workflows.errors import OptionError
from segpipe.workflows.memory import THREADS
from segpipe.workflows.order import Computing, Order
from segpipe.workflows.plan import prepare, target
from segpipe.workflows.polygons import PolygonForm
from segpipe.workflows.reading.inputs import Bands, Reading, Scenes, named
from segpipe.workflows.reading.series import ALONE, Series
from segpipe.workflows.resident import Method
from segpipe.workflows.results.again import Origin
from segpipe.workflows.results.delivery import Delivery
from segpipe.workflows.results.map_item import ItemTarget
from segpipe.workflows.results.products import Products
from segpipe.workflows.results.report import Report
from segpipe.workflows.stages import Progress, Watcher
from segpipe.workflows.tiles import Limits
from segpipe.workflows.workers import workers_for


def _unwatched(progress: Progress) -> None:
    """Nobody looks."""


@noting_errors
def run(
    scene: Scenes,
    *,
    model: Model | None = None,
    trust_model: str | None = None,
    output: str | Path | None = None,
    staging: str | Path | None = None,
    bands: Bands | None = None,
    scale: float | None = None,
    offset: float | None = None,
    variable: str | None = None,
    time: str | None = None,
    resolution: str | float = "auto",
    mosaic: str | None = None,
    tile: str | int = "auto",
    device: str = "auto",
    precision: Precision | Literal["auto"] = "auto",
    engine: str = "auto",
    method: Method = "one-pass",
    scheduler: str | None = None,
    scheduler_file: str | None = None,
    workers: int | None = None,
    memory: str | None = None,
    aoi: str | Path | None = None,
    style: bool = True,
    zarr_format: int = 2,
    overwrite: bool = False,
    new_run: bool = False,
    report: str | Path | None = None,
    polygons: str | Path | None = None,
    min_area: float | None = None,
    simplify: float | None = None,
    probabilities: str | Path | None = None,
    confidence: str | Path | None = None,
    stac: str | Path | None = None,
    datetime: str | None = None,
    series: Series = ALONE,
    allow_failed: bool = False,
    tile_timeout: float | None = None,
    stop_after: float | None = None,
    log: str | Path | Journal | None = None,
    watch: Watcher = _unwatched,
) -> Report:
    """Maps a scene and publishes the map; a run that was stopped goes on where it was.

    Args:
        scene: a raster that GDAL reads, or a Zarr store; or the scenes of a mosaic.
        model: a `SegmentationModel`, the folder of a package, the name of a bundled model, or
            `package.module:function`, which gives a `SegmentationModel`.
        trust_model: "sha256:" and the hash of a package's exported program or TorchScript, which
            run code when they are loaded; without it they aren't.
        output: ends in `.tif` for a cloud-optimised GeoTIFF or in `.zarr`; by default the scene's
            stem with `.classes.tif` in the current folder. It may be an address in an object store,
            as `s3://BUCKET/map.tif`; `probabilities`, `confidence`, `polygons`, `report` and `stac`
            too then.
        staging: the folder in which a map for an object store is finished before it is sent, by
            default the current one; the workers of a cluster must see it.
        bands: numbers (from 1) or names of the scene's bands, in the model's order; by default
            those that have the names in the model's card. Or a table of files: for each of the
            model's bands, by name or number, the file that holds it, beside or in the scene's
            folder, such as `{"red": "B4.tif", "nir": "B5.tif"}`; "B4.tif:2" is its second band.
        variable: the variable of a Zarr store that is mapped, where it has several.
        time: the step of time that is mapped, where a Zarr store has several: its number from 1, or
            what its date begins with, such as `2024-06`.
        resolution: side in metres of the pixels that are read and mapped, `native` for the scene's
            own, or `auto`: the card's, where it has one and the scene's differs by more than 10 %.
        mosaic: `first`, `last` or `confident`, where several scenes are mapped as one, on the first
            one's grid: whose pixel counts where several have a valid one. By the last rule each
            scene is mapped by itself, and the label with the greatest probability counts.
        tile: side of a tile's core in pixels, a multiple of 256, or `auto`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32`, `bf16` or `fp16`; `auto` takes bf16 where the hardware has it
            and a sample of this scene agrees with fp32 in 99.9 % of the labels.
        engine: `auto`, `torch`, `openvino` or `onnxruntime`; `auto` takes onnxruntime for models in
            ONNX files, and OpenVINO for large scenes with the precision `auto` on a CPU with bf16,
            each where it is installed and, OpenVINO, where the sample agrees.
        method: `one-pass`, or `sliding-window` for a converted classifier: it is run on a crop for
            every score, which is slow, and the reference for the one pass.
        scheduler: address of a Dask scheduler, such as `tcp://10.0.0.1:8786`.
        scheduler_file: a file that a Dask scheduler wrote.
        workers: processes on this machine, where no scheduler is named; by default one, or the
            cluster whose scheduler Dask's configuration names.
        memory: the most that each process may take, such as `8GB`.
        aoi: a file of polygons; outside of them the map is nodata, and tiles wholly outside are
            neither read nor computed. Inside, labels are those of the whole map.
        style: whether to write a QGIS style beside the output.
        zarr_format: 2 or 3, for Zarr.
        overwrite: replace an output that is there.
        new_run: throw away an unfinished run for this output.
        report: a page about the run, ending in `.html`, that shows scene and map.
        polygons: a vector file of the map's classes, ending in `.gpkg`, `.fgb` or `.parquet`.
        min_area: in square metres; smaller polygons are left out, which leaves gaps.
        simplify: corners of polygons are left out whose triangle is smaller than the square of
            this, in units of the map's crs; neighbours still share their borders.
        probabilities: the probability of each class, ending in `.tif` or `.zarr`: bytes that stand
            for 0 to 1 in steps of 1/250.
        confidence: likewise the greatest probability, and its lead over the second one.
        stac: a STAC item of the map, ending in `.json`.
        datetime: when the scene was taken, for the STAC item: `2000-07-20T15:31:00Z`, a day, or two
            of them with `/` between; by default what the scene says.
        allow_failed: publish the map without the tiles that failed again and again: they are nodata
            then, and the report's `failed` tells why.
        tile_timeout: seconds that a tile may take; one that takes longer counts as failed.
        stop_after: seconds after which the run ends; what isn't mapped by then is when the same
            call is made again.
        series: what is shared with the other scenes of the same command.
        log: a file to which what happens is added, one JSON object a line; `-` is standard error.
        watch: is told of every tile.

    Raises:
        TilesFailedError, CorruptInputError: tiles failed, and `allow_failed` isn't given.
        StoppedError: the time is over.
        PipelineError, ModelError, DeviceError: see their classes; each message is one line.
        OptionError: an option makes no sense.
    """
    origin = Origin.of(run, locals())
    scene, others = named(scene, mosaic)
    start = perf_counter()
    limits = Limits.of(allow_failed, tile_timeout, stop_after)
    if engine not in ENGINES:
        raise OptionError(f"the engines are {', '.join(ENGINES)}, got {engine}")
    found = find(model, trust_model)
    opened = (
        series.workers.lent()
        if series.workers
        else workers_for(
            found,
            threads=THREADS,
            device=device,
            scheduler=scheduler,
            scheduler_file=scheduler_file,
            workers=workers,
        )
    )
    names = {
        "output": output,
        "probabilities": probabilities,
        "confidence": confidence,
        "polygons": polygons,
        "report": report,
        "stac": stac,
    }
    delivery = Delivery.of(names, staging)
    with delivery.opened() as (names, remarks):
        products = Products.of(
            polygons=names["polygons"],
            report=names["report"],
            probabilities=names["probabilities"],
            confidence=names["confidence"],
            form=PolygonForm(min_area, simplify),
        )
        ready = prepare(
            scene,
            model=found,
            output=names["output"],
            reading=Reading(bands, resolution, scale, offset, mosaic, others, variable, time),
            tile=tile,
            memory=memory,
            method=method,
            aoi=aoi,
            certainty=products.certainty,
            new_run=new_run,
        )
        item = ItemTarget.of(names["stac"], datetime, series.member, ready)
        order = Order(
            scene=place_of(scene) if is_remote(scene) else Path(scene),
            ready=ready,
            remarks=remarks,
            products=replace(products, stac=item),
            delivery=delivery,
            series=series,
            origin=origin,
            journal=Journal.of(log),
            computing=Computing(device, precision, engine, workers),
            zarr_format=zarr_format,
            overwrite=overwrite,
            new_run=new_run,
            style=style,
        )
        order.refuse()
        name = order.begin()
        with opened as lent:
            made = order.carried_out(name, lent, limits, watch, start)
    return replace(made, seconds=replace(made.seconds, total=perf_counter() - start))


def is_begun(
    scene: str | Path, output: str | Path | None, staging: str | Path | None = None
) -> bool:
    """Whether there is an unfinished run for this output that the same call would resume."""
    return bool(staged_beside(target(scene, output, staging)))
