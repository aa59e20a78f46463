"""Figures from records: whole as PNG and SVG files, and panel by panel for a page, which arranges them by its width."""

import base64
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from mtlora.base.files import replacing
from mtlora.report.plots.curves import curves
from mtlora.report.plots.differences import forest
from mtlora.report.plots.geometry import geometry
from mtlora.report.plots.pareto import pareto
from mtlora.report.plots.rates import best_by_number, score_by_rate
from mtlora.report.plots.scores import score_by_rank
from mtlora.report.plots.style import SETTINGS, labelled
from mtlora.tables.view import View


@dataclass(frozen=True)
class Image:
    """An SVG image with a transparent ground."""

    alt: str
    svg: bytes

    @property
    def size(self) -> tuple[int, int]:
        """The width and height in CSS pixels, which a page reserves before it draws the image."""
        found = re.search(rb'<svg [^>]*?width="([\d.]+)pt" height="([\d.]+)pt"', self.svg)
        assert found is not None
        width, height = (round(float(points) * 4 / 3) for points in found.groups())
        return width, height

    @property
    def data_uri(self) -> str:
        """The image as a source, so that the page needs no other file."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


@dataclass(frozen=True)
class Plot:
    """A figure's place in the report."""

    name: str  # stem of its files
    title: str
    see: str  # a sentence: what to look for
    caption: str  # what is drawn
    panels: list[Image]
    legend: list[Image]  # the mark of each entry; its text is the alternative text


Maker = Callable[[View], tuple[Figure, str] | None]

# The figures of an experiment's runs, and those of the trials of learning rates: key, title, what to see, function.
MAKERS: tuple[tuple[str, str, str, Maker], ...] = (
    (
        "differences",
        "Difference to LoRA",
        "A method is better than LoRA where its whole interval lies right of the line, and worse where it lies left of it; "
        "an interval across the line leaves this open, unless it belongs to the score with the verdict and stays within the grey "
        "margin.",
        forest,
    ),
    (
        "curves",
        "Learning curves",
        "Look whether the curves have levelled off at the last epoch, and whether a lead is larger than the bands.",
        curves,
    ),
    (
        "rank",
        "Score against rank",
        "A gain that does not depend on the rank keeps one curve above the other at every rank.",
        score_by_rank,
    ),
    (
        "pareto",
        "Score against parameters, time and memory",
        "A method is worth its higher cost if it lies above the methods to its left by more than its error bar.",
        pareto,
    ),
    (
        "geometry",
        "The geometry of T",
        "Where training hardly changes T, the curves over the epochs are flat. At a distance near 0 a method is nearly LoRA.",
        geometry,
    ),
)
RATES: tuple[tuple[str, str, str, Maker], ...] = (
    (
        "rates",
        "Score against learning rate",
        "A choice is sound if its ring is at a peak, with lower scores on both sides; at the edge of the grid it is not.",
        score_by_rate,
    ),
    (
        "trials",
        "Best score expected after k factors",
        "The rise of a curve shows what tuning adds to a method. A lead that vanishes as k grows is luck with the first factors.",
        best_by_number,
    ),
)


def draw_all(view: View, folder: Path, makers: Sequence[tuple[str, str, str, Maker]] = MAKERS) -> list[Plot]:
    """Draw every figure for which a plan has data, and write each as PNG and SVG."""
    made = []
    with matplotlib.rc_context(SETTINGS):
        for key, title, see, make in makers:
            result = make(view)
            if result is None:
                continue
            figure, caption = result
            name = f"{view.plan.name}_{key}"
            for kind in ("png", "svg"):
                with replacing(folder / f"{name}.{kind}") as stream:
                    stream.write(_image(figure, kind))
            whole = f"{view.plan.experiment.title}: {title[0].lower() + title[1:]}"
            entries = labelled(figure.axes)
            legend = [Image(label, _mark(handle)) for label, handle in entries.items()]
            made.append(Plot(name, whole, see, caption, _panels(figure, f"{whole}. {', '.join(entries)}"), legend))
    return made


def _panels(figure: Figure, title: str) -> list[Image]:
    """Return each panel by itself, in the place and size that it has in the whole figure."""
    figure.set_layout_engine("none")  # the files were drawn before, so the layout is done
    for legend in figure.legends:
        legend.set_visible(False)
    images = []
    for axis in figure.axes:
        for other in figure.axes:
            other.set_visible(other is axis)
        what = f"{axis.get_ylabel()} by {axis.get_xlabel()}" if axis.get_ylabel() else axis.get_xlabel()
        alt = ". ".join(part for part in (title, axis.get_title(), what) if part)
        images.append(Image(alt, _image(figure, "svg", transparent=True)))
    return images


def _mark(handle: Artist) -> bytes:
    """Draw the line and marker of an entry of a legend."""
    figure = Figure(figsize=(0.42, 0.16))
    figure.legend([handle], [""], loc="center", borderpad=0, handletextpad=0, handlelength=3.0)
    return _image(figure, "svg", transparent=True, bbox_inches=None)


def _image(figure: Figure, kind: str, transparent: bool = False, bbox_inches: str | None = "tight") -> bytes:
    stream = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(
        stream,
        format=kind,
        dpi=150,
        bbox_inches=bbox_inches,
        pad_inches=0.04,
        transparent=transparent,
        metadata=metadata,
    )
    return stream.getvalue()
