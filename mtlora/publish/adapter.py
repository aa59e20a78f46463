"""The adapter of a run, as MTLoRA and as plain LoRA, with its record and a model card."""

import json
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from peft import PeftModel
from tabulate import tabulate
from transformers import PretrainedConfig

from mtlora.base.errors import UserError
from mtlora.base.files import readable, write_jsonl, write_text
from mtlora.config.checks import to_run_config
from mtlora.config.schema import ModelConfig, RunConfig
from mtlora.publish.portable import portable
from mtlora.records.predictions import numbers_only
from mtlora.records.record import GEOMETRY, PREDICTIONS, RECORD, RunRecord
from mtlora.train.model.backbones import load_tokenizer
from mtlora.train.model.build import build_model, load_trained, weights_file

TEMPLATE = Path(__file__).parent / "model_card.md"
CARD = "README.md"
LORA = "lora"  # the folder of the plain LoRA adapter
HUB_NAMES = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr", "rouge_l": "rouge"}


def write_adapter(run: Path, out: Path, name: str, licence: str) -> None:
    """Write the adapter of a finished run into an empty folder.

    Args:
        run: the run's folder.
        out: the folder to write.
        name: the repository or folder that the card's code loads.
        licence: as the hub names it.

    Raises:
        UserError: the run is not finished, has no adapter, or its base model cannot be loaded.
    """
    record = RunRecord.load(run / RECORD)
    if record.status != "success":
        raise UserError(f"{run} is not a finished run (its status is {record.status}): publish one that has succeeded")
    config = config_of(record)
    if config.adapter.full:
        raise UserError(f"{run} trained the whole model (transform={record.transform}): it has no adapter to publish")
    if config.model.quantization:
        raise UserError(
            f"{run} was trained on a backbone quantised to {config.model.quantization}, which the card cannot load yet: "
            "publish a run in full precision"
        )
    model = build_model(config, load_tokenizer(config.model))
    assert isinstance(model, PeftModel)
    load_trained(model, run / weights_file(config))
    base: Any = model.get_base_model()
    # PEFT writes the name of the base model; without a repository on the hub it would be a folder of this machine.
    repository = config.model.hub if on_hub(config.model) else None
    base.name_or_path = model.active_peft_config.base_model_name_or_path = repository
    base.config.name_or_path = repository or ""

    for file in ("metrics.jsonl", GEOMETRY):
        if (run / file).is_file():
            with readable(run / file):
                shutil.copyfile(run / file, out / file)
    if config.task.kind != "generation" and (run / PREDICTIONS).is_file():
        write_jsonl(out / PREDICTIONS, numbers_only(run / PREDICTIONS))
    write_text(out / RECORD, json.dumps(portable(record), indent=1, allow_nan=False) + "\n")
    if hasattr(model, "save_as_lora"):
        model.save_as_lora(out / LORA)
    fill_card(record, config, base.config, name, licence, out).save(out / CARD)
    model.save_pretrained(str(out), save_embedding_layers=False)  # PEFT adds its part to the card
    finish_card(out / CARD, repository)


def config_of(record: RunRecord) -> RunConfig:
    """Return the configuration of a record.

    Raises:
        UserError: it is one of another version of this code.
    """
    try:
        return to_run_config(OmegaConf.merge(OmegaConf.structured(RunConfig), record.config))
    except OmegaConfBaseException as error:
        reason = str(error).split("\n")[0]
        commit = (record.provenance.get("git") or {}).get("commit")
        raise UserError(
            f"{record.run_id} has a configuration of another version of this code ({reason}): publish it with commit {commit}"
        ) from None


def on_hub(model: ModelConfig) -> bool:
    """Tell whether the base model was read from the hub, at its pinned revision."""
    return model.source == "hub" and model.path is None


def fill_card(
    record: RunRecord, config: RunConfig, base: PretrainedConfig, name: str, licence: str, out: Path
) -> ModelCard:
    """Return the model card of a run; PEFT adds the base model, tags and its version when it saves the adapter."""
    title = f"{config.adapter.label}, r = {record.rank}, on {record.task} ({record.model}, seed {record.seed})"
    data = ModelCardData(
        model_name=title,
        license=licence,
        datasets=[str(config.task.hub.path)] if config.data.source == "hub" else None,
        metrics=sorted({hub_name(metric["name"]) for metric in record.metrics}),
        eval_results=eval_results(record, config),
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=title,
        name=name,
        licence=licence,
        record=record,
        config=config,
        base_model=base_model(config.model),
        base_code=base_code(config, base),
        rows=data_source(config),
        metrics=metrics_table(record),
        packages={key: value for key, value in (record.provenance.get("packages") or {}).items() if value},
        files={path.name for path in out.iterdir()},
        texts=config.task.kind == "generation",
    )


