"""The examples of docs/extending.md, followed to the letter in a copy of the repository: each of them composes and trains."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mtlora.base.paths import REPOSITORY

PAGE = REPOSITORY / "docs" / "extending.md"
TINY = ["model=tiny", "train.epochs=1", "train.limit_examples=16"]

pytestmark = pytest.mark.xdist_group("extending")  # one process makes the costly fixture, once


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with every example of the page in its place, and a task's data."""
    folder = tmp_path_factory.mktemp("extended")
    for name in ("mtlora", "conf", "experiments", "hydra_plugins"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "results").mkdir()
    shutil.copy(REPOSITORY / "results" / "published.csv", folder / "results")
    blocks = re.findall(r"```(?:yaml|python)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        first = block.split("\n")[0]
        if first.startswith("# "):
            path = folder / first.removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.split("\n", 1)[1], encoding="utf-8")
        else:  # a row of the table of structures
            table = folder / "mtlora/adapter/transforms.py"
            head = "STRUCTURES: dict[str, Structure] = {\n"
            text = table.read_text(encoding="utf-8")
            assert head in text
            table.write_text(text.replace(head, f"{head}    {block}"), encoding="utf-8")
    shutil.copy(folder / "conf/recipe/minilm/boolq.yaml", folder / "conf/recipe/tiny")  # the small model of the tests
    rows = [
        {"question": f"is {i} odd", "passage": f"{i} is a number", "label": str(i % 2 == 1).lower()} for i in range(40)
    ]
    data = folder / "data" / "BoolQ"
    data.mkdir(parents=True)
    lines = ["question\tpassage\tlabel", *("\t".join(row.values()) for row in rows)]
    (data / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (data / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def python(copy: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_every_kind_has_an_example(copy: Path) -> None:
    for file in (
        *("conf/task/boolq.yaml", "conf/recipe/minilm/boolq.yaml", "conf/model/bert_base.yaml"),
        *("conf/transform/triangular.yaml", "conf/transform/loha.yaml", "conf/transform/doubled.yaml"),
        *("experiments/learning_rate.yaml", "doubled_method.py"),
    ):
        assert (copy / file).is_file()


def test_the_table_trains_the_structure_and_the_peft_methods(copy: Path) -> None:
    methods = "transform=lora,triangular,loha,doubled"
    out = python(copy, "-m", "mtlora.reproduce", "learning_rate", methods, "seed=0", *TINY, "--jobs", "1")
    assert "**Learning rate**" in out
    for label in ("MTLoRA triangular", "LoHa", "Doubled"):
        assert label in out
    records = [json.loads(path.read_text()) for path in (copy / "results/runs").rglob("record.json")]
    assert {record["status"] for record in records} == {"success"}
    sizes = {record["transform"]: record["parameters"]["adapter"] for record in records}
    assert sizes["triangular"] - sizes["lora"] == 4 * (8 * 9 // 2), "4 modules, half of each T"


def test_the_task_trains_on_its_files(copy: Path) -> None:
    python(
        copy, "-m", "mtlora.train", "task=boolq", "transform=triangular", *TINY, "data.source=local", "data.root=data"
    )
    (path,) = (copy / "results/runs/glue/boolq").rglob("record.json")
    assert json.loads(path.read_text())["metrics"][0]["name"] == "accuracy"


@pytest.fixture(scope="module")
def printed(copy: Path) -> list[str]:
    """The lines of one process that imports the copy: importing torch and transformers takes seconds."""
    code = """
import re
from transformers import BertConfig, BertForSequenceClassification
from mtlora.plan.cell import compose_cell
model = compose_cell(["model=bert_base", "task=rte", "recipe=minilm/rte"]).config.model
small = BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, vocab_size=9)
names = [name for name, _ in BertForSequenceClassification(small).named_modules()]
for name, wanted in {"qv": 4, "official": 8, "all": 12}.items():
    print(name, sum(bool(re.fullmatch(model.target_sets[name].modules, module)) for module in names) == wanted)
print(all(any(module.endswith(head) for module in names) for head in model.head))

from mtlora.adapter import MTLoraConfig
from mtlora.adapter.transforms import STRUCTURES, Structure
import torch
STRUCTURES["rotation"] = Structure("C", lambda c: torch.matrix_exp(c - c.mT))
try:
    MTLoraConfig(structure="rotation", init_weights="zero_t")
except ValueError as error:
    print(error)
MTLoraConfig(structure="triangular", init_weights="zero_t")
"""
    return python(copy, "-c", code).splitlines()


def test_the_model_composes_and_its_patterns_match(printed: list[str]) -> None:
    assert printed[:4] == ["qv True", "official True", "all True", "True"]


def test_zero_t_is_refused_where_t_is_not_0(printed: list[str]) -> None:
    (line,) = printed[4:]
    assert "with C = D = 0 either T is not 0" in line
