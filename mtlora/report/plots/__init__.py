"""Figures from records, as PNG and SVG."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from mtlora.base.files import replacing
from mtlora.report.plots.curves import curves
from mtlora.report.plots.differences import forest
from mtlora.report.plots.geometry import geometry
from mtlora.report.plots.pareto import pareto
from mtlora.report.plots.rates import best_by_number, score_by_rate
from mtlora.report.plots.scores import score_by_rank
from mtlora.report.plots.style import SETTINGS
from mtlora.tables.view import View


@dataclass(frozen=True)
class Plot:
    """A figure's place in the report."""

    name: str  # stem of its files
    title: str
    caption: str  # for readers who see the figure, and for those who do not
    svg: bytes

    @property
    def data_uri(self) -> str:
        """The figure as the source of an image, so that the page needs no other file."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


Maker = Callable[[View], tuple[Figure, str] | None]

# The figures of an experiment's runs, and those of the trials of learning rates: key, title, function.
MAKERS: tuple[tuple[str, str, Maker], ...] = (
    ("differences", "Difference to LoRA", forest),
    ("curves", "Learning curves", curves),
    ("rank", "Score against rank", score_by_rank),
    ("pareto", "Score against parameters, time and memory", pareto),
    ("geometry", "The geometry of T", geometry),
)
RATES: tuple[tuple[str, str, Maker], ...] = (
    ("rates", "Score against learning rate", score_by_rate),
    ("trials", "Best score expected after k trials", best_by_number),
)


def draw_all(view: View, folder: Path, makers: Sequence[tuple[str, str, Maker]] = MAKERS) -> list[Plot]:
    """Draw every figure for which a plan has data, and write each as PNG and SVG."""
    made = []
    with matplotlib.rc_context(SETTINGS):
        for key, title, make in makers:
            result = make(view)
            if result is None:
                continue
            figure, caption = result
            name = f"{view.plan.name}_{key}"
            images = {kind: _image(figure, kind) for kind in ("png", "svg")}
            for kind, image in images.items():
                with replacing(folder / f"{name}.{kind}") as stream:
                    stream.write(image)
            made.append(
                Plot(name, f"{view.plan.experiment.title}: {title[0].lower() + title[1:]}", caption, images["svg"])
            )
    return made


def _image(figure: Figure, kind: str) -> bytes:
    stream = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(stream, format=kind, dpi=150, bbox_inches="tight", metadata=metadata)
    return stream.getvalue()
