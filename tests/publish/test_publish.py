"""What `mtlora.publish` writes of a run and of a study, and its upload to a stand-in of the hub."""

import json
import re
import shutil
import stat
from dataclasses import asdict
from pathlib import Path

import huggingface_hub
import pandas as pd
import pytest
import torch
from helpers.glue_files import one_line
from helpers.hub_server import COMMIT, HubServer
from helpers.tiny_runs import cell_in, execute
from huggingface_hub import DatasetCard, ModelCard
from transformers import PretrainedConfig

from mtlora.base.errors import UserError
from mtlora.base.paths import REPOSITORY
from mtlora.data.sources import load_contexts, load_split
from mtlora.plan.cell import Cell, compose_cell
from mtlora.publish.__main__ import main
from mtlora.publish.adapter import base_code, data_source, eval_results
from mtlora.publish.portable import portable
from mtlora.records.record import RunRecord
from mtlora.report.verdicts import answer
from mtlora.score import text
from mtlora.tables import __main__ as tables
from mtlora.tables.command import load, parser, split_by_runs
from mtlora.train.model.backbones import load_tokenizer
from mtlora.train.model.build import build_model, load_trained

pytestmark = pytest.mark.xdist_group("publish")  # one process publishes the run and the study, once

STUDY = REPOSITORY / "results" / "studies" / "2026-minilm-glue"


def publish(monkeypatch: pytest.MonkeyPatch, source: Path, out: Path, *more: str) -> None:
    monkeypatch.setattr("sys.argv", ["publish", str(source), "--out", str(out), *more])
    main()


def refusal(monkeypatch: pytest.MonkeyPatch, source: Path, out: Path, *more: str) -> str:
    with pytest.raises(UserError) as error:
        publish(monkeypatch, source, out, *more)
    return one_line(error)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    """A finished run whose T is not the identity."""
    made = cell_in(tmp_path_factory.mktemp("machine"), "task=rte", "transform=ctcm", "train.learning_rate=0.05")
    execute(made)
    return made


