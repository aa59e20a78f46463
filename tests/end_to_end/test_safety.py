"""What comes from outside cannot run code here, and what is secret stays out of what we write."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from builtin_text.tokenizers import word_tokenizer
from helpers.tiny_runs import cell_in, execute, finish
from transformers import BertConfig

from mtlora.base.errors import UserError
from mtlora.plan.cell import compose_cell
from mtlora.train.model.backbones import load_backbone, load_tokenizer

SHAPE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


class Touch:
    """Unpickled by a reader that is not careful, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Touch(tmp_path / "trap")))
    assert (tmp_path / "trap").is_dir()


def test_pickled_weights_run_no_code(tmp_path: Path) -> None:
    folder, trap = tmp_path / "snapshot", tmp_path / "trap"
    word_tokenizer().save_pretrained(folder)
    BertConfig(vocab_size=1000, **SHAPE).save_pretrained(folder)
    torch.save({"weight": Touch(trap)}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="damaged, or hold more than tensors"):
        execute(cell_in(tmp_path, f"model.path={folder}"))
    assert not trap.exists()


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "snapshot"
    word_tokenizer().save_pretrained(folder)
    BertConfig(vocab_size=1000, **SHAPE).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"\x10" + bytes(40))
    with pytest.raises(UserError, match="damaged, or hold more than tensors"):
        execute(cell_in(tmp_path, f"model.path={folder}"))


def test_a_pickled_checkpoint_runs_no_code(tmp_path: Path) -> None:
    cell, trap = cell_in(tmp_path), tmp_path / "trap"
    cell.folder.mkdir(parents=True)
    torch.save({"identity": cell.sha, "tensors": Touch(trap)}, cell.folder / "checkpoint.pt")
    assert execute(cell).status == "success"
    assert not trap.exists()


def test_code_that_comes_with_a_model_is_refused_without_a_question(tmp_path: Path) -> None:
    folder, trap = tmp_path / "snapshot", tmp_path / "trap"
    word_tokenizer().save_pretrained(folder)
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(trap)!r})\n")
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForSequenceClassification": "own.M"}}
    (folder / "config.json").write_text(json.dumps(own))
    config = compose_cell(["model=tiny", "task=cola", f"model.path={folder}"]).config
    with pytest.raises(UserError, match="cannot be loaded"):
        load_backbone(config, len(load_tokenizer(config.model)))
    assert not trap.exists()


def test_no_key_reaches_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    key = "5ec2e7" * 6 + "abcd"  # as long as wandb's keys are
    for name in ("WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, key)
    finish(tmp_path, "tracking=wandb", "train.epochs=1")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert not [path for path in files if key.encode() in path.read_bytes()]
    assert key not in "".join(capfd.readouterr())
