"""Beam search against a slow reference (no cache, no batch, no early stop) and against cases worked out by hand."""

import math
import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from mtlora.base.errors import UserError
from mtlora.config.schema import DecodeConfig
from mtlora.train.decode import beam_search as generation
from mtlora.train.decode.beam_search import beam_search, generate
from mtlora.train.model import attention
from mtlora.train.model.attention import use_own_attention

PAD = 0
Logits = Callable[[Sequence[int]], list[float]]


def reference(
    logits_of: Logits, prompt: Sequence[int], decode: DecodeConfig, ends: Sequence[int], dies: bool = True
) -> list[int]:
    """The published search, one hypothesis at a time. `dies=False` lets ended hypotheses go on (to see that it matters)."""
    best_score, best = -math.inf, []
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    for n in range(1, decode.max_new_tokens + 1):
        options = []
        for score, tokens in live:
            logits = logits_of([*prompt, *tokens])
            allowed = [token for token in range(len(logits)) if not repeats(tokens, token, decode.no_repeat_ngram)]
            log_sum = math.log(sum(math.exp(logits[token]) for token in allowed)) if allowed else 0.0
            options += [(score + logits[token] - log_sum, [*tokens, token]) for token in allowed]
        options.sort(key=lambda option: -option[0])
        live = []
        for score, tokens in options[: decode.beams]:
            ended = tokens[-1] in ends
            if ended and score / n**decode.length_penalty > best_score:
                best_score, best = score / n**decode.length_penalty, tokens[:-1]
            if not (ended and dies):
                live.append((score, tokens))
    for score, tokens in live:
        if score / decode.max_new_tokens**decode.length_penalty > best_score:
            best_score, best = score / decode.max_new_tokens**decode.length_penalty, tokens
    return best


def repeats(tokens: list[int], token: int, n: int) -> bool:
    """Whether the last n tokens, once `token` is added, already occur among `tokens`."""
    longer = [*tokens, token]
    if n == 0 or len(longer) < n:
        return False
    return any(longer[i : i + n] == longer[-n:] for i in range(len(longer) - n))


