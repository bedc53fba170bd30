"""The tokenizer is CLIP's: the same ids as transformers', with the real vocabulary, on anything that people type."""
import random
import unicodedata

import pytest
from conftest import clip_tokenizer
from transformers import CLIPTokenizer

from clip_text import END, START, Tokenizer

HARD = ["", "   ", "a photo of a cat", "HELLO World", "don't they'd we've I'M it's o'clock", "''' 's's 'sks'",
        "résumé café naïve Å",
        "e\u0301 \u0301x", "²½Ⅷ x²y 12 3.5% ٣ 一二三", "日本語 テスト 中文 한국어 ไทย العربية עברית",
        "😀👍🏽👨‍👩‍👧 emoji", "ﬁ ligature ǅ ß İstanbul",
        "Σίσυφος ΣΑΣ", "<b>html</b> &amp; &#39; <br/>",
        "a\x00b\x1cc\x1fd\x85e\x7f", "\u200b zero\u200dwidth\ufeff", "a_b__c --- ...!!!",
        "tab\tnew\nline\r\n", "word " * 1000, "supercalifragilisticexpialidocious" * 20,
        f"{END} hi {START}", f"a {END.upper()} b"]


@pytest.fixture(scope="module", params=[END, "!"], ids=["SD 1", "SD 2"])
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    ours = clip_tokenizer(request.param)
    ours.save(folder)
    return ours, CLIPTokenizer.from_pretrained(folder)


def strings(ours, n):
    """Random characters of all of Unicode, random punctuation and contractions, random words of the vocabulary."""
    rng = random.Random(0)
    assigned = [chr(c) for c in range(1, 0x2FFFF) if unicodedata.category(chr(c)) not in ("Cs", "Cn")]
    vocabulary = [t.replace("</w>", "") for t in ours.vocab]
    for _ in range(n // 3):
        yield "".join(rng.choices(assigned, k=rng.randint(1, 12)))
        yield "".join(rng.choices("abcXYZ '’!?._-123 \t\né中😀²½'s't<>&;", k=rng.randint(1, 40)))
        yield " ".join(rng.choices(vocabulary, k=rng.randint(1, 60)))


def test_the_same_ids_as_transformers_on_20_000_strings(both):
    """Start, end, cutting to 77 and each model's own padding included."""
    ours, reference = both
    texts = HARD + list(strings(ours, 21_000))
    expected = reference(texts, padding="max_length", truncation=True, max_length=77)["input_ids"]
    wrong = [text for text, ids, row in zip(texts, ours(texts).tolist(), expected) if ids != row]
    assert len(texts) > 20_000 and wrong == []


def test_a_worked_example():
    """By hand: the start token, five words that are one token each, the end token, which also fills the rest."""
    ids = clip_tokenizer()("a photo of a cat")[0].tolist()
    assert ids == [49406, 320, 1125, 539, 320, 2368] + [49407] * 71


def test_added_tokens_are_found_wherever_they_stand(both):
    ours, reference = both
    added = Tokenizer(ours.vocab, ours.merges, pad=ours.pad)
    for token in ("<cat-toy>", "<other>", "sksx"):
        added.add(token)
    reference.add_tokens(["<cat-toy>", "<other>", "sksx"])
    for text in ("a <cat-toy> on the beach", "A <CAT-TOY>!", "two<cat-toy><cat-toy>s", "<other>_1 <cat-toy>_2",
                 "sksx sksxy", "<cat toy>"):
        assert added.encode(text) == reference(text)["input_ids"][1:-1], text


def test_a_token_is_added_once():
    tokenizer = clip_tokenizer()
    assert tokenizer.add("<it>") == [49_408] and len(tokenizer) == 49_409
    with pytest.raises(ValueError, match="already"):
        tokenizer.add("<it>")
    with pytest.raises(ValueError, match="already"):
        tokenizer.add("cat</w>")


def test_what_a_long_prompt_loses_is_said_in_words():
    tokenizer = clip_tokenizer()
    assert tokenizer.cut("a photo of a cat") == ""
    assert tokenizer.cut("cat " * 75) == ""
    assert tokenizer.cut("cat " * 75 + "café in Köln 😀") == "café in köln 😀"


def test_saved_and_loaded_it_is_the_same(tmp_path, both):
    ours, _ = both
    tokenizer = Tokenizer(ours.vocab, ours.merges, length=32, pad=ours.pad)
    tokenizer.add("<it>")
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert (again.vocab, again.merges) == (tokenizer.vocab, tokenizer.merges)
    assert (again.length, again.pad, again.added) == (32, ours.pad, ["<it>"])
    assert again("a <it> in the snow! ").tolist() == tokenizer("a <it> in the snow! ").tolist()
