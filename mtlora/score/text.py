"""Metrics of generated texts as pure functions, and the published treatment of the texts before they are scored.

Every metric takes hypotheses (n strings) and references (n lists of one or more strings; the lists may differ in length).
The packages of the extra `metrics` are imported in the functions that use them, because they are optional.
"""

import math
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from mtlora.base.errors import UserError

Words = Sequence[str]
References = Sequence[Sequence[str]]

NIST_ORDER = 5
NIST_BETA = math.log(0.5) / math.log(1.5) ** 2  # the penalty is one half where the output has 2/3 of the words
METEOR_OPTIONS = ["-", "-", "-stdio", "-l", "en", "-norm"]
# Both Java programs read and write UTF-8 in every locale, but METEOR lower-cases by the rules of the locale's language: in
# Turkish "I" becomes "ı".
JAVA_FLAGS = ["-Duser.language=en", "-Duser.country=US", "-Xmx2G"]


def trim(text: str) -> str:
    """Return the text up to the first `<|endoftext|>` or blank line, stripped (E2E)."""
    return text.split("<|endoftext|>")[0].split("\n\n")[0].strip()


def normalise(text: str) -> str:
    r"""Return the trimmed text in lower case, with every non-word character (regex `\W`) as a token of its own (DART, WebNLG).

    Tokens are joined by single spaces; white space is not a token. The underscore is a word character.
    """
    return " ".join(re.sub(r"(\W)", r" \1 ", trim(text).lower()).split())


def treat(scoring: str) -> Callable[[str], str]:
    """Return the published treatment of texts before scoring: `triples` (DART, WebNLG) is `normalise`, `e2e` is `trim`."""
    return {"triples": normalise, "e2e": trim}[scoring]


def bleu(hypotheses: Sequence[str], references: References) -> float:
    """Return corpus BLEU, 0 to 100: 13a tokens, no smoothing, case-insensitive (sacrebleu)."""
    return float(bleu_metric().corpus_score(list(hypotheses), reference_streams(references)).score)  # type: ignore[arg-type]


def bleu_metric(**options: Any) -> Any:
    """Return sacrebleu's BLEU as the literature on these data sets uses it."""
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize="13a", smooth_method="none", force=True, lowercase=True, **options)


def reference_streams(references: References) -> list[list[str | None]]:
    """Turn n lists of references into sacrebleu's streams of n texts each, with None for a reference that does not exist."""
    return [[refs[i] if i < len(refs) else None for refs in references] for i in range(max(map(len, references)))]


def nist(hypotheses: Sequence[str], references: References) -> float:
    """Return corpus NIST, from 0, as the E2E challenge's script computes it with `-p`, an option that LoRA's authors used.

    The tokens are those of 13a in lower case. N-grams up to 5 are weighted by their information over all references, and
    a count is clipped at the largest count in any one reference. The length is compared with the mean length of the references.
    nltk's `corpus_nist` differs: it takes the single best reference. Formula: Doddington (2002), equations 2 and 3. This
    function has not been compared with mteval-v13a itself.
    """
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenizer = Tokenizer13a()
    outputs = [tokenizer(text).lower().split() for text in hypotheses]
    sources = [[tokenizer(text).lower().split() for text in refs] for refs in references]
    seen: Counter[tuple[str, ...]] = Counter()
    for words in (words for group in sources for words in group):
        seen[()] += len(words)
        for order in range(1, NIST_ORDER + 1):
            seen.update(_ngrams(words, order))
    score = 0.0
    for order in range(1, NIST_ORDER + 1):
        gained = 0.0
        for words, group in zip(outputs, sources, strict=True):
            limit: Counter[tuple[str, ...]] = Counter()
            for reference in group:
                limit |= _ngrams(reference, order)
            matched = _ngrams(words, order) & limit
            gained += sum(count * math.log2(seen[gram[:-1]] / seen[gram]) for gram, count in matched.items())
        total = sum(max(len(words) - order + 1, 0) for words in outputs)
        score += gained / total if total else 0.0
    length = sum(sum(map(len, group)) / len(group) for group in sources)
    ratio = sum(map(len, outputs)) / length if length else 0.0
    return score * math.exp(NIST_BETA * math.log(ratio) ** 2) if 0 < ratio < 1 else score


def ter(hypotheses: Sequence[str], references: References, official_off_by_one: bool = False) -> float:
    """Return the mean over texts of the smallest translation edit rate over the references, from 0; lower is better.

    An empty text counts as 1, since every word is missing. The rates are those of `pyter.ter` on words split at white
    space.

    Args:
        hypotheses: n texts.
        references: n lists of texts.
        official_off_by_one: count one more text, with rate 1: the official script reads a blank last line as a text.
    """
    total, cache = 0.0, {}
    for hypothesis, refs in zip(hypotheses, references, strict=True):
        words = hypothesis.split()
        key = (tuple(words), frozenset(refs))
        if key not in cache:  # DART's test set repeats many entries
            cache[key] = min(edit_rate(words, reference.split()) for reference in set(refs))
        total += cache[key]
    extra = 1 if official_off_by_one else 0
    return (total + extra) / (len(hypotheses) + extra)


