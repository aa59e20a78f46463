"""The report: what it says first, and that it works in a browser."""

import html
import json
import random
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

import pytest
from helpers.record_files import make_record, save_record
from helpers.tuning_files import make_tuning, write_tuning

from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import Plan, make_plan
from mtlora.report.links import linked, relative
from mtlora.report.page import build
from mtlora.report.verdicts import answer, cards
from mtlora.tables.evidence import load_evidence
from mtlora.tables.view import View

pytestmark = pytest.mark.xdist_group("report")  # one process writes the report and composes each plan, once

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ACCURACY = ("accuracy", "validation")
GAINS = {"none": 0.0, "shim": 0.05, "icfm": -0.05, "ctcm": 0.0, "dtsm": 0.0}


@lru_cache
def plan_of(*given: str) -> Plan:
    return make_plan(load_experiment("glue"), ["model=tiny", *given])


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of("task=rte", "seed=range(0,10)")


@pytest.fixture(scope="module")
def report(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of ten seeds: SHIM surely better, ICFM surely worse, CTCM the same to a hair, DTSM all over the place."""
    folder = tmp_path_factory.mktemp("report")
    generator = random.Random(0)
    for cell in plan.cells:
        structure = cell.config.adapter.structure
        noise = {"ctcm": 1e-4, "dtsm": 0.05}.get(structure, 1e-3) * generator.uniform(-1, 1)
        value = 0.6 + cell.config.seed / 100 + GAINS[structure] + noise
        record = make_record(cell, {ACCURACY: (value, value)})
        record.epochs = [{"epoch": n, "metrics": {"validation": {"accuracy": value - 0.1 / n}}} for n in (1, 2)]
        save_record(folder / "runs", record)
    (folder / "runs" / "torn").mkdir()
    (folder / "runs" / "torn" / "record.json").write_text('{"run_id": "<script>alert(1)</script>')
    evidence = load_evidence(folder / "runs")
    build([View(plan, evidence)], folder, "report.html")
    return folder / "report.html"


def first_screen(text: str) -> str:
    return re.sub(r"<[^>]*>", " ", text[text.index("<h1>") : text.index("<nav")])


def test_the_first_screen_answers(report: Path) -> None:
    words = first_screen(report.read_text(encoding="utf-8"))
    assert "Does MTLoRA beat LoRA here, and how sure are we?" in words
    assert "In part." in words
    assert (
        "Compared with LoRA on GLUE (RTE only): SHIM better, by more than 0.5; ICFM worse, by more than 0.5; "
        "CTCM no difference larger than 0.5; DTSM undecided." in words
    )
    assert "Seeds per task: 10." in words
    assert "not tested here" in words
    assert "Why not decided: DTSM: the interval spans both a loss and a gain of more than 0.5." in words
    assert "needs at least 5 seeds of every task, and no run that diverged" in words
    assert 'id="claims"' not in report.read_text(), "a claim that is not tested is no table of dashes"


def test_verdicts_of_the_cards(report: Path) -> None:
    cards = re.findall(r"<li class=\"(\w+)\"><b>(.*?): <span class=\"tag\">(.*?)</span>", report.read_text())
    assert cards == [
        ("good", "GLUE, MTLoRA SHIM", "better, by more than 0.5"),
        ("bad", "GLUE, MTLoRA ICFM", "worse, by more than 0.5"),
        ("open", "GLUE, MTLoRA CTCM", "no difference larger than 0.5"),
        ("open", "GLUE, MTLoRA DTSM", "undecided"),
    ]


def test_it_is_self_contained_and_escapes_what_records_hold(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert not re.search(r'<(?!a )[^>]*(src|href)="(?!data:)', text)
    addresses = re.findall(r'<a href="([^#][^"]*)"', text)
    assert addresses
    for address in addresses:
        assert (report.parent / unquote(address)).exists(), address
    assert str(report.parent) not in text
    assert "@import" not in text
    assert "url(" not in text
    assert "<script>alert" not in text
    assert "torn/record.json" in html.unescape(text), "the broken record is named"


def test_nothing_to_say_without_runs(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / "runs").mkdir()
    evidence = load_evidence(tmp_path / "runs")
    text = build([View(plan, evidence)], tmp_path, "report.html")
    assert "Nothing can be said yet." in first_screen(text)
    assert "make reproduce-glue" in text[text.index("Not run") :]


def test_figures_are_the_same_twice(report: Path, plan: Plan, tmp_path: Path) -> None:
    evidence = load_evidence(report.parent / "runs")
    build([View(plan, evidence)], tmp_path, "report.html")
    figures = sorted(path.name for path in (report.parent / "figures").iterdir())
    assert figures == [f"glue_{name}.{kind}" for name in ("curves", "differences", "pareto") for kind in ("png", "svg")]
    for name in figures:
        assert (tmp_path / "figures" / name).read_bytes() == (report.parent / "figures" / name).read_bytes(), name


# Clicks as a reader would, and writes what it sees into the page.
READER = """
<script>
addEventListener("load", () => {
  const table = document.querySelector("#glue table");
  const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.trim());
  const heading = table.tHead.rows[0].cells[1];
  const seen = {start: names()};
  heading.scrollIntoView();
  const place = heading.getBoundingClientRect();
  document.elementFromPoint(place.left + 2, place.top + 2).click();
  seen.down = names(); seen.sort = [...table.tHead.rows[0].cells].map((cell) => cell.ariaSort);
  seen.marks = [...table.querySelectorAll("th button")].map((b) => getComputedStyle(b, "::after").content.includes("↕"));
  heading.querySelector("button").click();
  seen.up = names();
  table.tHead.rows[0].cells[0].querySelector("button").click();
  seen.by_name = names();
  const cell = document.querySelector("#glue td button");
  cell.focus(); seen.focus = document.activeElement === cell;
  cell.click();
  const shown = document.querySelectorAll(":popover-open");
  seen.popovers = shown.length; seen.runs = [...shown[0].querySelectorAll("li")].map((item) => item.textContent);
  seen.images = [...document.querySelectorAll(".panels img")].map((image) => image.alt.length > 20);
  seen.sizes = [...document.images].every((image) => image.getAttribute("width") && image.getAttribute("height"));
  seen.links = [...shown[0].querySelectorAll("li a")].length;
  seen.overflow = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  seen.errors = window.errors;
  const result = document.createElement("pre"); result.id = "seen"; result.textContent = JSON.stringify(seen);
  document.body.append(result);
});
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="Debian's `chromium` is not installed")
@pytest.mark.parametrize("width", [400, 1600])
def test_in_a_browser(width: int, report: Path, tmp_path: Path) -> None:
    text = report.read_text(encoding="utf-8").replace("</body>", READER)
    listener = "<script>window.errors = []; addEventListener('error', (e) => errors.push(e.message));</script>"
    page = tmp_path / "page.html"
    page.write_text(text.replace("<head>", "<head>" + listener), encoding="utf-8")
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--window-size={width},1000",
        "--dump-dom",
    ]
    command += ["--enable-logging=stderr", f"--user-data-dir={tmp_path}/profile", page.as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    match = re.search(r'<pre id="seen">(.*?)</pre>', ended.stdout, re.DOTALL)
    assert match, ended.stderr
    seen = json.loads(html.unescape(match[1]))
    assert seen["start"] == ["LoRA", "MTLoRA SHIM", "MTLoRA ICFM", "MTLoRA CTCM", "MTLoRA DTSM"]
    assert (seen["down"][0], seen["down"][-1]) == ("MTLoRA SHIM", "MTLoRA ICFM"), "a click beside the text sorts"
    assert seen["sort"] == ["none", "descending", "none"]
    assert seen["marks"] == [True, False, True]
    assert seen["up"] == seen["down"][::-1]
    assert seen["by_name"] == sorted(seen["start"], reverse=True)
    assert (seen["focus"], seen["popovers"], len(seen["runs"])) == (True, 1, 10)
    assert all(re.fullmatch(r"glue-rte-tiny-\w+-r8-qv-seed\d-\w{8}", run) for run in seen["runs"])
    assert seen["images"] == [True] * 5
    assert seen["sizes"], "an image without a size moves the text when it is drawn"
    assert seen["links"] == 10
    assert not seen["overflow"], "wide tables scroll inside their frame, the page does not"
    assert seen["errors"] == []
    assert "CONSOLE" not in ended.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="Debian's `chromium` is not installed")
