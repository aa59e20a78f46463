"""Train the small decoder of the `mini` profile on the project's own text: `python tools/pretrain.py --out DIR`.

It writes the files of the model `conf/model/gpt2_mini.yaml`: a byte-level BPE tokenizer, a GPT-2 of about 2M parameters in half
precision, and a README with the command. The text (`background_text`) shares no names and no line format with the built-in data.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from builtin_text.triples import background_text
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mtlora.base import cli
from mtlora.base.files import write_text
from mtlora.base.onednn import onednn_is_fp32, set_fp32_matmul_precision

END = "<|endoftext|>"
VOCABULARY = 3000
TOKENIZER_DOCUMENTS = 20_000
WIDTH = 512  # tokens per training row; documents are joined by the end token
SHAPE: dict[str, Any] = {"n_embd": 160, "n_layer": 4, "n_head": 5, "n_positions": WIDTH}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on the background text; the blank line is one token, as in GPT-2."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(background_text(1, TOKENIZER_DOCUMENTS), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
    fast.add_tokens([AddedToken("\n\n", normalized=False)])
    return fast


def rows(tokenizer: PreTrainedTokenizerFast, batch: int) -> Iterator[torch.Tensor]:
    """Yield an infinite stream of batches of packed documents, (batch, WIDTH) token ids."""
    held: list[int] = []
    for seed in itertools.count(2):
        documents = background_text(seed, 2000)
        while texts := list(itertools.islice(documents, 200)):
            for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
                held += [*ids, tokenizer.eos_token_id]
            while len(held) >= batch * WIDTH:
                yield torch.tensor(held[: batch * WIDTH]).view(batch, WIDTH)
                del held[: batch * WIDTH]


def pretrain(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train for the given minutes (the learning rate depends on the elapsed time) and save into `arguments.out`."""
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    if onednn_is_fp32():
        set_fp32_matmul_precision("bf16")  # products by oneDNN, still in fp32; see mtlora.base.onednn
    tokenizer = make_tokenizer()
    ends: dict[str, Any] = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    dropout: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **SHAPE, **ends, **dropout))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    losses: list[float] = []  # of the last 50 steps
    started, limit, step = time.monotonic(), 60.0 * arguments.minutes, 0
    console = Console(stderr=True)
    with Progress(TextColumn("{task.description}"), TimeRemainingColumn(), console=console) as bar:
        line = bar.add_task("pretraining", total=limit)
        for ids in rows(tokenizer, arguments.batch):
            share = (time.monotonic() - started) / limit
            if share >= 1:
                break
            rate = min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * share)) * arguments.learning_rate
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step, losses = step + 1, [*losses[-49:], loss.item()]
            mean = sum(losses) / len(losses)
            bar.update(line, completed=share * limit, description=f"step {step}, loss {mean:.3f}")
            if step % 50 == 0 and not console.is_terminal:
                console.print(f"step {step}, {share:.0%} of the time, loss {mean:.3f}")
    facts = {"steps": step, "tokens": step * arguments.batch * WIDTH, "loss": round(sum(losses) / len(losses), 4)}
    save(model, tokenizer, arguments, facts)
    return facts


def save(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, arguments: argparse.Namespace, facts: dict[str, Any]
) -> None:
    """Write weights in half precision, tokenizer and README."""
    out = Path(arguments.out)
    model.half().save_pretrained(str(out))
    tokenizer.model_max_length = WIDTH
    tokenizer.save_pretrained(str(out))
    (out / "generation_config.json").unlink(missing_ok=True)
    parameters = sum(p.numel() for p in model.parameters())
    write_text(
        out / "README.md",
        f"# gpt2_mini\n\nA GPT-2 with {parameters:,} parameters and a byte-level BPE tokenizer of {len(tokenizer):,} tokens,\n"
        f"made by `python tools/pretrain.py --minutes {arguments.minutes:g} --batch {arguments.batch} --learning-rate "
        f"{arguments.learning_rate:g}`\nfrom the text of `background_text` in `tools/builtin_text/triples.py`; no other data.\n"
        f"Result: `{json.dumps(facts)}`, the loss in nats per token over the last 50 steps. Apache-2.0, like the project.\n",
    )


def main() -> None:
    """Parse the command line and train."""
    parser = cli.Parser(prog="python tools/pretrain.py", description="Train the decoder gpt2_mini.")
    parser.add_argument("--out", required=True, help="folder for weights, tokenizer and README")
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--batch", type=int, default=8, help="rows of 512 tokens per step")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    facts = pretrain(parser.parse_args())
    Console(stderr=True).print(facts)


if __name__ == "__main__":
    cli.run(main)
