"""The benchmarks whose machine is not at hand start everywhere."""

import gpu
import pytest

from mtlora.plan.cell import compose_cell
from mtlora.train.model.backbones import load_backbone, load_tokenizer


@pytest.mark.parametrize("task", ["rte", "mnli"])
def test_the_gpu_benchmark_builds_its_model_from_this_package_alone(task: str) -> None:
    config = compose_cell([*gpu.overrides_of(gpu.encoder(small=True)), f"task={task}"]).config
    backbone = load_backbone(config, len(load_tokenizer(config.model)))
    assert backbone.config.model_type == "roberta"
    assert backbone.config.num_hidden_layers == 2
    assert backbone.num_labels == len(config.task.labels)