def test_on_paper(report: Path, tmp_path: Path) -> None:
    printed = tmp_path / "page.pdf"
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--print-to-pdf={printed}"]
    command += [f"--user-data-dir={tmp_path}/profile", report.as_uri()]
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    boxes = re.findall(rb"/MediaBox \[([^\]]*)\]", printed.read_bytes())
    assert boxes
    for box in boxes:
        assert [float(side) for side in box.split()] == pytest.approx([0, 0, 595, 842], abs=1), "A4"


@pytest.mark.parametrize(
    ("path", "folder", "expected"),
    [
        ("/w/results/runs/a", "/w/results", "runs/a"),
        ("/w/other/runs/a", "/w/results", "../other/runs/a"),
        ("/scratch/runs/a", "/home/results", None),
    ],
)
def test_links_are_relative(path: str, folder: str, expected: str | None) -> None:
    assert relative(path, Path(folder)) == expected


def test_lines_about_runs_have_links_and_no_path_of_the_machine() -> None:
    line = linked(
        "run-1 failed: /w/results/runs/b c/record.json and /scratch/me/runs/x/record.json: <b>, https://a.b/c/d, "
        "cannot read:/home/me/x/y",
        {"run-1": "runs/1/"},
        Path("/w/results"),
    )
    assert line == (
        '<a href="runs/1/">run-1</a> failed: runs/b c/record.json and …/x/record.json: &lt;b&gt;, https://a.b/c/d, '
        "cannot read:…/x/y"
    )