def random_model(
    kind: str, vocabulary: int = 24, seed: int = 0, positions: int = 40, window: int | None = None
) -> torch.nn.Module:
    """Two layers in float64, so that rounding cannot decide; weights large enough for uneven distributions."""
    torch.manual_seed(seed)
    common: dict[str, Any] = {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": None}
    if kind == "gpt2":
        shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": positions}
        model = GPT2LMHeadModel(GPT2Config(initializer_range=0.4, **common, **shape))
    else:
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        shape |= {"num_key_value_heads": 2, "max_position_embeddings": positions}
        if kind == "mistral":
            model = MistralForCausalLM(MistralConfig(initializer_range=0.5, sliding_window=window, **common, **shape))
        else:
            model = LlamaForCausalLM(LlamaConfig(initializer_range=0.5, **common, **shape))
    use_own_attention(model)
    return model.double().eval()


def full_logits(model: torch.nn.Module) -> Logits:
    """Whole sequences through the model, each once per test."""
    known: dict[tuple[int, ...], list[float]] = {}

    def logits_of(tokens: Sequence[int]) -> list[float]:
        if tuple(tokens) not in known:
            with torch.inference_mode():
                known[tuple(tokens)] = model(torch.tensor([list(tokens)]), use_cache=False).logits[0, -1].tolist()
        return known[tuple(tokens)]

    return logits_of


def random_prompts(choice: random.Random, vocabulary: int, n: int) -> list[list[int]]:
    return [[choice.randrange(vocabulary) for _ in range(choice.randint(1, 9))] for _ in range(n)]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_equals_the_reference_token_for_token(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts make sure that each rule decides in some of the cases; without one of them the test would prove less."""
    choice = random.Random(kind)
    decisive = dict.fromkeys(["no_repeat_ngram", "length_penalty", "beams", "second end token", "death", "padding"], 0)
    for seed in range(4):
        vocabulary = choice.randint(16, 36)
        model = random_model(kind, vocabulary, seed)
        logits_of = full_logits(model)
        prompts = random_prompts(choice, vocabulary, 4)
        for _ in range(20):
            decode = DecodeConfig(
                beams=choice.choice([1, 2, 5, 10]),
                no_repeat_ngram=choice.choice([0, 2, 3, 4]),
                length_penalty=choice.choice([0, 0.8, 1.2, 2]),
                max_new_tokens=choice.randint(1, 12),
            )
            ends = choice.sample(range(vocabulary), choice.randint(1, 4))
            monkeypatch.setattr(attention, "products_are_faster", lambda device: False)
            answers = beam_search(model, prompts, decode, ends, PAD)
            monkeypatch.setattr(attention, "products_are_faster", lambda device: True)  # padding is on the left
            assert beam_search(model, prompts, decode, ends, PAD) == answers
            for prompt, answer in zip(prompts, answers, strict=True):
                assert answer == reference(logits_of, prompt, decode, ends), (seed, decode, ends, prompt)
                for key, other in [("no_repeat_ngram", 0), ("length_penalty", 0), ("beams", 1)]:
                    changed = DecodeConfig(**{**vars(decode), key: other})
                    decisive[key] += answer != reference(logits_of, prompt, changed, ends)
                decisive["second end token"] += answer != reference(logits_of, prompt, decode, ends[:1])
                decisive["death"] += answer != reference(logits_of, prompt, decode, ends, dies=False)
                decisive["padding"] += len(prompt) < max(map(len, prompts))
    assert min(decisive.values()) >= 10, decisive


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_neither_batch_size_nor_order_matters(kind: str) -> None:
    model = random_model(kind)
    prompts, ends = random_prompts(random.Random(1), 24, 9), [0, 3, 5, 6, 10, 18]
    whole = generate(model, prompts, DecodeConfig(beams=4, max_new_tokens=8, batch_size=9), ends, PAD)
    assert len(set(map(len, whole))) > 2  # contexts leave the batch at different steps
    for size in (1, 7):
        decode = DecodeConfig(beams=4, max_new_tokens=8, batch_size=size)
        assert generate(model, prompts, decode, ends, PAD) == whole
        assert generate(model, prompts[::-1], decode, ends, 7) == whole[::-1]  # nor does the padding's id


def test_equal_prompts_are_decoded_once() -> None:
    seen = []
    prompts = [[1, 2], [9, 3, 4], [1, 2], [1, 2], [5]]
    decode = DecodeConfig(beams=2, max_new_tokens=4, batch_size=2, max_context=2)
    answers = generate(random_model("gpt2"), prompts, decode, [3], PAD, lambda *counts: seen.append(counts))
    assert seen == [(2, 3), (3, 3)]
    assert answers[0] == answers[2] == answers[3]
    answers[0].append(99)  # the lists are nevertheless the caller's own
    assert answers[2][-1:] != [99]


def test_no_prompts_give_no_answers() -> None:
    assert generate(random_model("gpt2"), [], DecodeConfig(), [3], PAD) == []


def test_long_contexts_lose_their_beginning() -> None:
    model = random_model("llama")
    decode = DecodeConfig(beams=3, max_new_tokens=6, max_context=4)
    long = [[7, 7, 1, 2, 3, 4], [1, 2, 3, 4]]
    one, other = generate(model, long, decode, [5], PAD)
    assert one == other == reference(full_logits(model), [1, 2, 3, 4], decode, [5])


def test_early_stop_saves_work_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = random.Random(3)
    model = random_model("gpt2", seed=4)
    rows: list[int] = []
    model.register_forward_pre_hook(lambda _m, _a, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True)
    settings = [DecodeConfig(beams=b, length_penalty=p, max_new_tokens=12) for b in (2, 5) for p in (0, 0.8, 2)]
    cases = [(random_prompts(choice, 24, 5), decode, choice.sample(range(24), 6)) for decode in settings]
    fast = [beam_search(model, prompts, decode, ends, PAD) for prompts, decode, ends in cases]
    n_fast = sum(rows)
    monkeypatch.setattr(generation, "settled", lambda best, live, decode: live == -math.inf)
    slow = [beam_search(model, prompts, decode, ends, PAD) for prompts, decode, ends in cases]
    assert fast == slow
    assert n_fast < 0.8 * (sum(rows) - n_fast)


def test_the_prompt_is_forwarded_once_and_then_one_token_per_hypothesis() -> None:
    model = random_model("gpt2")
    shapes = []
    model.register_forward_pre_hook(lambda _m, _a, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True)
    beam_search(model, [[1, 2, 3], [4, 5]], DecodeConfig(beams=3, max_new_tokens=4), [], PAD)
    assert shapes == [(2, 3), (6, 1), (6, 1), (6, 1)]


def test_peft_model_decodes_with_its_adapter() -> None:
    base = random_model("gpt2")
    decode = DecodeConfig(beams=3, max_new_tokens=6, no_repeat_ngram=3)
    prompts = [[1, 2, 3], [4, 5], [6]]
    plain = beam_search(base, prompts, decode, [3], PAD)
    config = LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True, lora_alpha=64)
    model = get_peft_model(base, config).double().eval()
    adapted = beam_search(model, prompts, decode, [3], PAD)
    assert adapted == [reference(full_logits(model), prompt, decode, [3]) for prompt in prompts]
    assert adapted != plain


def test_too_few_positions_are_one_clear_line() -> None:
    model = random_model("gpt2", positions=16)
    decode = DecodeConfig(beams=2, max_new_tokens=6, max_context=11)
    with pytest.raises(UserError, match=r"11 tokens and decode.max_new_tokens=6 .* 16 positions: lower decode.max_con"):
        generate(model, [[1] * 12, [2]], decode, [3], PAD)
    decode.max_context = 10
    assert len(generate(model, [[1] * 12, [2]], decode, [], PAD)[0]) == 6


def test_a_window_of_attention_that_is_too_short_is_one_clear_line() -> None:
    """Within the window a model attends to all tokens, as the search does; beyond it the search would be another model's."""
    prompts, decode = [[1, 2, 3, 4, 5], [7, 8]], DecodeConfig(beams=2, max_new_tokens=6, max_context=20)
    fitting = random_model("mistral", window=11)
    expected = [reference(full_logits(fitting), prompt, decode, [3]) for prompt in prompts]
    assert generate(fitting, prompts, decode, [3], PAD) == expected
    with pytest.raises(
        UserError, match=r"5 tokens and decode.max_new_tokens=6 .*sliding_window of 10.*: lower decode.max_con"
    ):
        generate(random_model("mistral", window=10), prompts, decode, [3], PAD)


def test_the_layer_of_a_cache_is_found_by_its_number() -> None:
    model = random_model("llama")
    model.model.layers = torch.nn.ModuleList(reversed(model.model.layers))  # number 1 is called first
    decode = DecodeConfig(beams=3, max_new_tokens=6)
    prompts = [[1, 2, 3], [4, 5]]
    assert beam_search(model, prompts, decode, [3], PAD) == [
        reference(full_logits(model), prompt, decode, [3]) for prompt in prompts
    ]


def test_a_model_with_attention_of_its_own_is_refused_in_one_line() -> None:
    shape: dict[str, Any] = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 24}
    neo = GPTNeoForCausalLM(GPTNeoConfig(**shape, attention_types=[[["global"], 2]])).eval()
    use_own_attention(neo)
    with pytest.raises(
        UserError, match=r"beam search needs .* AttentionInterface .*: GPTNeoForCausalLM computes its own"
    ):
        generate(neo, [[1, 2]], DecodeConfig(beams=2, max_new_tokens=3), [3], PAD)


def test_a_model_that_keeps_our_arguments_from_its_attention_is_refused_in_one_line() -> None:
    model = random_model("gpt2")
    model.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {k: v for k, v in kwargs.items() if k != "attend"}), with_kwargs=True
    )
    with pytest.raises(UserError, match=r"beam search needs .*: GPT2LMHeadModel does not pass its arguments on"):
        generate(model, [[1, 2]], DecodeConfig(beams=2, max_new_tokens=3), [3], PAD)


