"""Compare beam search with ten beams with `generate` of transformers at its best batch size and matrix library.

    python tools/benchmarks/decode.py

The GPT-2 has random weights, so that no hypothesis ends early on either side.
"""

import argparse
import copy
import sys
from functools import partial

import torch
from common import Entry, interleave, publish, ratio
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from mtlora.base.onednn import onednn_is_fp32, set_fp32_matmul_precision
from mtlora.config.schema import DecodeConfig
from mtlora.train.decode.beam_search import generate
from mtlora.train.model.attention import use_own_attention

LENGTHS = (24, 31, 38, 45, 27, 52, 33, 41)  # tokens of the prompts; WebNLG's contexts have 20 to 60
BATCHES = (1, 2, 4, 8)


def peer(model: GPT2LMHeadModel, prompts: list[list[int]], decode: DecodeConfig, size: int) -> list[list[int]]:
    """Decode with transformers, in batches padded on the left."""
    settings = GenerationConfig(
        num_beams=decode.beams,
        max_new_tokens=decode.max_new_tokens,
        no_repeat_ngram_size=decode.no_repeat_ngram,
        length_penalty=decode.length_penalty,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=1,
    )
    answers: list[list[int]] = []
    for start in range(0, len(prompts), size):
        batch = prompts[start : start + size]
        width = max(map(len, batch))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in batch], device=model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch], device=model.device)
        with torch.inference_mode():
            found = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)  # type: ignore[misc]
        answers += found[:, width:].tolist()
    return answers


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Beam search against transformers' generate.")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=32, help="new tokens per text")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GPT2LMHeadModel(GPT2Config(n_layer=options.layers, bos_token_id=None, eos_token_id=None)).eval().to(device)
    own = copy.deepcopy(model)
    use_own_attention(own)
    prompts = [torch.randint(5, 50000, (length,)).tolist() for length in LENGTHS]
    ours = DecodeConfig(max_new_tokens=options.tokens, batch_size=len(prompts))
    plain = DecodeConfig(max_new_tokens=options.tokens, batch_size=len(prompts), no_repeat_ngram=0)
    chosen = "bf16" if onednn_is_fp32() else "ieee"

    def decode(settings: DecodeConfig = ours) -> list[list[int]]:
        set_fp32_matmul_precision(chosen)
        return generate(own, prompts, settings, [1], 0)

    def transformers(size: int, precision: str) -> None:
        set_fp32_matmul_precision(precision)
        peer(model, prompts, ours, size)

    if decode(plain) != peer(model, prompts, plain, 1):
        sys.exit("error: the texts differ from those of transformers' generate: nothing is published")
    peers = {
        f"{size} a batch{', oneDNN' if precision == 'bf16' else ''}": partial(transformers, size, precision)
        for size in BATCHES
        for precision in dict.fromkeys(("ieee", chosen))
    }
    tried = interleave(peers, repeats=1, warm=0)
    best = min(tried, key=lambda name: tried[name][0])
    seconds = interleave({"ours": decode, "generate": peers[best]}, options.repeats)
    value, spread = ratio(seconds["generate"], seconds["ours"])
    equal = "all tokens identical without the n-gram ban, whose rule differs"
    against = f"transformers' `generate`, the fastest of {len(peers)} settings: {best}"
    publish([Entry("beam search, 10 beams", value, "higher", 2.2, against, spread, equal)], "Decoding")


if __name__ == "__main__":
    main()
