"""What a run writes beside its map, each under a name of its own, and never over someone's file."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from segpipe.pipeline.errors import FingerprintMismatchError
from segpipe.pipeline.fingerprint import Fields
from segpipe.pipeline.staging import Staging
from segpipe.workflows.errors import OptionError
from segpipe.workflows.pages.page import page_target, write_page
from segpipe.workflows.plan import Preparation
from segpipe.workflows.polygons import PLAIN, PolygonForm, polygon_target, write_polygons
from segpipe.workflows.results.again import Origin
from segpipe.workflows.results.certainty import UNTOLD, Certainty
from segpipe.workflows.results.map_item import ItemTarget, write_item
from segpipe.workflows.results.report import Report


@dataclass(frozen=True, slots=True)
class Products:
    """Where each product goes, absolute; None where it isn't wanted."""

    polygons: Path | None = None
    report: Path | None = None
    certainty: Certainty = UNTOLD
    stac: ItemTarget | None = None
    form: PolygonForm = PLAIN

    @classmethod
    def of(
        cls,
        *,
        polygons: str | Path | None,
        report: str | Path | None,
        probabilities: str | Path | None = None,
        confidence: str | Path | None = None,
        form: PolygonForm = PLAIN,
    ) -> "Products":
        """The products under these names, each of which can be written.

        Raises:
            OptionError: a name tells no format, or polygons have a form and no name.
            StorageError: a folder isn't there, or can't be written to.
        """
        if polygons is None and form != PLAIN:
            raise OptionError(
                "--min-area and --simplify are for polygons; name their file with --polygons"
            )
        return cls(
            None if polygons is None else polygon_target(polygons, overwrite=True),
            page_target(report),
            Certainty.of(probabilities, confidence, counted=report is not None),
            form=form,
        )

    @property
    def paths(self) -> tuple[Path, ...]:
        """All that are wanted."""
        item = () if self.stac is None else (self.stac.path,)
        return (*self.certainty.places.values(), *self.beside.values(), *item)

    @property
    def beside(self) -> dict[str, Path]:
        """Those that are made of the map, by the names that a STAC item has for them."""
        named = {"polygons": self.polygons, "report": self.report}
        return {name: path for name, path in named.items() if path is not None}

    def refuse_existing(self, *, overwrite: bool) -> None:
        """Passes if no file is there under these names, or they may be replaced.

        Raises:
            FingerprintMismatchError: there is one.
        """
        if not overwrite:
            _refuse_existing(self.paths)

    def claim(self, staged: Staging, *, overwrite: bool) -> None:
        """Notes in the staging folder that these files are the run's, for when it is resumed.

        Raises:
            FingerprintMismatchError: a file is there that this run didn't write.
        """
        others = [path for path in self.paths if not staged.has_claimed(path)]
        if not overwrite:
            _refuse_existing(others)
        for path in others:
            staged.claim(path)

    def write(self, made: Report, ready: Preparation, fields: Fields, origin: Origin) -> Report:
        """Writes what is made from the published map; the report, with what was written."""
        if self.polygons is not None:
            areas = write_polygons(
                made.output,
                self.polygons,
                min_area=self.form.min_area,
                simplify=self.form.simplify,
                overwrite=True,
            )
            made = replace(made, polygons=areas)
        if self.report is not None:
            made = replace(made, page=self.report)
            write_page(self.report, made, ready, fields, origin)
        if self.stac is not None:
            # Last, because it tells the checksums of the others.
            remark = write_item(self.stac, made, ready, self.beside)
            warnings = (*made.warnings, *filter(None, [remark]))
            made = replace(made, stac=self.stac.path, warnings=warnings)
        return made


def _refuse_existing(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.exists():
            raise FingerprintMismatchError(
                f"{path} exists; choose another name, or replace it with --overwrite"
            )
