"""The tokenizers of the random models `tiny` and `tiny_gpt2`."""

import re
from collections import Counter
from typing import TYPE_CHECKING

from .glue import generate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def word_tokenizer() -> "PreTrainedTokenizerFast":
    """Make a WordPiece tokenizer of at most 1,000 tokens from the built-in texts.

    The vocabulary is counted here, because the trainer of the tokenizers package breaks ties differently in each call.
    """
    from tokenizers import BertWordPieceTokenizer
    from transformers import PreTrainedTokenizerFast

    texts = [
        v for task in ("cola", "rte") for row in generate(task, "train") for v in row.values() if isinstance(v, str)
    ]
    words = Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower()))
    letters = sorted({letter for word in words for letter in word})
    frequent = sorted(words, key=lambda word: (-words[word], word))
    special = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    tokens = [*special.values(), *letters, *(f"##{letter}" for letter in letters), *frequent]
    vocabulary = {token: index for index, token in enumerate(list(dict.fromkeys(tokens))[:1000])}
    return PreTrainedTokenizerFast(
        tokenizer_object=BertWordPieceTokenizer(vocabulary)._tokenizer,
        model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **special,
    )


def byte_tokenizer() -> "PreTrainedTokenizerFast":
    """Make a tokenizer whose tokens are the 256 bytes, the blank line and the end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate([*letters, "ĊĊ"])}, [("Ċ", "Ċ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", model_max_length=512)