def test_runs_that_failed_have_no_tables_of_dashes(tmp_path: Path) -> None:
    plan = plan_of("task=rte", "transform=lora,shim", "seed=0")
    for cell in plan.cells:
        record = make_record(cell, {})
        record.status, record.error = "failed", f"no space left for {tmp_path}/cache/x"
        save_record(tmp_path / "runs", record)
    evidence = load_evidence(tmp_path / "runs")
    text = build([View(plan, evidence)], tmp_path, "report.html", [f"results={tmp_path}"])
    assert "<table>" not in text
    assert "<figure>" not in text
    assert "no space left" in text
    assert str(tmp_path) not in text
    assert "results=DIR" in text


@pytest.mark.parametrize(
    ("seeds", "gains", "diverged", "expected"),
    [
        (3, (0.02, 0.02), False, "so few seeds give an estimate only"),
        (6, (0.09, -0.09), False, "the interval spans both a loss and a gain of more than 0.5"),
        (6, (0.016, 0.002), False, "the interval spans both 0 and a gain of more than 0.5"),
        (6, (-0.016, -0.002), False, "the interval spans both 0 and a loss of more than 0.5"),
        (6, (0.02, 0.02), True, "a divergence blocks the verdict"),
        (6, (0.02, 0.02), False, ""),
    ],
)
def test_why_a_verdict_is_open(
    seeds: int, gains: tuple[float, float], diverged: bool, expected: str, tmp_path: Path
) -> None:
    plan = plan_of("task=rte", "transform=lora,shim", f"seed=range(0,{seeds})")
    for cell in plan.cells:
        seed, method = cell.config.seed, cell.config.adapter.method
        value = 0.6 + (gains[seed % 2] if method == "shim" else 0.0)
        record = make_record(cell, {ACCURACY: (value, value)})
        if diverged and method == "shim" and seed == 0:
            record.status, record.diverged, record.metrics = "failed", True, []
        save_record(tmp_path / "runs", record)
    (card,) = cards(View(plan, load_evidence(tmp_path / "runs")))
    assert card.why.lower().startswith(expected) if expected else card.why == ""