def edit_rate(words: Words, reference: Words) -> float:
    """Return `pyter.ter(words, reference)`, from the same search for shifts with a faster edit distance.

    An empty reference gives 1, as in the official script.
    """
    from pyter import _ter  # pinned to version 0.3: the search with the distance as an argument
    from rapidfuzz.distance import Levenshtein

    if not reference:
        return 1.0
    return float(_ter(list(words), list(reference), lambda shifted: Levenshtein.distance(shifted, reference)))


def meteor(hypotheses: Sequence[str], references: References) -> float:
    """Return METEOR 1.5 for English with `-norm`, 0 to 1, computed by the jar in pycocoevalcap.

    Raises:
        UserError: the Java program ends early.
    """
    import pycocoevalcap.meteor

    pairs = list(zip(hypotheses, references, strict=True))
    command = ["java", *JAVA_FLAGS, "-jar", "meteor-1.5.jar", *METEOR_OPTIONS]
    # pycocoevalcap has a class for this, but it hangs forever when Java fails: its destructor waits for a lock that it holds.
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, cwd=_folder(pycocoevalcap.meteor), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(*fields: str) -> None:
            stdin.write((" ||| ".join(fields) + "\n").encode(errors="replace"))
            stdin.flush()

        def answer() -> str:
            if line := stdout.readline():
                return line.decode().strip()
            raise BrokenPipeError

        try:
            statistics = []
            for hypothesis, refs in pairs:
                ask("SCORE", *map(_one_line, refs), _one_line(hypothesis))
                statistics.append(answer())
            ask("EVAL", *statistics)
            # one score for each text, then the score of the corpus
            return float([answer() for _ in range(len(statistics) + 1)][-1])
        except (BrokenPipeError, ValueError):
            raise _java_failed("METEOR", errors) from None
        finally:
            process.kill()
            with suppress(BrokenPipeError):  # closing writes the rest of the buffer
                stdin.close()


def rouge_l(hypotheses: Sequence[str], references: References) -> float:
    """Return mean ROUGE-L as in coco-caption, 0 to 1, of texts that come from `ptb_tokenise`."""
    from pycocoevalcap.rouge.rouge import Rouge

    return float(Rouge().compute_score(*_coco_form(hypotheses, references))[0])


def cider(hypotheses: Sequence[str], references: References) -> float:
    """Return CIDEr as in coco-caption, 0 to 10, of texts that come from `ptb_tokenise`; 0 for a single text."""
    from pycocoevalcap.cider.cider import Cider

    return float(Cider().compute_score(*_coco_form(hypotheses, references))[0])


def ptb_tokenise(texts: Sequence[str]) -> list[str]:
    """Return each text as coco-caption sees it: Stanford's PTB tokens in lower case, without punctuation, joined by spaces.

    Raises:
        UserError: the Java program ends early.
    """
    import pycocoevalcap.tokenizer
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

    name = "edu.stanford.nlp.process.PTBTokenizer"
    command = ["java", *JAVA_FLAGS, "-cp", STANFORD_CORENLP_3_4_1_JAR, name, "-preserveLines", "-lowerCase"]
    lines = "\n".join(" ".join(text.splitlines()) for text in texts).encode(errors="replace")
    with tempfile.TemporaryFile() as errors:
        done = subprocess.run(
            command, cwd=_folder(pycocoevalcap.tokenizer), input=lines, stdout=subprocess.PIPE, stderr=errors
        )
        found = done.stdout.decode().split("\n")
        if done.returncode or len(found) < len(texts) or any(found[len(texts) :]):
            raise _java_failed("the PTB tokenizer", errors)
    return [
        " ".join(word for word in line.rstrip().split(" ") if word not in PUNCTUATIONS) for line in found[: len(texts)]
    ]


def java_works() -> bool:
    """Return whether `java` is on the path and starts (macOS has a stub that does not)."""
    if shutil.which("java") is None:
        return False
    try:
        return subprocess.run(["java", "-version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _ngrams(words: Words, order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[i:] for i in range(order)), strict=False))


def _one_line(text: str) -> str:
    """Return the text without the separators of METEOR's line protocol."""
    return " ".join(text.replace("|||", " ").split())


def _coco_form(hypotheses: Sequence[str], references: References) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    return {i: list(refs) for i, refs in enumerate(references)}, {i: [text] for i, text in enumerate(hypotheses)}


def _folder(package: object) -> Path:
    return Path(next(iter(package.__path__)))  # type: ignore[attr-defined]


def _java_failed(program: str, errors: IO[bytes]) -> UserError:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
    reason = next((line for line in lines if "rror" in line or "xception" in line), lines[-1])  # skips the stack trace
    return UserError(f"{program} ended early ({reason.strip()}): check `java -version` and free memory")
