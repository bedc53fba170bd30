"""Textual Inversion: one word moves and nothing else; its file opens elsewhere; resuming; and that it learns."""
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, diffusers_pipeline, held_out_error, latents, pixels, same, trained, weights
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file

import textual_inversion
from files import UserError
from stable_diffusion import StableDiffusion
from textual_inversion import (STYLE_TEMPLATES, TEMPLATES, Config, inversion_loss, nearest_words, prepare, train)
from tiny_world.world import FIRST, LAST, SECOND


@pytest.fixture
def cfg(sd15_folder, photos, tmp_path):
    return Config(model=str(sd15_folder), images=str(photos), class_name="dog", steps=3, lr=1e-2, batch_size=2,
                  sampling_steps=2, save_every=2, size=64, out=str(tmp_path / "out"))


@pytest.mark.parametrize("vectors", [1, 3])
def test_the_new_word_moves_and_everything_else_stays_to_the_bit(cfg, vectors):
    before = weights(StableDiffusion.from_pretrained(cfg.model))
    after = weights(trained(textual_inversion, replace(cfg, vectors=vectors, lr=1e-3)))
    table = "text.text_model.embeddings.token_embedding.weight"
    rows, new = before[table], after[table]
    assert len(new) == len(rows) + vectors and torch.equal(new[:len(rows)], rows)
    dog = rows[StableDiffusion.from_pretrained(cfg.model).tokenizer.encode("dog")]
    for row in new[len(rows):]:
        assert not torch.equal(row, dog[0]) and F.cosine_similarity(row, dog[0], dim=0) > 0.5
    assert same(before | {table: new}, after)


def test_before_training_the_word_is_the_coarse_word(cfg):
    """It starts as a copy: "a photo of a <it>" and "a photo of a dog" read the same."""
    sd, _, _ = prepare(cfg)
    assert torch.equal(sd.read(["a photo of a <it>"]), sd.read(["a photo of a dog"]))
    ids = sd.tokenizer.encode("<it>")
    v = sd.text.table.weight[ids]
    tokens = sd.tokenizer(["a photo of a <it>"])
    assert torch.equal(sd.read_with(tokens, ids, v), sd.read(["a photo of a <it>"]))


def test_the_gradient_is_that_of_the_tables_row(cfg):
    """Splicing v into the looked-up vectors is the same as training the whole table and keeping one row's gradient."""
    sd, _, _ = prepare(cfg)
    sd.freeze()
    ids, sentences = sd.tokenizer.encode("<it>"), ["a <it>", "the cool <it> here"]
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    v = sd.text.table.weight[ids].clone().requires_grad_(True)
    inversion_loss(sd, z, sd.read_with(sd.tokenizer(sentences), ids, v), torch.Generator().manual_seed(1)).backward()
    assert sd.text.table.weight.grad is None and v.grad.abs().max() > 0
    sd.text.table.weight.requires_grad_(True)
    inversion_loss(sd, z, sd.read(sentences), torch.Generator().manual_seed(1)).backward()
    assert torch.allclose(v.grad, sd.text.table.weight.grad[ids], rtol=1e-5)


def test_every_sentence_has_one_place_for_the_word():
    assert len(set(TEMPLATES)) == 27
    assert len(STYLE_TEMPLATES) == 19 and len(set(STYLE_TEMPLATES)) == 17, "two stand twice, as in the paper's code"
    assert all(t.count("{}") == 1 for t in TEMPLATES + STYLE_TEMPLATES)


@pytest.mark.parametrize("style, templates", [(False, TEMPLATES), (True, STYLE_TEMPLATES)])
def test_each_photo_is_read_with_a_sentence_by_chance(cfg, monkeypatch, style, templates):
    """Of a subject or of a style."""
    read, read_with = [], StableDiffusion.read_with

    def noted(sd, tokens, ids, v):
        read.append([tuple(row) for row in tokens.tolist()])
        return read_with(sd, tokens, ids, v)
    monkeypatch.setattr(StableDiffusion, "read_with", noted)
    sd = trained(textual_inversion, replace(cfg, style=style, steps=6))
    assert [len(rows) for rows in read] == [2] * 6
    known = {tuple(row) for row in sd.tokenizer([t.format("<it>") for t in templates]).tolist()}
    assert 6 < len(set(sum(read, []))) and set(sum(read, [])) <= known


def test_photos_are_mirrored_too(cfg, monkeypatch):
    seen, encode = [], StableDiffusion.encode
    monkeypatch.setattr(StableDiffusion, "encode", lambda sd, squares: seen.extend(squares) or encode(sd, squares))
    trained(textual_inversion, replace(cfg, steps=1))
    assert len(seen) == 6
    assert all(ImageOps.mirror(photo).tobytes() == mirrored.tobytes() for photo, mirrored in zip(seen[:3], seen[3:]))


