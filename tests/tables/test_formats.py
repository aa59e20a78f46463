"""The formats of a table, and the tables beside that of scores: published numbers, geometry."""

import csv
import html
import json
import re
import shutil
import statistics
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from helpers.record_files import make_record, save_record
from helpers.texts import dart_plan, save_texts

from mtlora.plan.experiment import load_experiment
from mtlora.plan.grid import Plan, make_plan
from mtlora.report.plots import draw_all
from mtlora.tables.evidence import Evidence, load_evidence
from mtlora.tables.formats import html_page, latex, markdown
from mtlora.tables.layout import MISSING, TableCell, TextTable
from mtlora.tables.view import View
from mtlora.tables.write import all_tables, write_tables

NASTY = r"50% & <b>#1</b> a_b $x$ {y} ~ ^ \ | – − ± † ≥ Δ"
TABLE = TextTable(
    "nasty",
    NASTY,
    NASTY,
    ["Method", NASTY],
    [[TableCell(NASTY), TableCell("1.00 ± 0.10", 1.0, ("run-a", "run-b"), bold=True)], [TableCell("–"), MISSING]],
    notes=[NASTY],
)


def test_markdown() -> None:
    text = markdown(TABLE)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1, "columns line up"
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in lines)
    assert "**1.00** ± 0.10" in lines[2]


def test_html_escapes_and_names_the_runs() -> None:
    text = html_page(NASTY, [TABLE])
    assert "<b>#1" not in text
    assert html.escape(NASTY, quote=False).replace("'", "&#39;") in text
    (anchor,) = re.findall(r'popovertarget="([^"]+)"', text)
    popover = text[text.index(f'<div popover id="{anchor}"') :]
    assert re.findall(r"<li>(.*?)</li>", popover) == ["run-a", "run-b"]
    assert 'data-value="1.0"' in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("included", [False, True])
def test_latex_compiles_alone_and_inside_a_paper(included: bool, tmp_path: Path) -> None:
    (tmp_path / "table.tex").write_text(latex([TABLE, TABLE]), encoding="utf-8")
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}A\\input{table}B\\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper" if included else "table"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stdout[-2000:]


def test_latex_escapes_every_special_character() -> None:
    body = latex([TABLE]).split(r"\toprule")[1].split(r"\bottomrule")[0]
    assert r"\toprule" in latex([TABLE])
    for character in "%&#_":
        assert not re.search(rf"(?<!\\){character}", body.replace(" & ", "").replace(r"\\", "")), character
    assert r"\textbf{1.00} $\pm$ 0.10" in body


def test_latex_splits_a_wide_table_into_readable_blocks() -> None:
    cells = [TableCell("+2.25 [-11.51, 16.01]", 2.25) for _ in range(9)]
    header = ["Method", *(f"Seeds to see {i}" for i in range(9))]
    table = TextTable("wide", "Wide", "", header, [[TableCell("MTLoRA SHIM"), *cells]], notes=["A note."])
    text = latex([table])
    bodies = re.findall(r"\\midrule\n(.*?)\n\\bottomrule", text, re.DOTALL)
    assert [body.count("+2.25") for body in bodies] == [3, 3, 3], "as even as can be"
    assert all(body.startswith("MTLoRA SHIM & ") for body in bodies), "each block names its rows"
    assert max(map(len, bodies)) < 110
    assert re.findall(r"Seeds to see (\d)", text) == list("012345678")
    assert "A note." not in text[text.index(r"\caption") : text.index(r"\label")]
    assert "\n[" not in text.replace("{[}", "")


@lru_cache
def paper_plan() -> Plan:
    return make_plan(load_experiment("deberta"), ["profile=paper", "task=rte,qqp", "transform=lora,shim", "seed=0,1,2"])