def finish_card(path: Path, repository: str | None) -> None:
    """Add the tags of the method, and remove what PEFT writes about a base model that is not on the hub."""
    card = ModelCard.load(path)
    tags = [tag for tag in card.data.tags or [] if repository or not tag.startswith("base_model:")]
    card.data.tags = sorted({*tags, "mtlora", "arxiv:2403.07440"})
    card.data.base_model = repository
    card.save(path)


def hub_name(metric: str) -> str:
    """Return the hub's name of a metric."""
    return HUB_NAMES.get(metric, metric)


def eval_results(record: RunRecord, config: RunConfig) -> list[EvalResult]:
    """Return the metrics of the last epoch for the card's model index; raw values, as in the record."""
    if config.data.split == "tune" or (config.decodes and config.decode.limit_contexts):
        return []  # not scored on the split that the hub would name
    task, source = config.task, config.data.source
    made_up = source == "builtin"
    return [
        EvalResult(
            task_type="text-generation" if task.kind == "generation" else "text-classification",
            dataset_type="mtlora-builtin" if made_up else str(task.hub.path),
            dataset_name=f"{task.name} (made-up texts of the harness)" if made_up else task.name,
            dataset_config=None if made_up else task.hub.name,
            dataset_split=metric["split"],
            dataset_revision=task.hub.revision if source == "hub" else None,
            metric_type=hub_name(metric["name"]),
            metric_name=f"{metric['name']}, last epoch",
            metric_value=metric["value"],
        )
        for metric in record.metrics
        if metric["selection"] == "last"
    ]


def metrics_table(record: RunRecord) -> str:
    """Return the metrics as a Markdown table, on their usual scales."""
    rows = [{"split": split, "metric": name} | values for (split, name), values in record.shown_metrics().items()]
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def data_source(config: RunConfig) -> str:
    """Name the rows that a run read."""
    task, data = config.task, config.data
    made = {
        "hub": f"[{task.hub.path}](https://huggingface.co/datasets/{task.hub.path}), {task.hub.name}",
        "local": f"files of {task.name} on disk, in the layout of the official release",
        "builtin": "made-up texts of the harness in the form of this task: the metrics say nothing about the real one",
    }[data.source]
    limit, contexts = config.train.limit_examples, config.decode.limit_contexts if config.decodes else None
    parts = (
        made,
        f"only {limit} training rows" if limit else "",
        "partial training data" if data.subset else "",
        f"scored on at most {contexts} contexts of the test set" if contexts else "",
        "tuning split" if data.split == "tune" else "",
    )
    return "; ".join(filter(None, parts))


def base_model(model: ModelConfig) -> str:
    """Name the base model and what identifies its weights."""
    if model.path is not None:
        return f"{model.name}, read from a folder; the record's `provenance.model_content` is a hash of its files"
    if model.source == "hub":
        return f"[{model.hub}](https://huggingface.co/{model.hub}) at revision `{model.revision}`"
    if model.source == "package":
        return f"{model.name}, from the Python package `{model.package}`; its weights have the sha256 `{model.weights_sha256}`"
    return f"{model.name}, a random model for tests"


def base_code(config: RunConfig, base: PretrainedConfig) -> str:
    """Return the Python lines that load the base model with an untrained head."""
    model, generates = config.model, config.task.kind == "generation"
    kind = "AutoModelForCausalLM" if generates else "AutoModelForSequenceClassification"
    options = "" if generates else f", num_labels={len(config.task.labels) or 1}"
    if model.source == "random" and model.path is None:
        values = ", ".join(
            f"{key}={value!r}" for key, value in (model.architecture | {"vocab_size": base.vocab_size}).items()
        )
        return (
            f"import torch\nfrom transformers import AutoConfig, {kind}\n\ntorch.manual_seed(0)\n"
            f"base = {kind}.from_config(AutoConfig.for_model({values}{options}))"
        )
    if model.source == "package" and model.path is None:
        gguf = f', gguf_file="{model.gguf}"' if model.gguf else ""
        return (
            f"from importlib.util import find_spec\nfrom pathlib import Path\n\nfrom transformers import {kind}\n\n"
            f'folder = Path(find_spec("{model.package}").origin).parent / "{model.folder}"\n'
            f"base = {kind}.from_pretrained(folder{options}{gguf})"
        )
    where = f'"{model.hub}", revision="{model.revision}"' if model.path is None else f'"FOLDER OF {model.name}"'
    return f"from transformers import {kind}\n\nbase = {kind}.from_pretrained({where}{options})"