def test_a_killed_run_resumes_to_the_same_bits(cfg, tmp_path):
    cfg = replace(cfg, steps=4)
    whole = weights(trained(textual_inversion, cfg))
    other = replace(cfg, out=str(tmp_path / "killed"))
    trained(textual_inversion, other, steps=3)
    sd, settled, photos = prepare(replace(other, resume=True))
    assert [log["step"] for log in train(sd, settled, photos)] == [3, 4] and same(whole, weights(sd))
    with pytest.raises(UserError, match=r"other settings \(lr\)"):
        prepare(replace(other, resume=True, lr=0.5))


def test_a_run_is_not_resumed_with_other_photos(cfg, photos):
    """Not even with the same ones in another order."""
    trained(textual_inversion, cfg, steps=2)
    prepare(replace(cfg, resume=True))
    (photos / "0.png").rename(photos / "3.png")
    with pytest.raises(UserError, match=r"other settings \(photos\)"):
        prepare(replace(cfg, resume=True))


def test_the_length_of_v_is_watched(cfg):
    sd, cfg, photos = prepare(replace(cfg, vectors=2))
    for log in train(sd, cfg, photos):
        assert log["length"] == pytest.approx(sd.text.table.weight[-2:].norm(dim=1).mean().item(), rel=1e-6)


def test_a_words_nearest_words_are_those_of_its_direction(cfg):
    sd, _, _ = prepare(replace(cfg, vectors=2))
    ids, cat = sd.tokenizer.encode("<it>"), sd.text.table.weight[sd.tokenizer.encode("cat")[0]]
    sd.text.table.weight.data[ids[1]] = 3 * cat
    dog, near_cat = nearest_words(sd, ids)
    assert all(not word.startswith("<") for word, _ in dog + near_cat)
    assert dog[0][0] == "dog" and near_cat[0][0] == "cat" and near_cat[0][1] == pytest.approx(1, abs=1e-5)


REFUSED = [  # without a model, and then with one
    (dict(class_name=""), "--class-name"), (dict(vectors=0), "--vectors 0"), (dict(images=""), "go together"),
    (dict(lr=-1.0), "--lr -1"), (dict(seed=2 ** 32), "--seed 4294967296"), (dict(token="cat"), "angle brackets"),
    (dict(token=""), "angle brackets"), (dict(steps=0), "--steps 0"), (dict(images="nowhere"), "nowhere")]
REFUSED_BY_THE_MODEL = [(dict(class_name="space shuttle"), "is 2 tokens"), (dict(vectors=70), "room for 66"),
                        (dict(size=60), "--size 60")]


