"""Run the README's PEFT example with the packages of the core alone: `python tests/end_to_end/readme_example.py`.

The example loads RoBERTa-base from the hub; here a small random RoBERTa stands in, so that no network is needed. Training steps
stand in for its dots. At the end the adapter and its export to LoRA are loaded again and must compute the same.
"""

import os
import re
import tempfile
from pathlib import Path
from unittest.mock import patch

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

README = Path(__file__).resolve().parents[2] / "README.md"
IDS = torch.tensor([[0, 5, 6, 7, 2], [0, 8, 9, 10, 2]])


def small_roberta(name: str, num_labels: int) -> RobertaForSequenceClassification:
    """Stand in for `from_pretrained`: the same weights at every call."""
    assert name == "FacebookAI/roberta-base"
    torch.manual_seed(0)
    config = RobertaConfig(
        **{"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"intermediate_size": 64, "max_position_embeddings": 32, "num_labels": num_labels},
    )
    return RobertaForSequenceClassification(config).eval()


def train(model: PeftModel) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        model(input_ids=IDS, labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    (example,) = re.findall(r"```python\n(.*?\n)\.\.\.\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(AutoModelForSequenceClassification, "from_pretrained", small_roberta),
    ):
        os.chdir(folder)
        names: dict[str, PeftModel] = {}
        exec(example[0], names)
        train(names["model"])
        exec(example[1], names)
        expected = names["model"](input_ids=IDS).logits
        fresh = small_roberta("FacebookAI/roberta-base", 2)(input_ids=IDS).logits
        assert not torch.allclose(expected, fresh, atol=1e-3), "the adapter changes nothing"
        for saved in ("adapter", "adapter-lora"):
            loaded = PeftModel.from_pretrained(small_roberta("FacebookAI/roberta-base", 2), saved)
            torch.testing.assert_close(loaded(input_ids=IDS).logits, expected)
        os.chdir("/")
    print("the README's example runs; the adapter and its export to LoRA load again and compute the same")


if __name__ == "__main__":
    main()
