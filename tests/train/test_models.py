"""Models: what runs of one task and seed share and others do not, what is trained, how weights are found and refused."""

import copy
import hashlib
import json
from pathlib import Path

import pytest
import torch
from builtin_text.tokenizers import word_tokenizer
from helpers.tiny_runs import cell_in, finish
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    ModernBertConfig,
    PretrainedConfig,
    RobertaConfig,
)

from mtlora.adapter import MTLoraLayer
from mtlora.base.errors import UserError
from mtlora.config.schema import ModelConfig, RunConfig
from mtlora.plan.cell import compose_cell
from mtlora.train.model.backbones import drop_unread_tokens, load_backbone, load_tokenizer
from mtlora.train.model.build import build_model, count_parameters, load_parent, reset_head

METHODS = ("lora", "shim", "icfm", "ctcm", "dtsm")
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def config_of(*overrides: str) -> RunConfig:
    return compose_cell(["model=tiny", *overrides]).config


def build(*overrides: str) -> PeftModel:
    config = config_of(*overrides)
    model = build_model(config, load_tokenizer(config.model))
    assert isinstance(model, PeftModel)
    return model


def trained(model: PeftModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def part(model: PeftModel, text: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in trained(model).items() if text in name}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and len(one) > 0 and all(torch.equal(one[k], other[k]) for k in one)


def test_methods_share_head_and_a() -> None:
    lora = build("transform=lora", "rank=r4")
    for method in METHODS[1:]:
        model = build(f"transform={method}", "rank=r4")
        assert equal(part(model, "classifier"), part(lora, "classifier"))
        assert equal(part(model, "mtlora_A"), part(lora, "mtlora_A"))
        assert all(not tensor.any() for tensor in part(model, "mtlora_B").values())
        assert all(tensor.any() for tensor in part(model, "mtlora_C").values())


def test_ranks_and_target_sets_share_the_head() -> None:
    small, large = build("rank=r1"), build("rank=r8", "targets=all", "transform=ctcm")
    assert equal(part(small, "classifier"), part(large, "classifier"))


@pytest.mark.parametrize(
    "architecture",
    [
        BertConfig(**SHAPE),
        RobertaConfig(**SHAPE),
        DebertaV2Config(
            **SHAPE,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=8,
            conv_kernel_size=3,
            conv_act="gelu",
        ),
    ],
    ids=lambda architecture: architecture.model_type,
)
def test_what_the_head_does_not_read_is_left_out_exactly(architecture: PretrainedConfig) -> None:
    torch.manual_seed(0)
    plain = AutoModelForSequenceClassification.from_config(architecture).double().eval()
    short = copy.deepcopy(plain)
    drop_unread_tokens(short)
    ids = torch.randint(5, 100, (3, 7))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1, 1])}
    batch["attention_mask"][1, 4:] = 0
    widths, answers = [], []
    for model in (plain, short):
        model.base_model.encoder.layer[-1].register_forward_hook(
            lambda module, args, output: widths.append((output[0] if isinstance(output, tuple) else output).shape[-2])
        )
        answers.append(model(**batch))
        answers[-1].loss.backward()
    assert widths == [7, 1]
    assert torch.allclose(answers[0].logits, answers[1].logits, rtol=1e-12)
    for (name, p), q in zip(plain.named_parameters(), short.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or torch.allclose(p.grad, q.grad, rtol=1e-9, atol=1e-15), name


def test_a_decoder_keeps_all_tokens() -> None:
    model = build("model=tiny_gpt2", "task=webnlg")
    assert model(input_ids=torch.ones(2, 5, dtype=torch.long)).logits.shape[:2] == (2, 5)


def test_seeds_differ_and_matrices_differ_from_each_other() -> None:
    zero, one = build("transform=ctcm", "seed=0"), build("transform=ctcm", "seed=1")
    weight = "base_model.model.classifier.modules_to_save.default.weight"
    assert not torch.equal(trained(zero)[weight], trained(one)[weight])
    for letter in "ACD":
        own = list(part(zero, f"mtlora_{letter}").values())
        assert not any(torch.equal(a, b) for a, b in zip(own, part(one, f"mtlora_{letter}").values(), strict=True))
        assert len({tuple(tensor.flatten().tolist()) for tensor in own}) == len(own), "one stream per module"
    assert not any(
        torch.equal(c, d) for c, d in zip(part(zero, "mtlora_C").values(), part(zero, "mtlora_D").values(), strict=True)
    )


@pytest.mark.parametrize("init", ["official", "identity", "zero_t"])
def test_tasks_share_no_start(init: str) -> None:
    more = ("transform=dtsm", f"adapter.init_weights={init}", "protocol=published")
    rte, mrpc = (trained(build(f"task={task}", *more)) for task in ("rte", "mrpc"))
    assert rte.keys() == mrpc.keys()
    drawn = [
        name for name, tensor in rte.items() if len(tensor.unique()) > 2
    ]  # the others are constant: 0, or the identity
    assert len(drawn) >= (1 + 4 if init != "official" else 1 + 3 * 4)
    assert not any(torch.isin(rte[name], mrpc[name]).any() for name in drawn)


def test_the_norm_of_a_fresh_head_scales_by_one() -> None:
    special = {"pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
    settings = ModernBertConfig(**SHAPE, **special, vocab_size=100, norm_bias=True, classifier_bias=True)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(settings).eval()
    with torch.no_grad():
        model.head.norm.weight.fill_(3.0)  # a pretrained norm; the head must not keep it
        model.head.norm.bias.fill_(3.0)
    reset_head(model, ["head", "classifier"], seed=0, task="rte")
    assert torch.equal(model.head.norm.weight, torch.ones(32))
    assert not any(bias.any() for bias in (model.head.norm.bias, model.head.dense.bias, model.classifier.bias))
    ids = torch.randint(5, 100, (4, 6))
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert logits.abs().min() > 0
    assert len(logits.unique()) == logits.numel(), "each text has logits of its own"


def test_global_generator_has_no_say() -> None:
    torch.manual_seed(1)
    one = trained(build("transform=dtsm"))
    torch.manual_seed(2)
    assert equal(one, trained(build("transform=dtsm")))


@pytest.mark.parametrize(
    ("overrides", "adapter"),
    [
        # q and v of two layers: A 2 x 32 and B 32 x 2 each; T is 2 x 2, twice where it has two factors.
        (("transform=lora",), 4 * (64 + 64)),
        (("transform=shim",), 4 * (64 + 64 + 4)),
        (("transform=icfm",), 4 * (64 + 64 + 4)),
        (("transform=ctcm",), 4 * (64 + 64 + 8)),
        (("transform=dtsm",), 4 * (64 + 64 + 8)),
        # besides: intermediate 32 -> 64 and output 64 -> 32, (32 + 64) x 2 each
        (("transform=lora", "targets=official"), 2 * (2 * 128 + 2 * 192)),
        (("transform=lora", "targets=all"), 2 * (4 * 128 + 2 * 192)),
    ],
)
def test_parameter_counts(overrides: tuple[str, ...], adapter: int) -> None:
    vocabulary = len(word_tokenizer())
    embeddings = (vocabulary + 128 + 2 + 2) * 32  # words, positions, types, layer norm
    layer = 4 * (32 * 32 + 32) + 2 * 64 + (32 * 64 + 64) + (64 * 32 + 32)
    head = 32 * 2 + 2
    total = embeddings + 2 * layer + (32 * 32 + 32) + head + adapter
    model = build("rank=r2", *overrides)
    assert count_parameters(model, ["classifier"]) == {"adapter": adapter, "head": head, "total": total}
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == adapter + head


def test_load_parent_copies_the_adapter_but_not_the_head(tmp_path: Path) -> None:
    source, target = build("transform=shim", "seed=0", "rank=r2"), build("transform=shim", "seed=1", "rank=r2")
    with torch.no_grad():
        for name, parameter in source.named_parameters():
            if "mtlora_B" in name:
                parameter.normal_()
    source.save_pretrained(str(tmp_path))
    head = part(target, "classifier")
    load_parent(target, config_of("transform=shim", "seed=1", "rank=r2"), tmp_path)
    assert equal(part(target, "mtlora_"), part(source, "mtlora_"))
    assert equal(part(target, "classifier"), head)
    weight = "base_model.model.classifier.modules_to_save.default.weight"
    assert not torch.equal(trained(source)[weight], head[weight])


@pytest.mark.parametrize("other", [("rank=r4",), ("transform=ctcm",), ("transform=lora",), ("targets=all",)])
def test_load_parent_refuses_another_adapter(tmp_path: Path, other: tuple[str, ...]) -> None:
    build("transform=shim", "rank=r2").save_pretrained(str(tmp_path))
    with pytest.raises(UserError, match=r"init_from: .*does not fit this adapter: .*mtlora_") as error:
        load_parent(
            build("transform=shim", "rank=r2", *other), config_of("transform=shim", "rank=r2", *other), tmp_path
        )
    assert "\n" not in str(error.value)


def test_load_parent_without_a_readable_file(tmp_path: Path) -> None:
    model = build()
    with pytest.raises(UserError, match=r"init_from: cannot read .*adapter_model\.safetensors"):
        load_parent(model, config_of(), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x10" * 40)
    with pytest.raises(UserError, match="train that run again"):
        load_parent(model, config_of(), tmp_path)


def snapshot(folder: Path, config: PretrainedConfig, typed: bool) -> Path:
    """Save a random backbone without a classification head, and a tokenizer, as a hub snapshot holds them."""
    tokenizer = word_tokenizer()
    config.vocab_size = len(tokenizer)
    if not typed:
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("snapshots")
    roberta = RobertaConfig(**SHAPE, max_position_embeddings=140, type_vocab_size=1, pad_token_id=0)
    deberta = DebertaV2Config(
        **SHAPE,
        max_position_embeddings=128,
        type_vocab_size=0,
        position_biased_input=False,
        relative_attention=True,
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
    )
    return {
        "roberta_base": snapshot(place / "roberta", roberta, typed=False),
        "deberta_v3_base": snapshot(place / "deberta", deberta, typed=True),
        "minilm": snapshot(place / "bert", BertConfig(**SHAPE, max_position_embeddings=128), typed=True),
    }


BERT = {
    "qv": ["attention.self.query", "attention.self.value"],
    "official": ["attention.self.query", "attention.self.value", "intermediate.dense", "output.dense"],
    "all": [
        *(f"attention.self.{name}" for name in ("query", "key", "value")),
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ],
}
DEBERTA = {
    "qv": ["attention.self.query_proj", "attention.self.value_proj"],
    "official": [
        *(f"attention.self.{name}_proj" for name in ("query", "key", "value")),
        "intermediate.dense",
        "output.dense",
    ],
    "all": [
        *(f"attention.self.{name}_proj" for name in ("query", "key", "value")),
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ],
}
TARGETS = {"roberta_base": ("roberta", BERT), "deberta_v3_base": ("deberta", DEBERTA), "minilm": ("bert", BERT)}
HEADS = {
    "roberta_base": {"classifier.dense", "classifier.out_proj"},
    "deberta_v3_base": {"pooler.dense", "classifier"},
    "minilm": {"classifier"},
}


@pytest.mark.parametrize("targets", ["qv", "official", "all"])
@pytest.mark.parametrize("name", TARGETS)
def test_target_sets_and_heads(name: str, targets: str, snapshots: dict[str, Path]) -> None:
    config = compose_cell([f"model={name}", f"model.path={snapshots[name]}", f"targets={targets}", "task=mnli"]).config
    tokenizer = load_tokenizer(config.model)
    model = build_model(config, tokenizer)
    root, modules = TARGETS[name]
    found = {n.removeprefix("base_model.model.") for n, m in model.named_modules() if isinstance(m, MTLoraLayer)}
    assert found == {f"{root}.encoder.layer.{layer}.{module}" for layer in (0, 1) for module in modules[targets]}
    heads = {n.rpartition(".")[0] for n in trained(model) if "mtlora_" not in n}
    assert {n.removeprefix("base_model.model.").replace(".modules_to_save.default", "") for n in heads} == HEADS[name]
    saved = load_file(snapshots[name] / "model.safetensors")
    own = dict(model.base_model.model.named_parameters())
    words = f"{root}.embeddings.word_embeddings.weight"
    assert torch.equal(own[words], saved[words.removeprefix(f"{root}.")]), "the backbone must come from the file"
    batch = tokenizer(["good text"], ["a second one"], return_tensors="pt")
    model.eval()
    assert model(**batch).logits.shape == (1, 3)


def test_head_dropout_reaches_the_head(snapshots: dict[str, Path]) -> None:
    config = compose_cell(["model=deberta_v3_base", f"model.path={snapshots['deberta_v3_base']}", "task=mnli"]).config
    assert config.model.head_dropout == 0.15  # of the recipe; the backbone's own is 0.1
    assert load_backbone(config, 0).dropout.p == 0.15
    overrides = ["model=roberta_base", f"model.path={snapshots['roberta_base']}", "model.head_dropout=0.3"]
    assert load_backbone(compose_cell(overrides).config, 0).classifier.dropout.p == 0.3


def test_a_run_on_a_snapshot(tmp_path: Path, snapshots: dict[str, Path]) -> None:
    name = "deberta_v3_base"
    more = ["task=sst2", "data.max_length=32", "train.batch_size=32", "train.limit_examples=32", "train.epochs=1"]
    record, folder = finish(tmp_path, f"model={name}", f"model.path={snapshots[name]}", *more)
    assert record.status == "success"
    assert any("pooler" in key for key in load_file(folder / "adapter_model.safetensors"))


def test_weights_that_lack_a_part_of_the_backbone_are_refused(tmp_path: Path, snapshots: dict[str, Path]) -> None:
    for file in snapshots["minilm"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    lost = "encoder.layer.1.attention.self.query.weight"
    del tensors[lost]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"lack bert\.{lost}"):
        build("model=minilm", f"model.path={tmp_path}")


def test_model_path_without_a_model(tmp_path: Path) -> None:
    def refused(lack: str) -> None:
        with pytest.raises(UserError, match=rf"model\.path={tmp_path} holds {lack}: save model and tokenizer there"):
            cell_in(tmp_path, "model=roberta_base", f"model.path={tmp_path}").identity  # noqa: B018

    with pytest.raises(UserError, match=r"nowhere holds no config\.json"):
        cell_in(tmp_path, "model=roberta_base", f"model.path={tmp_path / 'nowhere'}").identity  # noqa: B018
    refused(r"no config\.json")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    refused("no tokenizer")
    word_tokenizer().save_pretrained(tmp_path)
    refused("no weights that PyTorch reads")
    (tmp_path / "pytorch_model.bin").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"damaged, or hold more than tensors") as error:
        build("model=roberta_base", f"model.path={tmp_path}")
    assert "\n" not in str(error.value)


def test_weights_of_a_package_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "fakeweights/model/model.safetensors"
    weights.parent.mkdir(parents=True)
    (tmp_path / "fakeweights/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    model = ModelConfig(name="minilm", source="package", package="fakeweights", weights_sha256="0" * 64)
    with pytest.raises(UserError, match=r"cannot read the weights .*model\.safetensors"):
        load_tokenizer(model)
    weights.write_bytes(b"other weights")
    found = hashlib.sha256(b"other weights").hexdigest()
    with pytest.raises(UserError, match=f"has sha256 {found}, expected 0000.*install the package again"):
        load_tokenizer(model)
    model.package = "no_such_package_here"
    with pytest.raises(UserError, match="needs the package no_such_package_here"):
        load_tokenizer(model)
