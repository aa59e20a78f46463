"""The model of a cohort: one frozen backbone, with stacked adapters and heads in place of each run's own."""

import copy
from collections.abc import Sequence
from typing import cast

from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import nn

from mtlora.adapter.layer import Linear, MTLoraLayer
from mtlora.base.errors import CohortUnsupported
from mtlora.train.cohort.layers import CohortLinear, Place, RunLinear
from mtlora.train.model.dropout import Masks, use_masks
from mtlora.train.model.methods import ADAPTER


class Network:
    """A model for the batches of all runs at once; `places` are those of the runs' trained parameters in its stacks."""

    def __init__(self, models: Sequence[nn.Module], masks: Masks) -> None:
        """Stack the adapters and heads of `models`, which must share their backbone's tensors.

        Raises:
            CohortUnsupported: the models have adapters or trained modules that cannot be stacked.
        """
        if not all(isinstance(model, PeftModel) for model in models):
            raise CohortUnsupported("a model is trained in full")
        backbones = [cast(PeftModel, model).get_base_model() for model in models]
        first = backbones[0]
        # Frozen tensors are shared; trained modules are replaced below.
        shared = {id(t): t for t in (*first.parameters(), *first.buffers()) if not t.requires_grad}
        self.model: nn.Module = copy.deepcopy(first, shared)
        self.places: list[Place] = []
        parts = [dict(backbone.named_modules()) for backbone in backbones]
        for name, module in parts[0].items():
            if isinstance(module, MTLoraLayer):
                layers = [layer for part in parts if isinstance(layer := part[name], Linear)]
                if len(layers) < len(parts):
                    raise CohortUnsupported("an embedding is adapted")
                if module.quantization_backend is not None:  # bitsandbytes rounds the inputs of all rows together
                    raise CohortUnsupported("the backbone is quantised")
                together = CohortLinear(layers, masks)
                self.model.set_submodule(name, together)
                self.places += [place for run, layer in enumerate(layers) for place in together.places(run, layer)]
            elif isinstance(module, ModulesToSaveWrapper):
                heads = [cast(ModulesToSaveWrapper, part[name]).modules_to_save[ADAPTER] for part in parts]
                head, found = _stacked_head(heads)
                self.model.set_submodule(name, head)
                self.places += found
        use_masks(self.model, masks)
        for parameter, stack, row in self.places:
            stack.data[row] = parameter.data.view(stack.shape[1:])
        self.places = [place for place in self.places if place.parameter.requires_grad]
        left = {id(p) for model in models for p in model.parameters() if p.requires_grad}
        if left - {id(place.parameter) for place in self.places}:
            raise CohortUnsupported("not only adapters and linear heads are trained")


def _stacked_head(heads: Sequence[nn.Module]) -> tuple[nn.Module, list[Place]]:
    """Return a head for all runs, and the places of its parameters; only linear modules may have parameters."""
    together, places = copy.deepcopy(heads[0]), list[Place]()
    parts = [dict(head.named_modules()) for head in heads]
    for name, module in parts[0].items():
        if isinstance(module, nn.Linear):
            layers = [cast(nn.Linear, part[name]) for part in parts]
            stack = RunLinear(layers)
            places += [place for run, layer in enumerate(layers) for place in stack.places(run, layer)]
            if not name:  # the head is one layer
                return stack, places
            together.set_submodule(name, stack)
    return together, places
