"""CLIP's tokenizer and text encoder: from a prompt to one vector a token, for the UNet to read.

    "a photo of a cat" --Tokenizer--> [49406, 320, 1125, 539, 320, 2368, 49407, 49407, ...] (77 ids)
                       --CLIPText---> (77, 768) numbers

The tokenizer is a byte-pair encoding (Sennrich et al. 2016): it starts from the bytes of a word and
merges the pair that was merged earliest when the vocabulary was learned, until no pair is left.
Frequent words end up as one token, and no string is ever unknown. The encoder is a causal
transformer (Radford et al. 2021, section 2.4): a token sees only those before it.

Letters in the shape comments, the same in every file: see tiny_unet.py.

CLIPTextConfig() is SD 1.x's (123,060,480 parameters). SD 2.x: width 1024, 23 layers, gelu
(340,387,840 parameters): its checkpoint leaves out OpenCLIP's last layer, since the layer before
the last reads better.

Not here: the image half of CLIP (vit.py), the padding mask (Stable Diffusion was trained without
one).
"""
import json
import re
import unicodedata
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


# === the tokenizer ================================================================================

def byte_alphabet():
    """A printable character for each of the 256 bytes, as GPT-2 chose them: a printable byte is
    itself, the others (control characters, the space) take the characters from number 256 on.
    Listed in the order of the vocabulary."""
    printable = []
    for first, last in ("!~", "¡¬", "®ÿ"):
        printable += range(ord(first), ord(last) + 1)
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


BYTES = byte_alphabet()
START, END = "<|startoftext|>", "<|endoftext|>"

# White space as Unicode defines it; Python's own \s has four control characters more.
SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
# What a text falls into before any merging: English contractions, runs of letters, single digits,
# runs of anything else.
WORD = re.compile(rf"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\w{SPACE}]|_)+")


def words(text):
    """The pieces of a text, lower-cased, that are encoded one by one."""
    text = unicodedata.normalize("NFC", text)
    text = "".join(c.lower() for c in text)  # one by one: str.lower() would change a final sigma
    for piece in WORD.findall(text):
        # Python counts ², ½ and Ⅷ among the letters; for CLIP each is a number and stands alone.
        numbers = "".join(c for c in piece if unicodedata.category(c)[0] == "N")
        yield from re.findall(f"[{numbers}]|[^{numbers}]+", piece) if numbers else [piece]


