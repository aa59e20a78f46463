"""Outputs, gradients and merging of every structure on every layer kind, against the formula written by hand."""

import pytest
import torch
import torch.nn.functional as F
from helpers.adapter_models import KINDS, STRUCTURES, adapted, delta_by_hand, ids, layer_of, t_by_hand, toy
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn

from mtlora.adapter import MTLoraConfig, MTLoraLayer
from mtlora.adapter.matrices import expanded
from mtlora.adapter.transforms import transform

ALL = [(structure, kind) for structure in STRUCTURES for kind in KINDS]
LETTERS = "ABCD"


def base_output_plus(delta: torch.Tensor, kind: str) -> torch.Tensor:
    """The output of the toy whose weight is W + dW."""
    model = toy()
    layer = model.get_submodule(KINDS[kind][0])
    stored = delta if isinstance(layer, nn.Linear) else delta.T
    weights = {f"{KINDS[kind][0]}.weight": layer.weight.detach() + stored}
    return torch.func.functional_call(model, weights, (ids(),))


@pytest.mark.parametrize(("structure", "kind"), ALL)
def test_output_and_gradients_follow_the_formula(structure: str, kind: str) -> None:
    model = adapted(structure, kind)
    layer = layer_of(model)
    parameters = [layer.weight_of(letter, "default") for letter in LETTERS if "default" in layer.matrices(letter)]
    output = model(ids())
    expected = base_output_plus(delta_by_hand(structure, kind, layer), kind)
    weight = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)

    torch.testing.assert_close(output, expected)
    assert not torch.allclose(output, toy()(ids()))
    torch.testing.assert_close(
        torch.autograd.grad((output * weight).sum(), parameters),
        torch.autograd.grad((expected * weight).sum(), parameters),
    )


@pytest.mark.parametrize(("structure", "kind"), ALL)
def test_gradients_follow_finite_differences(structure: str, kind: str) -> None:
    model = adapted(structure, kind)
    trainable = {name: p.detach().requires_grad_() for name, p in model.named_parameters() if p.requires_grad}

    def output(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(zip(trainable, values, strict=True)), (ids()[:1, :2],))

    assert torch.autograd.gradcheck(output, tuple(trainable.values()), fast_mode=True)


@pytest.mark.parametrize("safe_merge", [False, True])
@pytest.mark.parametrize(("structure", "kind"), ALL)
def test_merge_adds_the_update_and_unmerge_takes_it_back(structure: str, kind: str, safe_merge: bool) -> None:
    model = adapted(structure, kind)
    layer, before = layer_of(model), model(ids()).detach()
    weight = layer.get_base_layer().weight.detach().clone()
    delta = delta_by_hand(structure, kind, layer).detach()

    model.merge_adapter(safe_merge=safe_merge)
    torch.testing.assert_close(layer.get_base_layer().weight, weight + (delta.T if layer.fan_in_fan_out else delta))
    torch.testing.assert_close(model(ids()), before)
    model.unmerge_adapter()
    torch.testing.assert_close(layer.get_base_layer().weight, weight)
    torch.testing.assert_close(model.merge_and_unload(safe_merge=safe_merge)(ids()), before)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "fused" in kind])
def test_slices_that_are_not_adapted_stay_exactly_as_they_were(kind: str) -> None:
    layer = layer_of(adapted("ctcm", kind))
    x = torch.randn(7, layer.in_features, dtype=torch.float64)
    change = (layer(x) - layer.base_layer(x)).view(7, 3, -1)
    adapted_slices = [bool((change[:, i] != 0).any()) for i in range(3)]
    assert adapted_slices == list(layer.slices["default"])


@pytest.mark.parametrize("kind", ["linear", "conv", "embedding"])
def test_structure_none_is_peft_lora(kind: str) -> None:
    target = KINDS[kind][0]
    ours = adapted("none", kind)
    config = LoraConfig(r=2, lora_alpha=3, target_modules=[target], fan_in_fan_out=kind == "conv")
    lora = get_peft_model(toy(), config).double()
    theirs = lora.base_model.model.get_submodule(target)
    a, b = (layer_of(ours).weight_of(letter, "default") for letter in "AB")
    if kind == "embedding":
        lora_a, lora_b = theirs.lora_embedding_A["default"], theirs.lora_embedding_B["default"]
    else:
        lora_a, lora_b = theirs.lora_A["default"].weight, theirs.lora_B["default"].weight
    lora_a.data, lora_b.data = a.detach().clone(), b.detach().clone()

    ours(ids()).square().sum().backward()
    lora(ids()).square().sum().backward()
    torch.testing.assert_close(ours(ids()), lora(ids()))
    torch.testing.assert_close((a.grad, b.grad), (lora_a.grad, lora_b.grad))