class Markov:
    """A model whose next token depends on the last token alone; probabilities[token] are those of its successors."""

    config = SimpleNamespace()
    device = torch.device("cpu")

    def __init__(self, probabilities: list[list[float]], dtype: torch.dtype = torch.float64) -> None:
        self.logits = torch.tensor(probabilities, dtype=torch.float64).add(1e-30).log().to(dtype)

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits[input_ids[:, -1:]])

    def logits_of(self, tokens: Sequence[int]) -> list[float]:
        return self.logits[tokens[-1]].tolist()


END, A, B, START = range(4)


def decode_markov(probabilities: list[list[float]], **values: Any) -> list[int]:
    (answer,) = beam_search(Markov(probabilities), [[START]], DecodeConfig(**values), [END], PAD)
    return answer


def test_by_hand_a_wider_beam_finds_the_better_text() -> None:
    """Greedy: A, then END: 0.6 * 0.4 = 0.24. Two beams keep B as well: 0.4 * 0.9 = 0.36."""
    chain = [[1, 0, 0, 0], [0.4, 0.3, 0.3, 0], [0.9, 0.05, 0.05, 0], [0, 0.6, 0.4, 0]]
    assert decode_markov(chain, beams=1, length_penalty=0, max_new_tokens=2) == [A]
    assert decode_markov(chain, beams=2, length_penalty=0, max_new_tokens=2) == [B]