class Tokenizer:
    """CLIP's byte-pair tokenizer. `Tokenizer.load(folder)` reads what a checkpoint ships.

    vocab: {token: id}. merges: pairs of tokens, the earliest learned first. length: tokens in a
    prompt, start and end included. pad: the token that fills the rest (SD 1: the end token; SD 2:
    "!", whose id is 0).
    """

    def __init__(self, vocab, merges, length=77, pad=END):
        self.vocab, self.merges = dict(vocab), [tuple(pair) for pair in merges]
        self.length, self.pad = length, pad
        self.rank = {pair: i for i, pair in enumerate(self.merges)}
        self.added = []  # words that are one token whatever the merges say
        self.merge = lru_cache(maxsize=65_536)(self.merge)

    @classmethod
    def load(cls, folder):
        """From vocab.json + merges.txt, or from tokenizer.json alone, as newer files are."""
        folder = Path(folder)

        def read(name):
            path = folder / name
            return json.loads(path.read_text("utf-8-sig")) if path.exists() else {}

        whole, settings = read("tokenizer.json"), read("tokenizer_config.json")
        if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
            vocab = read("vocab.json")
            lines = (folder / "merges.txt").read_text("utf-8").split("\n")
            merges = [line.split() for line in lines if line.strip()]
            merges = [pair for pair in merges if pair[0] != "#version:"]
        elif whole:
            vocab = whole["model"]["vocab"]
            merges = [m.split() if isinstance(m, str) else m for m in whole["model"]["merges"]]
        else:
            raise FileNotFoundError(f"{folder}: a tokenizer is vocab.json + merges.txt, or "
                                    "tokenizer.json; neither is here")
        pad = read("special_tokens_map.json").get("pad_token") or settings.get("pad_token") or END
        length = settings.get("model_max_length", 77)  # may be 1e30, for "no limit"
        tokenizer = cls(vocab, merges, length if length < 1e6 else 77,
                        pad["content"] if isinstance(pad, dict) else pad)
        # Words that were added later, by textual inversion say: transformers has written them in
        # three places.
        added = {token["content"]: token["id"] for token in whole.get("added_tokens", ())}
        added |= read("added_tokens.json")
        for i, token in settings.get("added_tokens_decoder", {}).items():
            added[token["content"]] = int(i)
        for token, i in sorted(added.items(), key=lambda item: item[1]):
            if token not in (START, END, pad):
                tokenizer.vocab[token] = i
                tokenizer.added.append(token)
        return tokenizer

    def save(self, folder):
        """Writes vocab.json, merges.txt and the small files around them: what every version of
        transformers reads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)

        def write(name, value, indent=1):
            text = json.dumps(value, ensure_ascii=False, indent=indent)
            (folder / name).write_text(text + "\n", "utf-8")

        special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": self.pad}
        base = {t: i for t, i in self.vocab.items() if t not in self.added}
        write("vocab.json", base, indent=None)
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self.merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
        write("special_tokens_map.json", special)
        write("tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer",
                                        "model_max_length": self.length, **special})
        if self.added:
            write("added_tokens.json", {t: self.vocab[t] for t in self.added})

    def __len__(self):
        return max(self.vocab.values()) + 1

    def add(self, token, n=1):
        """Makes a word one token with the next free id; the text encoder needs a row for it. A word
        of several vectors is several tokens, <it>, <it>_1, <it>_2, and writing the first one writes
        all of them. Returns the ids."""
        names = [token, *(f"{token}_{i}" for i in range(1, n))]
        for name in names:
            if name in self.vocab:
                raise ValueError(f'the vocabulary has the token "{name}" already')
        for name in names:
            self.vocab[name] = len(self)
        self.added += names
        return [self.vocab[name] for name in names]

    def merge(self, word):
        """One word to its tokens: merge the pair that was learned earliest, everywhere in the word,
        until none is left."""
        parts = [BYTES[b] for b in word.encode("utf-8")]
        parts[-1] += "</w>"  # marks where a word ends: "cat" and the "cat" of "catalogue" differ
        while len(parts) > 1:
            first = min(zip(parts, parts[1:]), key=lambda pair: self.rank.get(pair, len(self.rank)))
            if first not in self.rank:
                break
            merged = []
            while parts:
                length = 2 if tuple(parts[:2]) == first else 1
                merged.append("".join(parts[:length]))
                parts = parts[length:]
            parts = merged
        return parts

    def tokens_of(self, word):
        """What an added word stands for: <it>, and if it has more vectors <it>_1, <it>_2, ..."""
        tokens = [word]
        while word in self.added and f"{word}_{len(tokens)}" in self.vocab:
            tokens.append(f"{word}_{len(tokens)}")
        return tokens

    def encode(self, text):
        """All ids of a text, of any length, without start and end."""
        for word in self.added:  # "<it> <it>_1", written out by hand, is <it>
            text = text.replace(" ".join(self.tokens_of(word)), word)
        longest_first = sorted(self.added, key=len, reverse=True)
        whole = [START, END, self.pad, *longest_first]  # the pad of SD 2 is "!"
        spelled = {token.lower(): token for token in whole}
        pattern = "|".join(re.escape(token) for token in whole)
        ids = []
        for piece in re.split(f"({pattern})", text, flags=re.IGNORECASE if self.added else 0):
            token = spelled.get(piece.lower())
            if token in self.vocab:
                ids += [self.vocab[name] for name in self.tokens_of(token)]
            else:
                ids += [self.vocab[t] for word in words(piece) for t in self.merge(word)]
        return ids

    def __call__(self, texts):
        """A text or a list of texts to ids (b, l), cut and padded to `length`."""
        rows = []
        for text in [texts] if isinstance(texts, str) else texts:
            ids = self.encode(text)[:self.length - 2]
            row = [self.vocab[START], *ids, self.vocab[END]]
            rows.append(row + [self.vocab[self.pad]] * (self.length - len(row)))
        return torch.tensor(rows)

    def cut(self, text):
        """The end of a text that does not fit into `length` tokens and is lost; "" if all of it
        fits."""
        names = {i: t for t, i in self.vocab.items()}
        lost = "".join(names[i] for i in self.encode(text)[self.length - 2:])
        letters = {c: b for b, c in BYTES.items()}
        lost = bytes(letters.get(c, ord("?")) for c in lost.replace("</w>", BYTES[ord(" ")]))
        return lost.decode("utf-8", "replace").strip()


# === the text encoder =============================================================================

ACTIVATIONS = {"quick_gelu": lambda x: x * torch.sigmoid(1.702 * x), "gelu": F.gelu}


@dataclass(frozen=True)
class CLIPTextConfig:
    """text_encoder/config.json. The defaults are SD 1.x's."""
    vocab_size: int = 49_408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"   # SD 2: "gelu"
    layer_norm_eps: float = 1e-5
    causal = True  # no field, so no key of the file; vit.py's networks have False


