"""The configuration of an MTLoRA adapter."""

import re
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from peft import PeftConfig

from mtlora.adapter.peft_type import MTLORA
from mtlora.adapter.transforms import STRUCTURES

INITIALISATIONS = (True, False, "official", "identity_t", "identity", "zero_t")
FUSED_TRANSFORMS = ("block", "joint")
BIASES = ("none", "all", "mtlora_only")
Config = TypeVar("Config")


def _with_help(config: type[Config]) -> type[Config]:
    """Give each field of a dataclass its text in the docstring as ``metadata["help"]``, which argument parsers print."""
    texts = dict(re.findall(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", config.__doc__ or "", re.MULTILINE))
    for item in fields(config):  # type: ignore[arg-type]
        if item.name in texts:
            item.metadata = MappingProxyType({"help": " ".join(texts[item.name].split())})
    return config


@_with_help
@dataclass
class MTLoraConfig(PeftConfig):
    """Configuration of MTLoRA, ``dW = (alpha / r) B T A`` (arXiv 2403.07440).

    The fields that `peft.LoraConfig` has too mean the same here.

    Args:
        r: Rank, at least 1. A is (r, in), B is (out, r), T is (r, r).
        mtlora_alpha: The update is scaled by ``mtlora_alpha / r``; greater than 0.
        mtlora_dropout: Probability of dropout on the input of A, in [0, 1). One mask per layer. Embeddings have no
            dropout, as in PEFT's LoRA: their input is token ids.
        use_rslora: Scale by ``mtlora_alpha / sqrt(r)`` instead (arXiv 2312.03732).
        structure: How T is built from its trainable factors: ``none`` (T = I, which is LoRA), ``shim`` (C), ``icfm`` (C C^T),
            ``ctcm`` (C D), ``dtsm`` (C + D).
        init_weights: ``True`` or ``official``: A, C and D Kaiming uniform with a = sqrt(5), B = 0, as in the authors'
            NLU and NLG code. ``identity_t``: the same A and B, but T = I. ``identity``: T = I, B = 0 and A Gaussian with
            standard deviation 1/r, so A is larger than in ``official``, whose entries have 1 / sqrt(3 in). ``zero_t``: A and B
            normal with standard deviation 0.02, C = D = 0; only for structures that can train from there (shim, dtsm).
            ``False``: all random and nonzero, so that the adapter changes the output; meant for tests. Embeddings swap
            A and B in the first three (A = 0, B standard normal), as in PEFT's LoRA.
        fused_modules: Modules whose output is several projections side by side, each with one flag per equal slice of
            the output, True where the slice is adapted: ``{"c_attn": [True, False, True]}`` adapts q and v of GPT-2.
            Keys match module names as the keys of `rank_pattern` do.
        fused_transform: ``block``: every adapted slice has its own T; ``joint``: one T of shape (k r, k r) mixes all k
            adapted slices.
        target_modules: Names (matched as suffixes) or a regular expression of the modules to adapt, or ``all-linear``.
            None means PEFT's default for LoRA on this architecture.
        exclude_modules: Names or a regular expression of the modules to leave out.
        modules_to_save: Further modules that are trained in full and saved with the adapter, such as a new head.
        layers_to_transform: Indices of the layers to adapt; None means all.
        layers_pattern: Name of the list that the indices refer to, such as ``layers`` or ``h``.
        rank_pattern: Ranks that differ from `r`, by module name or regular expression.
        alpha_pattern: Alphas that differ from `mtlora_alpha`, by module name or regular expression.
        fan_in_fan_out: Whether weights are stored as (in, out). Each layer derives it from its type; the field records
            it and is set, with a warning, when a ``Conv1D`` is adapted.
        bias: Which biases of the base model train: ``none``, ``all`` or ``mtlora_only`` (those of adapted modules).

    Raises:
        ValueError: If a value is out of range, unknown, or does not fit the others.
    """

    r: int = 8
    mtlora_alpha: int | float = 8
    mtlora_dropout: float = 0.0
    use_rslora: bool = False
    structure: Literal["none", "shim", "icfm", "ctcm", "dtsm"] = "shim"
    init_weights: bool | Literal["official", "identity_t", "identity", "zero_t"] = True
    fused_modules: dict[str, list[bool]] | None = None
    fused_transform: Literal["block", "joint"] = "block"
    target_modules: list[str] | set[str] | str | None = None
    exclude_modules: list[str] | set[str] | str | None = None
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, int | float] = field(default_factory=dict)
    fan_in_fan_out: bool = False
    bias: Literal["none", "all", "mtlora_only"] = "none"

    def __post_init__(self) -> None:
        """Convert collections to the types that PEFT expects, and refuse invalid values."""
        super().__post_init__()
        self.peft_type = MTLORA
        self.target_modules = _as_set(self.target_modules)
        self.exclude_modules = _as_set(self.exclude_modules)
        if self.fused_modules is not None:
            self.fused_modules = {name: _checked_slices(name, slices) for name, slices in self.fused_modules.items()}
        self._check_numbers()
        self._check_choices()
        self._check_layer_selection()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types: sets of names become sorted lists."""
        return {key: sorted(value) if isinstance(value, set) else value for key, value in super().to_dict().items()}

    def _check_numbers(self) -> None:
        for name, rank in {"r": self.r, **_entries("rank_pattern", self.rank_pattern)}.items():
            if isinstance(rank, bool) or not isinstance(rank, int) or rank <= 0:
                raise ValueError(f"`{name}` must be a positive integer, got {rank!r}.")
        for name, alpha in {"mtlora_alpha": self.mtlora_alpha, **_entries("alpha_pattern", self.alpha_pattern)}.items():
            if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
                raise ValueError(f"`{name}` must be a number greater than 0, got {alpha!r}.")
        if not isinstance(self.mtlora_dropout, int | float) or not 0 <= self.mtlora_dropout < 1:
            raise ValueError(
                f"`mtlora_dropout` must be a number from 0 up to, not including, 1, got {self.mtlora_dropout!r}."
            )

    def _check_choices(self) -> None:
        _check_choice("structure", self.structure, tuple(STRUCTURES))
        _check_choice("init_weights", self.init_weights, INITIALISATIONS)
        _check_choice("fused_transform", self.fused_transform, FUSED_TRANSFORMS)
        _check_choice("bias", self.bias, BIASES)
        if self.init_weights == "zero_t" and self.structure == "none":
            raise ValueError(
                "`init_weights='zero_t'` needs a T, but `structure='none'` fixes T = I: use True or 'identity'."
            )
        if self.init_weights == "zero_t" and not STRUCTURES[self.structure].trains_from_zero:
            raise ValueError(
                f"`init_weights='zero_t'` cannot train `structure={self.structure!r}`: with C = D = 0 either T is not 0, or T is "
                "a product of its factors, whose gradients are exactly 0 and stay so; use True or 'identity'."
            )

    def _check_layer_selection(self) -> None:
        if isinstance(self.target_modules, str):
            for name in ("layers_to_transform", "layers_pattern"):
                if getattr(self, name) is not None:
                    raise ValueError(f"`{name}` cannot be used when `target_modules` is a str.")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("When `layers_pattern` is specified, `layers_to_transform` must also be specified.")


def _as_set(names: Any) -> Any:
    """Turn a list of names into the set that PEFT expects; leave a regular expression or None as it is."""
    return set(names) if isinstance(names, list | tuple) else names


def _entries(field_name: str, pattern: dict[str, Any]) -> dict[str, Any]:
    return {f"{field_name}[{key!r}]": value for key, value in pattern.items()}


def _check_choice(name: str, value: object, allowed: tuple[bool | str, ...]) -> None:
    # `type` keeps 1 and 0 from passing as True and False
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def _checked_slices(name: str, slices: Any) -> list[bool]:
    valid = isinstance(slices, list | tuple) and len(slices) > 1 and all(isinstance(flag, bool) for flag in slices)
    if not valid or not any(slices):
        raise ValueError(
            f"`fused_modules[{name!r}]` must be a list of at least two booleans, one per output slice and at least one "
            f"of them True, got {slices!r}."
        )
    return list(slices)