def test_by_hand_the_length_penalty_prefers_the_longer_text() -> None:
    """END at once: log 0.5 = -0.69 over 1 token. B END: log 0.36 = -1.02 over 2 tokens, -0.51 per token."""
    chain = [[1, 0, 0, 0], [1, 0, 0, 0], [0.9, 0.1, 0, 0], [0.5, 0.1, 0.4, 0]]
    assert decode_markov(chain, beams=2, length_penalty=0, max_new_tokens=3) == []
    assert decode_markov(chain, beams=2, length_penalty=1, max_new_tokens=3) == [B]


def test_by_hand_a_ban_renormalises_what_is_left() -> None:
    """After A A a third A is banned, so B has 0.06 / 0.1: 0.7 * 0.9 * 0.6 = 0.378 beats B END with 0.3 (0.038 would not)."""
    chain = [[1, 0, 0, 0], [0.04, 0.9, 0.06, 0], [1, 0, 0, 0], [0, 0.7, 0.3, 0]]
    assert decode_markov(chain, beams=2, length_penalty=0, max_new_tokens=3, no_repeat_ngram=2) == [A, A, B]
    assert decode_markov(chain, beams=2, length_penalty=0, max_new_tokens=3, no_repeat_ngram=0) == [A, A, A]


def test_by_hand_the_prompt_does_not_ban() -> None:
    """The prompt A A A would ban a second A if it counted."""
    chain = [[1, 0, 0, 0], [0.1, 0.8, 0.1, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    (answer,) = beam_search(
        Markov(chain), [[A, A, A]], DecodeConfig(beams=1, max_new_tokens=2, no_repeat_ngram=2), [END], PAD
    )
    assert answer == [A, A]


def test_by_hand_the_first_of_equal_scores_wins() -> None:
    """END at once and END after A have the same score, log(1/2) / 1 and log(1/4) / 2: the strictly better one replaces."""
    chain = [[1, 0, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 1, 0], [0.5, 0.5, 0, 0]]
    assert decode_markov(chain, beams=3, length_penalty=1, max_new_tokens=2) == []


def test_a_beam_wider_than_the_vocabulary_and_a_ban_of_everything() -> None:
    """Unigrams may not repeat: after four tokens none is left, and without an end token no hypothesis survives."""
    chain = [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.25, 0.3, 0.25, 0.2], [0.1, 0.5, 0.15, 0.25]]
    model = Markov(chain)
    for ends, steps in [([], 4), ([], 5), ([END], 6), ([END], 3), ([END, B], 2)]:
        decode = DecodeConfig(beams=50, no_repeat_ngram=1, max_new_tokens=steps)
        answer = beam_search(model, [[START]], decode, ends, PAD)[0]
        assert answer == reference(model.logits_of, [START], decode, ends)
        assert (answer == []) == (steps == 5)


def test_a_hypothesis_without_an_allowed_token_leaves_the_others_alone() -> None:
    """Two tokens whose bigrams may not repeat: A A B A has no continuation, A B B A has one, nothing is longer than five."""
    for seed in range(10):
        model = random_model("gpt2", vocabulary=2, seed=seed)
        for beams, steps in [(2, 5), (3, 5), (10, 5), (10, 6)]:
            decode = DecodeConfig(beams=beams, no_repeat_ngram=2, max_new_tokens=steps)
            answer = beam_search(model, [[1]], decode, [], PAD)[0]
            assert answer == reference(full_logits(model), [1], decode, [])
            assert beams < 10 or (len(answer) == 5) == (steps == 5)


def test_sums_of_a_bf16_model_are_float32() -> None:
    """Thirty log-probabilities of about -0.7: bf16 sums, with steps of 0.06 to 0.1, could not tell the hypotheses apart."""
    chain = [[1, 0, 0, 0], [0.02, 0.5, 0.48, 0], [0.02, 0.47, 0.51, 0], [0.02, 0.5, 0.48, 0]]
    model = Markov(chain, torch.bfloat16)
    decode = DecodeConfig(beams=4, max_new_tokens=30, no_repeat_ngram=4)
    assert beam_search(model, [[START]], decode, [END], PAD)[0] == reference(model.logits_of, [START], decode, [END])
