"""Runs on data and models of a stand-in of the hub: fetched once, then never asked for, and never with an empty tokenizer."""

import json
from pathlib import Path

import huggingface_hub
import pytest
from builtin_text.tokenizers import word_tokenizer
from helpers.glue_files import one_line, option
from helpers.hub_server import COMMIT, HubServer, rte_files
from helpers.tiny_runs import cell_in, execute, finish
from transformers import AutoModel, RobertaConfig

from mtlora.base.errors import UserError
from mtlora.config.schema import ModelConfig
from mtlora.plan.model_files import fetch_model, needed_files
from mtlora.records.record import RunRecord
from mtlora.train import data as run_data
from mtlora.train.model import build
from mtlora.train.model.backbones import load_tokenizer

NAME = "someone/encoder"
MODEL = [f"model.hub={NAME}", f"model.revision={COMMIT}"]
DATA = ["data.source=hub", f"task.hub.revision={COMMIT}", "task.sizes.train=6", "task.sizes.validation=4"]
RUN = ["task=rte", "model=roberta_base", "init_from=none", *MODEL, *DATA]
RUN += ["train.limit_examples=4", "train.batch_size=2", "train.epochs=1", "data.max_length=32"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a small RoBERTa with random weights, and some that are not needed."""
    folder, tokenizer = tmp_path_factory.mktemp("encoder"), word_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = RobertaConfig(**shape, vocab_size=len(tokenizer), max_position_embeddings=140, pad_token_id=0)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return found | {"pytorch_model.bin": b"the same weights", "onnx/config.json": b"{}", "tf_model.h5": b"not wanted"}


@pytest.fixture(autouse=True)
def _nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_data, "_data", {})
    monkeypatch.setattr(build, "_loaded", {})


def model() -> ModelConfig:
    return ModelConfig(name="encoder", source="hub", hub=NAME, revision=COMMIT)


def test_a_run_after_the_download_asks_nothing(
    hub: HubServer, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("model", NAME, files)
    hub.add("dataset", "nyu-mll/glue", rte_files(option("rte")))
    fetch_model(model())
    asked = {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert asked == {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}, "weights once"
    cell = cell_in(tmp_path, *RUN)
    run_data.load_data(cell)  # fetches the rows
    monkeypatch.setattr(run_data, "_data", {})
    hub.faults = [(".", 500)]
    hub.asked.clear()
    record, folder = execute(cell), cell.folder
    assert hub.asked == []
    assert record.status == "success"
    assert record.provenance["data_commit"] == f"nyu-mll/glue/rte@{COMMIT}"
    assert record.provenance["model_content"] == f"{NAME}@{COMMIT}"
    adapter = json.loads((folder / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == (NAME, COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert finish(tmp_path, *RUN, "transform=full")[0].status == "success"


def test_safetensors_are_preferred() -> None:
    base = ["config.json", "tokenizer.json", "README.md", "onnx/config.json", "pytorch_model.bin", "flax_model.msgpack"]
    assert needed_files(base) == ["config.json", "tokenizer.json", "pytorch_model.bin"]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = "model.safetensors.index.json"
    assert needed_files([*base, index, *shards]) == ["config.json", "tokenizer.json", index, *shards]
    deberta = ["config.json", "generator_config.json", "pytorch_model.bin", "pytorch_model.generator.bin", "spm.model"]
    assert sorted(needed_files(deberta)) == sorted(set(deberta) - {"pytorch_model.generator.bin"})


@pytest.mark.parametrize(
    "lacking", ["config.json", "tokenizer.json", "spm.model", "merges.txt", "vocab.json", "model.safetensors"]
)
def test_a_part_of_a_model_is_no_model(lacking: str) -> None:
    whole = {
        "tokenizer.json": ["config.json", "model.safetensors", "tokenizer.json", "vocab.json"],
        "spm.model": ["config.json", "model.safetensors", "tokenizer_config.json", "spm.model"],
    }.get(lacking, ["config.json", "model.safetensors", "tokenizer_config.json", "vocab.json", "merges.txt"])
    assert needed_files(whole) != []
    assert needed_files([name for name in whole if name != lacking]) == []


@pytest.mark.parametrize(("status", "part"), [(500, "the hub has an error of its own"), (429, "too many requests")])
def test_tokenizer_files_that_do_not_come(
    hub: HubServer, files: dict[str, bytes], tmp_path: Path, status: int, part: str
) -> None:
    hub.add("model", NAME, files)
    hub.add("dataset", "nyu-mll/glue", rte_files(option("rte")))
    hub.faults = [("/resolve/.*token", status)]
    cell = cell_in(tmp_path, *RUN)
    with pytest.raises(UserError, match=part) as error:
        execute(cell)
    one_line(error)
    assert RunRecord.load(cell.folder / "record.json").status == "failed"
    hub.faults = []  # what has come is a part, which the next attempt completes
    assert execute(cell).status == "success"


def test_a_repository_without_a_tokenizer(hub: HubServer, files: dict[str, bytes]) -> None:
    hub.add("model", NAME, {name: content for name, content in files.items() if not name.startswith("token")})
    with pytest.raises(UserError, match=f"{NAME} at {COMMIT} has no tokenizer: correct model.hub") as error:
        load_tokenizer(model())
    one_line(error)


def test_an_empty_tokenizer_is_refused_from_a_folder_too(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(files["config.json"])
    local = ModelConfig(name="encoder", source="hub", path=str(tmp_path))
    for name, content in (("vocab.json", "{}"), ("merges.txt", "#version: 0.2\n")):
        with pytest.raises(UserError, match="holds no tokenizer: save it there"):
            load_tokenizer(local)
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="holds no tokenizer: save it there"):
        load_tokenizer(local)


def test_an_unknown_model_type_is_one_line(hub: HubServer, files: dict[str, bytes], tmp_path: Path) -> None:
    config = json.loads(files["config.json"]) | {"model_type": "strange"}
    hub.add("model", NAME, files | {"config.json": json.dumps(config).encode()})
    with pytest.raises(UserError, match="has model type `strange`") as error:
        load_tokenizer(model())
    one_line(error)
    with pytest.raises(
        UserError, match=r"Unrecognized model identifier: strange\): correct model.architecture"
    ) as error:
        execute(cell_in(tmp_path, "model.architecture.model_type=strange"))
    one_line(error)


def test_data_that_change_after_the_plan(hub: HubServer, tmp_path: Path) -> None:
    cell = cell_in(tmp_path, "model=tiny", "task=rte", *DATA)
    assert cell.sha
    cell.config.task.hub.revision = "c" * 40
    with pytest.raises(UserError, match="the data of rte have changed since this run was planned"):
        execute(cell)