class CLIPAttention(nn.Module):
    """Self-attention in which a token sees itself and those before it; in a vision transformer
    (vit.py) it sees all."""

    def __init__(self, config):
        super().__init__()
        d, self.heads, self.causal = config.hidden_size, config.num_attention_heads, config.causal
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(d, d) for _ in range(4))

    def forward(self, x):  # (b, l, d) -> (b, l, d)
        q, k, v = (to(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)          # (b, h, l, k)
                   for to in (self.q_proj, self.k_proj, self.v_proj))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class CLIPMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x):  # (b, l, d) -> (b, l, d)
        return self.fc2(self.activation(self.fc1(x)))


class CLIPLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = CLIPAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = CLIPMLP(config)

    def forward(self, x):  # (b, l, d) -> (b, l, d)
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPEmbeddings(nn.Module):
    """A vector for the token, which CLIPText looks up so that others can take its place, plus a
    vector for where it stands."""

    def __init__(self, config):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, vectors):  # (b, l, d) -> (b, l, d)
        return vectors + self.position_embedding.weight[:vectors.shape[1]]


class CLIPText(nn.Module):
    """The text encoder. The nesting is that of the public checkpoints' names."""

    def __init__(self, config=CLIPTextConfig()):
        super().__init__()
        self.config = config
        self.text_model = nn.Module()
        self.text_model.embeddings = CLIPEmbeddings(config)
        self.text_model.encoder = nn.Module()
        self.text_model.encoder.layers = nn.ModuleList(
            [CLIPLayer(config) for _ in range(config.num_hidden_layers)])
        self.text_model.final_layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    @property
    def table(self):
        """The vectors of all tokens, (vocabulary, d): what textual inversion adds a row to."""
        return self.text_model.embeddings.token_embedding

    def append(self, vectors, first):
        """Gives the table rows (n, d) from number `first` on, for tokens that were added to the
        tokenizer. (Some checkpoints have spare rows there, which no token uses.)"""
        rows = torch.cat([self.table.weight.data[:first], vectors.to(self.table.weight)])
        table = nn.Embedding.from_pretrained(rows, freeze=False)
        self.text_model.embeddings.token_embedding = table
        self.config = replace(self.config, vocab_size=len(rows))

    def forward(self, ids, vectors=None):  # (b, l) -> (b, l, d)
        """`vectors` (b, l, d) takes the place of the looked-up token vectors."""
        x = self.text_model.embeddings(self.table(ids) if vectors is None else vectors)
        for layer in self.text_model.encoder.layers:
            x = layer(x)
        return self.text_model.final_layer_norm(x)
