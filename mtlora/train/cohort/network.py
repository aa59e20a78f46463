"""The model of a cohort: one frozen backbone, with stacked adapters and heads in place of each run's own."""

import copy
from collections.abc import Sequence
from typing import cast

import torch
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import nn

from mtlora.adapter.layer import Linear, MTLoraLayer
from mtlora.base.errors import CohortUnsupported
from mtlora.train.cohort.layers import CohortLinear, Place, RunLinear
from mtlora.train.model.dropout import Masks, use_masks
from mtlora.train.model.methods import ADAPTER


class Network:
    """A model for the batches of all runs at once.

    The runs' own models keep the parameters that their optimizers update. `load` copies these into the stacks, and
    `share_gradients` copies the gradients of the stacks back.
    """

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
        self.masks = masks
        places: list[Place] = []
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
                places += [place for run, layer in enumerate(layers) for place in together.places(run, layer)]
            elif isinstance(module, ModulesToSaveWrapper):
                heads = [cast(ModulesToSaveWrapper, part[name]).modules_to_save[ADAPTER] for part in parts]
                head, found = _stacked_head(heads)
                self.model.set_submodule(name, head)
                places += found
        use_masks(self.model, masks)
        stacks = {id(stack): stack for _, stack, _, _ in places}.values()
        self._gradients = [torch.zeros_like(stack) for stack in stacks]
        for stack, gradient in zip(stacks, self._gradients, strict=True):
            stack.grad = gradient  # never replaced, because there are views of it below
        left = {id(p) for model in models for p in model.parameters() if p.requires_grad} - {id(p[0]) for p in places}
        if left:
            raise CohortUnsupported("not only adapters and linear heads are trained")
        self._own, self._stacked, self._own_gradients, self._stacked_gradients = [], [], [], []
        for parameter, stack, index, shape in places:
            parameter.grad = torch.zeros_like(parameter)
            self._own.append(parameter.detach().view(shape))
            self._stacked.append(stack.detach()[index])
            self._own_gradients.append(parameter.grad.view(shape))
            self._stacked_gradients.append(cast(torch.Tensor, stack.grad)[index])
        self.load()

    def load(self) -> None:
        """Copy the runs' parameters into the stacks, and set the gradients to zero."""
        torch._foreach_copy_(self._stacked, self._own)
        torch._foreach_zero_(self._gradients)

    def share_gradients(self) -> None:
        """Copy the gradients of the stacks to the runs' parameters."""
        torch._foreach_copy_(self._own_gradients, self._stacked_gradients)


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