def test_all_slices_share_one_dropout_mask() -> None:
    layer = layer_of(adapted("none", "fused linear, block", mtlora_dropout=0.5)).train()
    a = layer.weight_of("A", "default")
    a.data[2:] = a.data[:2]  # both slices project the input in the same way
    x = torch.randn(50, layer.in_features, dtype=torch.float64)
    h = layer.project(x, "default")
    assert not torch.allclose(h, F.linear(x, a))
    assert torch.equal(h[:, :2], h[:, 2:])
    layer.eval()
    torch.testing.assert_close(layer.project(x, "default"), F.linear(x, a))


@given(
    structure=st.sampled_from(["shim", "icfm", "ctcm", "dtsm"]),
    k=st.integers(1, 3),
    r=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=50, deadline=None)
def test_t_of_a_stack_is_block_diagonal(structure: str, k: int, r: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    factors = [torch.randn(k, r, r, generator=generator) for _ in ("C", "D")][
        : 1 if structure in ("shim", "icfm") else 2
    ]
    whole = transform(structure, factors)
    blocks = [transform(structure, [factor[i] for factor in factors]) for i in range(k)]
    assert whole is not None
    assert whole.shape == (k * r, k * r)
    mask = torch.block_diag(*torch.ones(k, r, r))
    torch.testing.assert_close(whole * (1 - mask), torch.zeros_like(whole))
    torch.testing.assert_close(whole.view(k, r, k, r).diagonal(dim1=0, dim2=2).permute(2, 0, 1), torch.stack(blocks))
    if structure == "icfm":  # positive semidefinite by construction
        assert torch.linalg.eigvalsh(whole).min() > -1e-4


@pytest.mark.parametrize(("rslora", "scaling"), [(False, 6 / 4), (True, 6 / 2)])
def test_scaling(rslora: bool, scaling: float) -> None:
    model = adapted("shim", r=4, mtlora_alpha=6, use_rslora=rslora)
    torch.testing.assert_close(
        layer_of(model).get_delta_weight("default"), delta_by_hand("shim", "linear", layer_of(model), scaling)
    )


def test_dtsm_under_adamw_is_shim_with_a_doubled_step_on_t() -> None:
    """C and D get equal gradients, so that T = C + D moves by twice the step that T = C would make."""
    dtsm = adapted("dtsm")
    shim = adapted("shim")
    layer, other = layer_of(dtsm), layer_of(shim)
    with torch.no_grad():
        for letter in "AB":
            other.weight_of(letter, "default").copy_(layer.weight_of(letter, "default"))
        other.weight_of("C", "default").copy_(t_by_hand("dtsm", layer, None))

    def optimizer(model: nn.Module, lr_of_t: float) -> torch.optim.AdamW:
        groups = [
            [p for n, p in model.named_parameters() if p.requires_grad and ("_C" in n or "_D" in n) is t]
            for t in (False, True)
        ]
        return torch.optim.AdamW(
            [{"params": groups[0], "lr": 1e-2}, {"params": groups[1], "lr": lr_of_t}], weight_decay=0.0, eps=1e-12
        )

    optimizers = [(dtsm, optimizer(dtsm, 1e-2)), (shim, optimizer(shim, 2e-2))]
    start = t_by_hand("dtsm", layer, None).detach().clone()
    for _ in range(50):
        for model, step in optimizers:
            step.zero_grad()
            (model(ids()) - 1).square().sum().backward()
            step.step()
    assert not torch.allclose(t_by_hand("dtsm", layer, None), start, atol=0.1)
    torch.testing.assert_close(
        t_by_hand("dtsm", layer, None), other.weight_of("C", "default").data, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(dtsm(ids()), shim(ids()), rtol=1e-4, atol=1e-5)


def test_zero_t_start_can_train_only_sums() -> None:
    """Why `zero_t` is refused for icfm and ctcm: their gradient at C = D = 0 is exactly 0."""
    for structure, trains in {"shim": True, "dtsm": True, "icfm": False, "ctcm": False}.items():
        model = adapted(structure)
        layer = layer_of(model)
        factors = [layer.weight_of(letter, "default") for letter in "CD" if "default" in layer.matrices(letter)]
        for factor in factors:
            factor.data.zero_()
        model(ids()).sum().backward()
        assert all(bool(factor.grad.any()) is trains for factor in factors), structure


def test_config_defaults_are_those_of_lora() -> None:
    ours, lora = MTLoraConfig(), LoraConfig()
    assert (ours.r, ours.mtlora_alpha, ours.mtlora_dropout) == (lora.r, lora.lora_alpha, lora.lora_dropout)


def add_update_plainly(
    layer: MTLoraLayer, h: torch.Tensor, x: torch.Tensor, adapter: str, in_place: bool = False
) -> torch.Tensor:
    """The formula from right to left."""
    t, ax = layer.get_transform(adapter), layer.project(x, adapter)
    tax = ax if t is None else F.linear(ax, t)
    return h + F.linear(layer.scaling[adapter] * tax, expanded(layer.weight_of("B", adapter), layer.slices[adapter]))


@pytest.mark.parametrize(("structure", "kind"), ALL)
def test_the_fast_sum_equals_the_plain_one(structure: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome() -> list[torch.Tensor]:
        model = adapted(structure, kind)
        output = model(ids())
        trained = [p for p in model.parameters() if p.requires_grad]
        return [output, *torch.autograd.grad(output.square().sum(), trained)]

    fast = outcome()
    monkeypatch.setattr(MTLoraLayer, "add_update", add_update_plainly)
    torch.testing.assert_close(fast, outcome())


def test_a_hook_keeps_what_the_base_layer_returned() -> None:
    model = adapted("shim", "linear")
    layer, kept = layer_of(model), []
    layer.base_layer.register_forward_hook(lambda module, args, output: kept.append((output, output.clone())))
    without = model(ids())
    ((output, copy),) = kept
    assert torch.equal(output, copy), "the update is not added in place"
    torch.testing.assert_close(without, adapted("shim", "linear")(ids()))


def test_a_backward_hook_sees_the_gradient_of_the_base_layer() -> None:
    layer, seen = layer_of(adapted("shim", "linear")), []
    layer.base_layer.register_full_backward_hook(lambda module, before, after: seen.append(after))
    layer(torch.randn(3, layer.in_features, dtype=torch.float64, requires_grad=True)).square().sum().backward()
    assert seen[0][0].any()


@pytest.mark.parametrize("width", [(), (3,), (2, 3)])
def test_inputs_of_any_number_of_dimensions(width: tuple[int, ...]) -> None:
    layer = layer_of(adapted("dtsm", "linear"))
    x = torch.randn(*width, layer.in_features, dtype=torch.float64)
    delta = layer.get_delta_weight("default")
    expected = F.linear(x, layer.base_layer.weight + delta, layer.base_layer.bias)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 5), (3, 0)], ids=["no rows", "no tokens"])