def test_published_numbers_and_pairs_of_figures(tmp_path: Path) -> None:
    best = {"rte": (0.85, 0.86, 0.90), "accuracy": (0.91, 0.92, 0.93), "f1": (0.88, 0.89, 0.93)}
    for cell in paper_plan().cells:
        seed, gain = cell.config.seed, 0.0 if cell.config.adapter.structure == "none" else 0.01
        if cell.config.task.name == "rte":
            values = {("accuracy", "validation"): (0.5, best["rte"][seed] + gain)}
        else:
            values = {(m, "validation"): (0.5, best[m][seed] + gain) for m in ("accuracy", "f1")}
        save_record(tmp_path / "runs", make_record(cell, values))
    view = View(paper_plan(), load_evidence(tmp_path / "runs"))
    table = next(t for t in all_tables(view) if t.name == "deberta_paper-convention")
    rows = {row[0].text: dict(zip(table.header, (cell.text for cell in row), strict=True)) for row in table.rows}
    rte, pair = statistics.mean(best["rte"]), [statistics.mean(best[m]) for m in ("accuracy", "f1")]
    lora = rows["LoRA"]
    assert lora["RTE"] == f"{100 * rte:.2f} ± {100 * statistics.stdev(best['rte']):.2f}"
    assert [part.split(" ")[0] for part in lora["QQP acc/F1"].split(" / ")] == [f"{100 * v:.2f}" for v in pair]
    average = (rte + statistics.mean(pair)) / 2  # the pair counts as its mean
    assert lora["Average of 2"].startswith(f"{100 * average:.2f} ±")
    published = rows["LoRA, AdaLoRA arXiv 2303.10512 table 1"]
    assert (published["RTE"], published["QQP acc/F1"], published["Average of 2"]) == ("85.20", "91.99 / 89.38", "–")
    difference = rows["ours − published"]
    assert difference["RTE"] == f"{100 * rte - 85.2:+.2f}".replace("-", "−")
    assert difference["QQP acc/F1"] == f"{100 * pair[0] - 91.99:+.2f} / {100 * pair[1] - 89.38:+.2f}".replace("-", "−")
    assert "LoRA, AdaLoRA arXiv 2303.10512 table 1: a baseline, run by the authors of AdaLoRA." in table.notes
    assert rows["MTLoRA SHIM"]["Δ to LoRA"].startswith("+1.00")
    kept = {sha: r for sha, r in view.records.items() if (r.transform, r.seed, r.task) != ("shim", 2, "rte")}
    table = next(t for t in all_tables(View(paper_plan(), Evidence(kept))) if t.name == "deberta_paper-convention")
    rows = {row[0].text: dict(zip(table.header, (cell.text for cell in row), strict=True)) for row in table.rows}
    assert rows["MTLoRA SHIM"]["Δ to LoRA"] == "–", "the difference would be that of the seeds, too"


def test_every_file_and_its_runs(tmp_path: Path) -> None:
    save_texts(tmp_path / "runs")
    write_tables(View(dart_plan(), load_evidence(tmp_path / "runs")), tmp_path / "tables")
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    assert names == {f"dart{end}" for end in (".md", ".tex", ".html", ".csv", "_comparisons.csv", "_cost.csv")}
    with (tmp_path / "tables" / "dart_comparisons.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["method"], row["against"], row["metric"], row["pairs"]) for row in rows] == [
        ("shim", "lora", "bleu", "1"),
        ("shim", "lora", "ter", "1"),
    ]
    assert all(len(row["run_ids"].split(" ")) == 2 for row in rows)


def test_figure_of_the_geometry_and_a_damaged_file(tmp_path: Path) -> None:
    save_texts(tmp_path / "runs")
    shim = next(cell for cell in dart_plan().cells if cell.config.adapter.structure == "shim")
    path = tmp_path / "runs" / shim.run_id / "geometry.jsonl"
    row = {"module": "m", "singular_values": [4.0, 3.0], "eigenvalue_phases": [0.0, 1.0], "identity_distance": 0.7}
    # a change of (0.6, 0.8), whose norm is 1, from values whose norm is 5
    trained = row | {"epoch": 1, "singular_values": [4.6, 3.8]}
    path.write_text("".join(json.dumps(line) + "\n" for line in ({"epoch": 0} | row, trained)))
    view = View(dart_plan(), load_evidence(tmp_path / "runs"))
    assert view.geometry[0]["change"].tolist() == pytest.approx([0, 0.2])
    assert "dart_geometry" in [plot.name for plot in draw_all(view, tmp_path / "figures")]
    damaged: list[dict[str, Any]] = [{"identity_distance": "x"}, {"identity_distance": None}, {"epoch": [1]}]
    damaged += [{"singular_values": [10**400]}, {"singular_values": []}, {"eigenvalue_phases": float("nan")}]
    for change in damaged:
        path.write_text(json.dumps({"epoch": 0} | row | change) + "\n")
        view = View(dart_plan(), load_evidence(tmp_path / "runs"))
        assert "dart_geometry" not in [plot.name for plot in draw_all(view, tmp_path / "figures")]
        assert sum(str(path) in line for line in view.problems) == 1