@pytest.fixture(scope="module")
def published(cell: Cell, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        publish(patch, cell.folder, out := tmp_path_factory.mktemp("out") / "ctcm")
    return out


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        publish(patch, STUDY, out := tmp_path_factory.mktemp("out") / "study", "--license", "apache-2.0")
    return out


def code_blocks(folder: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)


def test_the_code_of_the_card_loads_the_trained_model_both_ways(
    cell: Cell, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = build_model(cell.config, load_tokenizer(cell.config.model)).eval()
    load_trained(trained, cell.folder / "adapter_model.safetensors")
    ids = torch.arange(5, 45).reshape(2, 20)
    base, lora, own = code_blocks(published)
    monkeypatch.chdir(published.parent)
    with torch.no_grad():
        expected = trained(input_ids=ids).logits
        for code in (lora, own):
            names: dict[str, object] = {}
            exec(base + code, names)
            model = names["model"].eval()  # type: ignore[attr-defined]
            assert torch.allclose(model(input_ids=ids).logits, expected, atol=1e-5)
            with model.disable_adapter():
                assert not torch.allclose(model(input_ids=ids).logits, expected, atol=1e-3), "the adapter has no effect"
    assert json.loads((published / "lora/adapter_config.json").read_text())["peft_type"] == "LORA"


def test_the_card_has_the_metrics_of_the_record(cell: Cell, published: Path) -> None:
    record = RunRecord.load(published / "record.json")
    assert (record.config_sha, record.metrics) == (cell.sha, RunRecord.load(cell.folder / "record.json").metrics)
    card = ModelCard.load(published / "README.md")
    found = {(r.metric_type, r.dataset_split): r.metric_value for r in card.data.eval_results or []}
    assert found == {("accuracy", "validation"): record.metric("accuracy", "validation")}
    assert card.data.library_name == "peft"
    assert card.data.base_model is None
    assert {"mtlora", "arxiv:2403.07440"} <= set(card.data.tags or [])
    assert "- PEFT " in card.text, "PEFT's own part"
    for part in ("CTCM", "rte", "seed 0", "matched", "(record.json)", cell.sha, "for tests only"):
        assert part in card.content, part
    assert "More Information Needed" not in card.content
    assert "{{" not in card.content


def test_neither_texts_of_the_data_nor_paths_of_the_machine_are_published(cell: Cell, published: Path) -> None:
    files = contents(published)
    assert not [name for name, content in files.items() if str(REPOSITORY).encode() in content]
    assert not [name for name, content in files.items() if cell.config.results.encode() in content]
    for split in ("train", "validation"):
        for column in cell.config.task.text_columns:
            for sentence in load_split(cell.config.task, cell.config.data, split)[column]:
                assert not [name for name, content in files.items() if sentence.encode() in content]
    rows = [json.loads(line) for line in files["predictions.jsonl"].splitlines()]
    assert len(rows) == 200
    assert all(set(row) == {"split", "index", "prediction", "label"} for row in rows)


def test_modes_and_files(published: Path, study: Path) -> None:
    for path in (*published.rglob("*"), *study.rglob("*"), published, study):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path
    assert list(published.parent.iterdir()) == [published], "nothing beside it"
    assert set(contents(published)) == {
        *("README.md", "adapter_config.json", "adapter_model.safetensors", "record.json", "metrics.jsonl"),
        *("geometry.jsonl", "predictions.jsonl", "lora/adapter_config.json", "lora/adapter_model.safetensors"),
    }


def test_decoded_texts_and_their_references_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "java_works", lambda: False)
    wanted = ("task=webnlg", "model=tiny_gpt2", "transform=shim", "train.epochs=1", "train.limit_examples=16")
    short = ("train.limit_validation=8", "decode.max_new_tokens=3", "decode.limit_contexts=8", "decode.beams=1")
    cell = cell_in(tmp_path / "results", *wanted, *short)
    execute(cell)
    (cell.folder / "README.md").write_text("a note of the user")
    publish(monkeypatch, cell.folder, out := tmp_path / "out")
    files = contents(out)
    assert "predictions.jsonl" not in files
    assert b"a note of the user" not in files["README.md"]
    contexts = load_contexts(cell.config.task, cell.config.data)
    texts = {part for context in contexts for part in (context.facts, *context.references)}
    assert not [name for name, content in files.items() for part in texts if part.encode() in content]
    card = ModelCard.load(out / "README.md")
    assert not card.data.eval_results, "of 8 contexts only"
    assert {"bleu", "ter"} <= set(card.data.metrics or [])
    assert card.data.pipeline_tag == "text-generation"


def test_a_text_among_the_predictions_is_refused(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(cell.folder, run := tmp_path / "run")
    for more in ({"sentence": "a text"}, {"prediction": "a text"}, {"split": 1, "label": None}):
        row = {"split": "validation", "index": 0, "prediction": 1, "label": 1}
        (run / "predictions.jsonl").write_text(json.dumps(row | more) + "\n")
        assert (
            "predictions.jsonl:1: not a row with split, and index, prediction and label as numbers, and nothing else"
            in refusal(monkeypatch, run, tmp_path / "out")
        )
    assert not (tmp_path / "out").exists()


def test_a_method_that_is_no_mtlora_has_no_lora_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = cell_in(tmp_path / "results", "transform=dora", "train.epochs=1")
    execute(cell)
    publish(monkeypatch, cell.folder, out := tmp_path / "out")
    assert not (out / "lora").exists()
    assert len(code_blocks(out)) == 2
    assert "B T A" not in (out / "README.md").read_text()


def test_what_cannot_be_published(cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(cell.folder, run := tmp_path / "run")
    out = tmp_path / "out"
    assert "has neither record.json nor records.jsonl" in refusal(monkeypatch, tmp_path, out)
    assert "has neither" in refusal(monkeypatch, tmp_path / "nowhere", out)
    record = RunRecord.load(run / "record.json")
    for status in ("running", "failed", "interrupted"):
        record.status = status  # type: ignore[assignment]
        record.save(run)
        assert f"its status is {status}" in refusal(monkeypatch, run, out)
    record.status = "success"
    record.save(run)
    assert "only the tables of a study" in refusal(monkeypatch, run, out, "train.epochs=3")
    assert "not the name of a repository" in refusal(monkeypatch, run, out, "--push", "a/b/c")
    assert "--push needs --license" in refusal(monkeypatch, run, out, "--push", "a/b")
    own = record.config["model"]
    record.config["model"] = asdict(compose_cell(["task=rte", "model=minilm", "model.quantization=nf4"]).config.model)
    record.save(run)
    assert "quantised to nf4" in refusal(monkeypatch, run, out)
    record.config["model"] = own
    record.save(run)
    (run / "adapter_model.safetensors").unlink()
    assert "cannot read" in refusal(monkeypatch, run, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"], "nothing is left behind"
    out.mkdir()
    (out / "mine").write_text("mine")
    assert "is not an empty folder" in refusal(monkeypatch, cell.folder, out)
    assert (out / "mine").read_text() == "mine"
    assert "choose another folder" in refusal(monkeypatch, cell.folder, Path("/proc/nowhere/out"))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert "from which this command runs" in refusal(monkeypatch, cell.folder, Path())


def test_a_study_keeps_every_record_and_makes_its_tables_again(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (study / "records.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == list(map(json.loads, (STUDY / "records.jsonl").read_text().splitlines()))
    frame = pd.read_csv(study / "metrics.csv")
    assert len(frame) == sum(len(json.loads(line)["metrics"]) for line in lines)
    wanted = frame[(frame.selection == "last") & (frame.name == "matthews") & (frame.protocol == "matched")]
    scores: dict[str, list[float]] = {}
    for record in map(json.loads, lines):
        if record["protocol"] == "matched":
            names = [(m["name"], m["selection"], m["value"]) for m in record["metrics"]]
            scores.setdefault(record["transform"], []).extend(v for *name, v in names if name == ["matthews", "last"])
    means = {method: sum(values) / len(values) for method, values in scores.items()}
    assert wanted.groupby("transform").value.mean().to_dict() == pytest.approx(means)
    shown = {method: round(100 * mean, 2) for method, mean in means.items()}
    assert shown == {"lora": 21.66, "shim": 18.40, "ctcm": 14.35}, "of the study's README"
    committed = [path for path in (STUDY / "tables").iterdir() if path.suffix in (".md", ".csv")]
    assert committed
    for path in committed:
        assert (study / "tables" / path.name).read_bytes() == path.read_bytes()
    shutil.copytree(study, again := tmp_path / "again")
    shutil.rmtree(again / "tables")
    assert "make tables RUNS=DIR" in (study / "README.md").read_text()
    monkeypatch.setattr("sys.argv", ["tables", "all", "--runs", str(again)])
    tables.main()
    assert contents(again / "tables") == contents(study / "tables")


def test_the_card_of_a_study_has_the_verdict_and_the_columns(study: Path) -> None:
    verdict = answer(split_by_runs(load(parser("tables", "").parse_args(["all", "--runs", str(STUDY)])))[0])
    card = DatasetCard.load(study / "README.md")
    assert verdict.short in card.text
    assert verdict.open in card.text
    described = re.findall(r"^\| `([\w.]+)` \| .+ \| .+ \|$", card.text.partition("## Columns")[2], re.MULTILINE)
    assert described == list(pd.read_csv(study / "metrics.csv").columns)
    assert card.data.license == "apache-2.0"
    assert "{{" not in card.content


def test_a_short_test_set_is_no_result_on_the_hub() -> None:
    short = [
        "task=webnlg",
        "model=tiny_gpt2",
        "data.source=builtin",
        "decode.limit_contexts=9",
        "train.limit_examples=8",
    ]
    config = compose_cell(short).config
    record = RunRecord.parse((STUDY / "records.jsonl").read_text().splitlines()[0])
    assert eval_results(record, config) == []
    assert "only 8 training rows; scored on at most 9 contexts" in data_source(config)
    assert eval_results(record, compose_cell(["task=cola"]).config)


def test_an_unfinished_record_and_records_without_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = json.loads((STUDY / "records.jsonl").read_text().splitlines()[0])
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "records.jsonl"
    file.write_text(json.dumps(record | {"status": "running"}) + "\n")
    assert "records.jsonl:1: " in refusal(monkeypatch, tmp_path / "in", tmp_path / "out")
    file.write_text('{"schema_version": 1}\n')
    assert "records.jsonl:1 is no record" in refusal(monkeypatch, tmp_path / "in", tmp_path / "out")
    record["config"]["train"]["epochs"] = 99
    file.write_text(json.dumps(record) + "\n")
    assert "make no table" in refusal(monkeypatch, tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("data.root=/home/me/my data/glue", "data.root=glue"),
        ("cannot read /home/me/run/record.json (no such file)", "cannot read record.json (no such file)"),
        ("/srv/models/roberta", "roberta"),
        ("https://huggingface.co/datasets/nyu-mll/glue", "https://huggingface.co/datasets/nyu-mll/glue"),
        (".*/layer", ".*/layer"),
        ("cannot read:/home/you/data/x", "cannot read:x"),
        ("PATHS=/a/b:/home/you/c", "PATHS=b:c"),
        ("RTE/train.tsv", "RTE/train.tsv"),
        ("rte/sst2 0/1", "rte/sst2 0/1"),
    ],
)
def test_paths_keep_their_last_part(value: str, expected: str) -> None:
    record = RunRecord.parse((STUDY / "records.jsonl").read_text().splitlines()[0])
    record.config["data"]["root"] = "/home/me/my data/glue"
    record.overrides = [value]
    values = portable(record)
    assert values["overrides"] == [expected]
    assert values["config"]["data"]["root"] == "glue"
    assert values["config_sha"] == record.config_sha


def test_upload(hub: HubServer, published: Path, cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, push = tmp_path / "out", ("--push", "someone/ctcm", "--license", "mit")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    assert "no access token" in refusal(monkeypatch, cell.folder, out, *push)
    assert contents(out).keys() == contents(published).keys(), "it is written before the upload"
    assert hub.asked == []
    shutil.rmtree(out)
    monkeypatch.setenv("HF_TOKEN", "mine")
    hub.writers = {"mine"}
    publish(monkeypatch, cell.folder, out, *push)
    assert hub.files["models/someone/ctcm", COMMIT] == contents(out)
    assert '"someone/ctcm", subfolder="lora"' in (out / "README.md").read_text()
    publish(monkeypatch, STUDY, tmp_path / "study", "--push", "someone/study", "--license", "mit")
    assert hub.files["datasets/someone/study", COMMIT] == contents(tmp_path / "study")
    publish(monkeypatch, cell.folder, tmp_path / "again", *push)
    assert hub.files["models/someone/ctcm", COMMIT] == contents(tmp_path / "again"), "an existing repository"


def test_the_code_of_the_card_for_each_kind_of_base_model() -> None:
    hub = compose_cell(["task=rte", "model=roberta_base", "profile=paper", "data.source=builtin"]).config
    line = base_code(hub, PretrainedConfig()).splitlines()[-1]
    assert line.startswith(
        'base = AutoModelForSequenceClassification.from_pretrained("FacebookAI/roberta-base", revision="e2da'
    )
    assert line.endswith(", num_labels=2)")
    hub.model.path = "/home/me/roberta"
    assert "/home/me" not in base_code(hub, PretrainedConfig())
    names: dict[str, object] = {}
    exec(base_code(compose_cell(["task=stsb", "model=minilm"]).config, PretrainedConfig()), names)
    assert names["base"].config.num_labels == 1  # type: ignore[attr-defined]
    gguf = base_code(
        compose_cell(["task=webnlg", "model=smollm2_135m", "data.source=builtin"]).config, PretrainedConfig()
    )
    assert gguf.endswith('AutoModelForCausalLM.from_pretrained(folder, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")')
    compile(gguf, "card", "exec")


def test_a_study_whose_tables_need_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pilot = STUDY.parent / "2026-cola-pilot"
    wanted = ("seed=10,11,12,13,14", "train.epochs=3", "train.batch_size=32", "train.warmup_ratio=0.06")
    publish(monkeypatch, pilot, out := tmp_path / "out", *wanted)
    card = (out / "README.md").read_text()
    assert f"    make tables SEEDS=10,11,12,13,14 {' '.join(wanted[1:])} RUNS=DIR\n" in card
    assert (out / "tuned/glue_study.yaml").read_bytes() == (pilot / "tuned/glue_study.yaml").read_bytes()
    name = "glue_study_protocols.md"
    assert (out / "tables" / name).read_bytes() == (pilot / "tables" / name).read_bytes()


def test_the_next_step_is_named(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my adapter"
    publish(monkeypatch, cell.folder, out)
    written, following = capsys.readouterr().err.splitlines()
    number = sum(path.is_file() for path in out.rglob("*"))
    assert written.startswith(f"written to {out}: the adapter as it was trained and as plain LoRA")
    assert written.endswith(f"({number} files; README.md is the card)")
    assert str(out / "README.md") in following
    command = f"rm -r '{out}' && python -m mtlora.publish {cell.folder} --out '{out}' --push USER/NAME --license NAME`"
    assert command in following