@pytest.mark.parametrize("training", [True, False])
def test_empty_inputs_are_treated_as_by_lora(kind: str, shape: tuple[int, int], training: bool) -> None:
    empty = torch.zeros(shape, dtype=torch.long)
    config = LoraConfig(target_modules=[KINDS[kind][0]], lora_dropout=0.1 if kind != "embedding" else 0.0)
    ours = adapted("dtsm", kind, mtlora_dropout=0.1).train(training)
    lora = get_peft_model(toy(), config).double().train(training)
    for model in (ours, lora):
        output = model(empty)
        assert output.shape == (*shape, 4)
        gradients = torch.autograd.grad(output.sum(), [p for p in model.parameters() if p.requires_grad])
        assert not any(gradient.any() for gradient in gradients)
        if not training:
            assert model(empty, adapter_names=["default"] * shape[0]).shape == (*shape, 4)


@pytest.mark.parametrize("change", ["merged", "disabled"])
@pytest.mark.parametrize("kind", KINDS)
def test_empty_inputs_without_an_update(kind: str, change: str) -> None:
    model, empty = adapted("dtsm", kind), torch.zeros((0, 5), dtype=torch.long)
    if change == "merged":
        model.merge_adapter()
        assert model(empty).shape == (0, 5, 4)
    with model.disable_adapter():
        assert model(empty).shape == (0, 5, 4)