def test_nothing_is_said_where_a_task_is_missing(tmp_path: Path) -> None:
    plan = plan_of("task=rte,mrpc", "transform=lora,shim", "seed=0,1,2")
    for cell in plan.cells:
        if cell.config.task.name == "rte":
            save_record(tmp_path / "runs", make_record(cell, {ACCURACY: (0.6, 0.6)}))
    evidence = load_evidence(tmp_path / "runs")
    text = build([View(plan, evidence)], tmp_path, "report.html", ["task=rte,mrpc", "seed=0,1,2"])
    words = " ".join(first_screen(text).split())
    assert "Nothing can be said yet. No method has a finished pair of runs with LoRA on every task." in words
    assert "python -m mtlora.reproduce glue task=rte,mrpc seed=0,1,2" in text, "the sweep that the report is of"


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ({"matched": (2.0, 2.0), "published": (2.0, 2.0)}, "Yes."),
        ({"matched": (2.0, -2.0), "published": (2.0, -2.0)}, "In part."),
        ({"matched": (2.0, -2.0), "published": (2.0, 2.0)}, "It depends on the protocol."),
        ({"matched": (0.0, 0.0), "published": (2.0, 2.0)}, "It depends on the protocol."),
        ({"matched": (0.0, -2.0), "published": (0.0, 0.0)}, "No."),
        ({"matched": (0.1, 0.1), "published": (0.1, 0.1)}, "Yes, but by little."),
    ],
)
def test_the_answer_is_a_plain_yes_only_under_every_protocol(
    gains: dict[str, tuple[float, float]], expected: str, tmp_path: Path
) -> None:
    given = ["task=rte", "transform=lora,shim,ctcm", "seed=range(0,6)", "protocol=published,matched"]
    plan = plan_of(*given)
    for cell in plan.cells:
        c = cell.config
        gain = {"lora": 0.0, "shim": gains[c.protocol][0], "ctcm": gains[c.protocol][1]}[c.adapter.method]
        value = 0.6 + gain / 100 + (c.seed % 2) * 1e-4 * (c.adapter.method != "lora")
        save_record(tmp_path / "runs", make_record(cell, {ACCURACY: (value, value)}))
    evidence = load_evidence(tmp_path / "runs")
    text = build([View(plan, evidence)], tmp_path, "report.html", ["model=tiny", *given])
    words = " ".join(first_screen(text).split())
    assert f" {expected} Compared with LoRA" in words
    assert "any interval of one table and setting misses the true difference" in words


def test_the_answer_names_the_protocol_that_is_undecided(tmp_path: Path) -> None:
    plan = plan_of("task=rte", "transform=lora,shim", "seed=range(0,6)", "protocol=published,matched")
    for cell in plan.cells:
        up = 0.02 + cell.config.seed % 2 * (1e-4 if cell.config.protocol == "matched" else -0.03)
        value = 0.6 + up * (cell.config.adapter.method == "shim")
        save_record(tmp_path / "runs", make_record(cell, {ACCURACY: (value, value)}))
    assert answer([View(plan, load_evidence(tmp_path / "runs"))]).open == (
        "Why not decided: SHIM (published): the interval spans both a loss and a gain of more than 0.5."
    )


@pytest.mark.parametrize("started", [True, False])
def test_learning_rates_have_a_section(started: bool, tmp_path: Path) -> None:
    plan = make_plan(
        load_experiment("glue"), ["model=tiny", "task=rte", "transform=lora,shim", "seed=0", f"results={tmp_path}"]
    )
    if started:
        save_record(tmp_path / "runs", make_record(plan.cells[0], {ACCURACY: (0.6, 0.6)}))
    evidence = load_evidence(tmp_path / "runs")
    assert "Learning rates" not in build([View(plan, evidence)], tmp_path, "report.html")
    tuning = make_tuning(["lora", "shim"], [["rte"]], [0.5, 1.0, 2.0], lambda *a: 60 - a[2], shares={"shim": 0.7})
    write_tuning(plan, tuning)
    text = build([View(plan, evidence)], tmp_path, "report.html")
    section = text[text.index('<h2 id="rates">Learning rates</h2>') : text.index('<h2 id="missing">')]
    assert '<a href="#rates">' in text
    assert "GLUE: learning rates" in section
    assert "only 70.0% of the resamples choose x 0.5" in section
    assert ("The runs in the tables above do not use them: protocol matched." in section) == started
    figures = re.findall(r'<img src="data:image/svg\+xml[^"]*" alt="(GLUE: [^"]{40,})"', section)
    assert [figure.split(".")[0] for figure in figures] == [
        "GLUE: score against learning rate",
        "GLUE: best score expected after k factors",
    ]
    assert {"glue_rates.png", "glue_trials.svg"} <= {path.name for path in (tmp_path / "figures").iterdir()}
    (tmp_path / "tuned" / "glue.yaml").write_text("no: tuning")
    assert "Learning rates" not in build([View(plan, evidence)], tmp_path, "report.html")