@pytest.mark.parametrize("change, message", REFUSED + REFUSED_BY_THE_MODEL)
def test_what_cannot_work_is_said_in_one_line(cfg, change, message):
    with pytest.raises(UserError, match=message) as error:
        prepare(replace(cfg, **change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change, message", REFUSED)
def test_what_needs_no_model_is_refused_before_one_is_loaded(cfg, change, message):
    """Here there is none, and the complaint is about something else."""
    with pytest.raises(UserError, match=message):
        prepare(replace(cfg, model="no/model/here", **change))


def test_a_loss_that_is_no_number_stops_the_run(cfg):
    sd, cfg, photos = prepare(replace(cfg, steps=9))
    with pytest.raises(UserError, match="step 3: start again with a lower --lr"):
        for log in train(sd, cfg, photos):
            if log["step"] == 2:
                sd.unet.conv_in.weight.data.fill_(float("nan"))


def test_the_command_leaves_a_word_that_diffusers_opens_and_draws_alike(cfg, tmp_path):
    ended = subprocess.run([sys.executable, "textual_inversion.py", "--model", cfg.model, "--images", cfg.images,
                            "--class-name", "dog", "--vectors", "2", "--steps", "2", "--lr", "0.5",
                            "--sampling-steps", "2", "--out", cfg.out], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "nearest to vector 2: " in ended.stdout and Image.open(tmp_path / "out" / "before_after.png").width > 300
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == [".lock", "before_after.png", "it.safetensors", "learned_embeds.safetensors"]
    path, named = tmp_path / "out" / "learned_embeds.safetensors", load_file(tmp_path / "out" / "it.safetensors")
    assert {n: t.shape for n, t in load_file(path).items()} == {"<it>": (2, 32)} and same(named, load_file(path))
    pipe = diffusers_pipeline(cfg.model)
    pipe.load_textual_inversion(path)
    theirs = pipe("a <it> in the snow", num_inference_steps=4, generator=torch.Generator().manual_seed(0)).images[0]
    sd = StableDiffusion.from_pretrained(cfg.model)
    assert sd.load_embeds(path) == "<it>"
    assert pixels(sd.sample("a <it> in the snow", steps=4, guidance=7.5)[0], theirs) <= 1
    assert pixels(sd.sample("a dog in the snow", steps=4, guidance=7.5)[0], theirs) > 1


def test_other_tools_files_are_read_and_pickles_are_refused(cfg, tmp_path):
    """kohya names the tensor emb_params and the file after the word, and A1111 reads that; some have one vector without
    the first axis."""
    save_file({"emb_params": torch.randn(2, 32)}, tmp_path / "my_dog.safetensors")
    save_file({"<one>": torch.randn(32)}, tmp_path / "one.safetensors")
    save_file({"<a>": torch.randn(1, 32), "<b>": torch.randn(1, 32)}, tmp_path / "two.safetensors")
    save_file({"<wide>": torch.randn(1, 64)}, tmp_path / "wide.safetensors")
    save_file({"<none>": torch.randn(0, 32)}, tmp_path / "empty.safetensors")
    save_file({"<deep>": torch.tensor(1.0)}, tmp_path / "number.safetensors")
    save_file({"clip_l": torch.randn(1, 32)}, tmp_path / "my_word.safetensors")
    save_file({"clip_l": torch.randn(1, 32), "clip_g": torch.randn(1, 64)}, tmp_path / "xl.safetensors")
    save_file({"<much>": torch.randn(76, 32)}, tmp_path / "much.safetensors")
    save_file({"<nan>": torch.full((1, 32), float("nan"))}, tmp_path / "nan.safetensors")
    save_file({"<ids>": torch.ones(1, 32, dtype=torch.int64)}, tmp_path / "ids.safetensors")
    save_file({"<x>_1": torch.randn(1, 32)}, tmp_path / "second.safetensors")
    save_file({"<x>": torch.randn(2, 32)}, tmp_path / "first.safetensors")
    (tmp_path / "word.pt").write_bytes(b"\x80\x02}q\x00.")
    sd = StableDiffusion.from_pretrained(cfg.model)
    assert sd.load_embeds(tmp_path / "my_dog.safetensors") == "my_dog" and len(sd.tokenizer.encode("my_dog")) == 2
    assert sd.load_embeds(tmp_path / "one.safetensors") == "<one>" and len(sd.tokenizer.encode("<one>")) == 1
    assert sd.load_embeds(tmp_path / "my_word.safetensors") == "my_word"
    sd.load_embeds(tmp_path / "second.safetensors")
    known = dict(sd.tokenizer.vocab)
    for name, message in (("one", "already"), ("two", "2 tensors"), ("wide", "width 64"), ("word.pt", "pickle"),
                          ("none", "no such file"), ("empty", r"this is \(0, 32\)"), ("number", r"this is \(\)"),
                          ("first", 'the token "<x>_1" already'), ("xl", "a word for Stable Diffusion XL"),
                          ("much", r"this is \(76, 32\)"), ("nan", "not finite"), ("ids", "floating point")):
        with pytest.raises(UserError, match=message):
            sd.load_embeds(tmp_path / (name if "." in name else name + ".safetensors"))
    assert sd.tokenizer.vocab == known


def test_it_learns_the_word(tmp_path):
    """On the tiny world, 120 steps of one vector: its sentence fits the photos better than the coarse word's does,
    and the word has come near to one that says what the photos show: the cat is orange, with black spots, and so are
    things named "dostu"; those named "nidro" are orange too, in their second colour, and "dro" is a token of that."""
    sd, cfg, photos = prepare(Config(steps=120, batch_size=4, out=str(tmp_path)))
    subject, ids = latents(sd, photos), sd.tokenizer.encode(cfg.token)
    before = {word for word, _ in nearest_words(sd, ids)[0]}
    for log in train(sd, cfg, photos):
        pass
    after = {word for word, _ in nearest_words(sd, ids)[0]}
    assert held_out_error(sd, subject, "a photo of a <it>") < 0.99 * held_out_error(sd, subject, "a photo of a cat")
    names = {FIRST["orange"] + second + pattern for second in SECOND.values() for pattern in LAST.values()}
    names |= {first + SECOND["orange"] + pattern for first in ["", *FIRST.values()] for pattern in LAST.values()}
    orange = {"orange"} | names
    assert "cat" in before and not orange & before and orange & after, (before, after)
