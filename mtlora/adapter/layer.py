"""The adapted layers: ``h = W x + (alpha / r) B T A x`` (arXiv 2403.07440)."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features, check_adapters_to_merge
from peft.utils import quantization_extra_repr
from peft.utils.quantization_utils import QuantizationBackend
from torch import nn
from transformers.pytorch_utils import Conv1D

from mtlora.adapter.checks import check_adapter_names, may_change_output, reason_not_to_merge
from mtlora.adapter.config import MTLoraConfig
from mtlora.adapter.initialisation import fills
from mtlora.adapter.matrices import EmbeddingA, LinearA, Matrix, MatrixB, expanded
from mtlora.adapter.quantised import check_gradient
from mtlora.adapter.transforms import STRUCTURES, transform

HALF_PRECISION = (torch.float16, torch.bfloat16)


class MTLoraLayer(nn.Module, BaseTunerLayer):
    """A base layer with any number of MTLoRA adapters; all state below is keyed by adapter name.

    Shapes, for a base layer (in, out) with n equal output slices of which k are adapted (n = k = 1 unless fused):
    A (k r, in), B (k out / n, r), the adapted slices stacked; C and D (k r, k r), or (k, r, r) for one T per slice. The
    parameters are ``mtlora_A[adapter].weight`` and so on.
    """

    adapter_layer_names = ("mtlora_A", "mtlora_B", "mtlora_C", "mtlora_D")
    kind_of_a: type[Matrix]
    other_param_names = ("mtlora_dropout", "r", "mtlora_alpha", "scaling", "structure", "slices")

    def __init__(self, base_layer: nn.Module, backend: QuantizationBackend | None = None) -> None:
        """Wrap `base_layer`, whose weight is quantised if it has a backend; adapters are added by `update_layer`."""
        super().__init__()
        self.base_layer = base_layer
        self.quantization_backend = backend
        self.mtlora_A, self.mtlora_B, self.mtlora_C, self.mtlora_D = (nn.ModuleDict() for _ in "ABCD")
        self.mtlora_dropout = nn.ModuleDict()
        self.r: dict[str, int] = {}
        self.mtlora_alpha: dict[str, float] = {}
        self.scaling: dict[str, float] = {}
        self.structure: dict[str, str] = {}
        self.slices: dict[str, tuple[bool, ...]] = {}
        self.merged_adapters: list[str] = []
        self.cast_input_dtype_enabled = True  # read by peft.helpers.disable_input_dtype_casting
        self.in_features, self.out_features = cast(tuple[int, int], _get_in_out_features(self.get_base_layer()))

    @property
    def fan_in_fan_out(self) -> bool:
        """Whether the base weight is stored as (in, out), as in Conv1D and Embedding."""
        return isinstance(self.get_base_layer(), Conv1D | nn.Embedding)

    def update_layer(
        self, adapter_name: str, config: MTLoraConfig, *, r: int, alpha: float, slices: Sequence[bool] | None
    ) -> None:
        """Add an adapter, or replace one of the same name; the tuner sets which adapters are active and which train.

        Args:
            adapter_name: Name of the adapter.
            config: Its configuration.
            r: Rank in this layer.
            alpha: Alpha in this layer.
            slices: One flag per equal slice of the output, True where adapted; None if the layer is not fused.
        """
        self.r[adapter_name], self.mtlora_alpha[adapter_name] = r, alpha
        self.scaling[adapter_name] = alpha / (math.sqrt(r) if config.use_rslora else r)
        self.structure[adapter_name] = config.structure
        self.slices[adapter_name] = tuple(slices or [True])
        self.mtlora_dropout[adapter_name] = (
            nn.Dropout(config.mtlora_dropout) if config.mtlora_dropout else nn.Identity()
        )

        n, k = len(self.slices[adapter_name]), sum(self.slices[adapter_name])
        t_shape = (k, r, r) if slices and config.fused_transform == "block" else (k * r, k * r)
        self.mtlora_A[adapter_name] = self.kind_of_a(k * r, self.in_features)
        self.mtlora_B[adapter_name] = MatrixB(k * self.out_features // n, r)
        for letter in "CD":
            factors = self.matrices(letter)
            if letter in STRUCTURES[config.structure].factors:
                factors[adapter_name] = Matrix(*t_shape)
            elif adapter_name in factors:
                del factors[adapter_name]  # left by the adapter that is replaced

        self.reset_mtlora_parameters(adapter_name, config.init_weights)
        self._move_adapter_to_device_of_base_layer(adapter_name)

    @torch.no_grad()
    def reset_mtlora_parameters(
        self,
        adapter_name: str,
        init_weights: bool | str,
        generators: Callable[[str], torch.Generator] | None = None,
    ) -> None:
        """Give the adapter new starting values.

        Args:
            adapter_name: Name of the adapter; a layer without this adapter is left as it is.
            init_weights: A value of `MTLoraConfig.init_weights`.
            generators: Maps the letter of a matrix ("A", "B", "C", "D") to the generator that it is drawn from, so that
                A does not depend on whether T is drawn too. None draws all from torch's global generator.
        """
        if adapter_name not in self.mtlora_A:
            return
        fill = fills(
            init_weights,
            structure=self.structure[adapter_name],
            r=self.r[adapter_name],
            is_embedding=isinstance(self, Embedding),
        )
        for letter in "ABCD":
            if adapter_name in self.matrices(letter):
                parameter = self.weight_of(letter, adapter_name)
                generator = generators(letter) if generators else None
                # drawn in float32 on the generator's device, so that the values depend on neither dtype nor device
                values = torch.empty(parameter.shape, device=generator.device if generator else parameter.device)
                fill[letter](values, generator)
                parameter.copy_(values)

    def get_transform(self, adapter: str, dtype: torch.dtype | None = None) -> torch.Tensor | None:
        """Return T of shape (k r, k r), block-diagonal if every slice has its own; None for T = I.

        Args:
            adapter: Name of the adapter.
            dtype: The dtype of the computation; None means the dtype of the factors.
        """
        structure = self.structure[adapter]
        factors = [self.weight_of(letter, adapter).to(dtype) for letter in STRUCTURES[structure].factors]
        return transform(structure, factors)

    def get_lora_factors(self, adapter: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return A of shape (k r, in) and B T of shape (out, k r): the same update as a plain LoRA, before scaling.

        The product of half-precision factors is computed, and returned, in float32.
        """
        a, b = self.weight_of("A", adapter), expanded(self.weight_of("B", adapter), self.slices[adapter])
        dtype = torch.float32 if a.dtype in HALF_PRECISION else a.dtype
        t = self.get_transform(adapter, dtype)
        return a.to(dtype), b.to(dtype) if t is None else b.to(dtype) @ t

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """Return the scaled update dW, in the layout of the base weight and the dtype of the adapter."""
        a, bt = self.get_lora_factors(adapter)
        delta = self.scaling[adapter] * (bt @ a)
        return (delta.mT if self.fan_in_fan_out else delta).to(self.weight_of("A", adapter).dtype)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates of `adapter_names` (None: the active adapters) to the base weight.

        Args:
            safe_merge: Check for non-finite values before this layer's base weight is touched.
            adapter_names: Names of the adapters to merge.

        Raises:
            ValueError: If `safe_merge` finds a non-finite value, or the base weight cannot be changed (`reason_not_to_merge`).
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.mtlora_A]
        self._change_weight({name: self.get_delta_weight(name) for name in names}, safe_merge)
        self.merged_adapters += names

    @torch.no_grad()
    def unmerge(self) -> None:
        """Subtract the updates of all merged adapters from the base weight.

        Raises:
            ValueError: If the base weight cannot be changed any more (`reason_not_to_merge`).
        """
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self._change_weight({name: -self.get_delta_weight(name) for name in reversed(self.merged_adapters)})
        self.merged_adapters.clear()

    def _change_weight(self, deltas: dict[str, torch.Tensor], safe: bool = False) -> None:
        if reason := reason_not_to_merge(self.get_base_layer(), self.quantization_backend):
            raise ValueError(reason)
        weight = (
            self.get_base_weight()
        )  # a quantised one is dequantised here, and quantised again below, once for all updates
        deltas = {name: delta.to(weight.dtype) for name, delta in deltas.items()}
        for name, delta in deltas.items() if safe else ():
            if not torch.isfinite(weight + delta).all():
                raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
        for delta in deltas.values():
            weight += delta
        if self.quantization_backend is not None and deltas:
            warnings.warn("The changed weight is quantised again, which rounds it: outputs may differ.", stacklevel=4)
            self.set_base_weight(weight)

    def forward(self, x: torch.Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Any:
        """Return ``h = W x + (alpha / r) B T A x``, with the updates of all active adapters; shape (..., out).

        Args:
            x: Input, (..., in), or token ids for an embedding.
            *args: Passed to the base layer.
            adapter_names: One adapter name per row of `x` (``__base__`` for none), instead of the active adapters.
            **kwargs: Passed to the base layer.

        Raises:
            ValueError: `adapter_names` does not fit; or, in training, a quantised base layer passes no gradient.
        """
        if adapter_names is not None:
            check_adapter_names(adapter_names, len(x), self.merged)
        if self.quantization_backend is not None and self.training and torch.is_grad_enabled():
            check_gradient(self.get_base_layer())
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or self.merged:
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._forward_by_row(x, adapter_names, *args, **kwargs)

        base = self.base_layer
        in_place = self.quantization_backend is None and may_change_output(base)
        rows = x.reshape(-1, x.shape[-1]) if in_place else x
        h = base(rows, *args, **kwargs)
        dtype = h.dtype
        for adapter in (name for name in self.active_adapters if name in self.mtlora_A):
            h = self.add_update(h, rows, adapter, in_place)
        h = h if h.dtype == dtype else h.to(dtype)
        return h.view(*x.shape[:-1], self.out_features) if in_place else h

    def _forward_by_row(self, x: torch.Tensor, adapter_names: list[str], *args: Any, **kwargs: Any) -> torch.Tensor:
        h: torch.Tensor = self.base_layer(x, *args, **kwargs)
        if self.quantization_backend is not None:
            h = h.clone()  # autograd lets nobody change the views that bitsandbytes returns
        for adapter in self.mtlora_A.keys() & set(adapter_names):
            rows = [row for row, name in enumerate(adapter_names) if name == adapter]
            h[rows] = self.add_update(h[rows], x[rows], adapter).to(h.dtype)
        return h

    def add_update(self, h: torch.Tensor, x: torch.Tensor, adapter: str, in_place: bool = False) -> torch.Tensor:
        """Return ``h + (alpha / r) B T A x``, in the wider dtype of the two terms; `in_place` needs h of shape (rows, out).

        B T, which is small, is formed first, and one kernel multiplies it by A x and adds the product to h. So the
        backward pass keeps no tensor of the size of h; with `in_place` and equal dtypes none is allocated either.
        """
        ax = self.project(x, adapter)
        structure = self.structure[adapter]
        t = transform(structure, [self.matrices(letter)[adapter]() for letter in STRUCTURES[structure].factors])
        bt = self.mtlora_B[adapter](t, self.slices[adapter])
        if not h.dtype == ax.dtype == bt.dtype:  # asked first, because `to` takes time even if it does nothing
            dtype = torch.promote_types(h.dtype, ax.dtype)
            h, ax, bt = h.to(dtype), ax.to(dtype), bt.to(dtype)
        if in_place:
            return h.addmm_(ax, bt, alpha=self.scaling[adapter])
        flat, width = h.reshape(-1, h.shape[-1]), ax.shape[-1]
        return torch.addmm(flat, ax.reshape(-1, width), bt, alpha=self.scaling[adapter]).view(h.shape)

    def project(self, x: torch.Tensor, adapter: str) -> torch.Tensor:
        """Return ``A dropout(x)`` of shape (..., k r)."""
        raise NotImplementedError

    def matrices(self, letter: str) -> nn.ModuleDict:
        """Return the modules of the matrices "A", "B", "C" or "D", by adapter name."""
        return getattr(self, f"mtlora_{letter}")

    def weight_of(self, letter: str, adapter: str) -> nn.Parameter:
        """Return the parameter of a matrix. A forward pass calls its module instead (see `matrices.Matrix`)."""
        return self.matrices(letter)[adapter].weight  # type: ignore[return-value]

    def extra_repr(self) -> str:
        """Return PEFT's note on the quantisation, if there is one."""
        return quantization_extra_repr(self)

    def __repr__(self) -> str:
        return "mtlora." + super().__repr__()


class Linear(MTLoraLayer):
    """MTLoRA on `nn.Linear`, also of bitsandbytes or with a torchao weight, and on transformers' `Conv1D`."""

    kind_of_a = LinearA

    def project(self, x: torch.Tensor, adapter: str) -> torch.Tensor:
        """Return ``A dropout(x)``; x (..., in) is cast to the dtype of A, and all slices share one dropout mask."""
        a = self.mtlora_A[adapter]
        return a(self.mtlora_dropout[adapter](self._cast_input_dtype(x, a.weight.dtype)))  # type: ignore[arg-type]

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether `peft.convert_to_lora` can approximate this layer; `MTLoraModel.to_lora` is exact."""
        return True


class Embedding(MTLoraLayer):
    """MTLoRA on `nn.Embedding`; A is (r, num_embeddings), B is (dim, r)."""

    kind_of_a = EmbeddingA

    def project(self, x: torch.Tensor, adapter: str) -> torch.Tensor:
        """Return the columns of A at the token ids x, (..., r)."""
        base = cast(nn.Embedding, self.get_base_layer())
        h = self.mtlora_A[adapter](x, base.padding_idx, base.scale_grad_by_freq)
        scale = self._get_embed_scale()  # some models (Gemma 3) scale the output of the embedding
        return h if scale is None else h * scale.to(h.dtype)
