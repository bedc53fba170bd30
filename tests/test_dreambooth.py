"""DreamBooth: what moves and what stays, the two halves of its loss, resuming, and that it learns."""
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image

import dreambooth
from checkpoint import UserError
from conftest import ROOT, diffusers_pipeline, held_out_error, last, pixels, same, weights
from dreambooth import Config, bind_token, class_latents, dreambooth_loss, settle, square, train
from stable_diffusion import StableDiffusion


@pytest.fixture
def cfg(sd15_folder, photos, tmp_path):
    return Config(model=str(sd15_folder), images=str(photos), class_name="dog", steps=3, lr=1e-3, batch_size=2, class_images=2,
                  sampling_steps=2, save_every=2, size=64, out=str(tmp_path / "out"))


@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_the_unet_moves_and_the_rest_stays(cfg, train_text_encoder):
    """Personalization is a choice of which numbers change. Every tensor of the UNet does; the VAE is the same to the bit."""
    before = weights(StableDiffusion.from_pretrained(cfg.model))
    after = weights(last(train(replace(cfg, train_text_encoder=train_text_encoder))))
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    expected = {n for n in before if n.startswith("unet.") or (train_text_encoder and n.startswith("text."))}
    assert moved == expected


def test_the_loss_is_equation_2(cfg):
    """Recomputed literally, picture by picture: the mean over the subject's plus lambda times the mean over the class's."""
    sd = StableDiffusion.from_pretrained(cfg.model)
    z, words = torch.randn(4, 4, 8, 8), torch.randn(4, 77, 32)
    loss, subject, prior = dreambooth_loss(sd, z, words, torch.Generator().manual_seed(5), prior_weight=0.7)
    g = torch.Generator().manual_seed(5)
    eps, t = torch.randn(z.shape, generator=g), torch.randint(1000, (4,), generator=g)
    errors = []
    for i in range(4):
        a = sd.schedule.alpha_bar[t[i]]
        x_t = a.sqrt() * z[i] + (1 - a).sqrt() * eps[i]
        errors.append(((sd.unet(x_t[None], t[i:i + 1], words[i:i + 1])[0] - eps[i]) ** 2).mean())
    assert (loss - ((errors[0] + errors[1]) / 2 + 0.7 * (errors[2] + errors[3]) / 2)).abs() < 1e-5
    assert (loss - subject - 0.7 * prior).abs() < 1e-6


def test_without_prior_preservation_no_class_picture_is_drawn_or_seen(cfg, tmp_path):
    """prior_weight 0 is plain fine-tuning: the same steps whatever the class pictures would have been."""
    a = weights(last(train(replace(cfg, prior_weight=0.0, class_images=2))))
    b = weights(last(train(replace(cfg, prior_weight=0.0, class_images=7))))
    assert same(a, b)
    assert not (tmp_path / "out" / "class_latents.safetensors").exists()


def test_class_pictures_come_from_the_model_before_training(cfg):
    """They are what the frozen model draws by the ancestral sampler: what must not be forgotten."""
    sd = StableDiffusion.from_pretrained(cfg.model)
    settled = settle(cfg, sd)
    *_, (_, expected, _) = sd.walk("a photo of a dog", images=2, sampler="ddpm", steps=2, seed=0, size=64)
    last(train(cfg))
    assert torch.equal(class_latents(sd, replace(settled, resume=True)), expected)


def test_a_killed_run_resumes_to_the_same_bits(cfg, tmp_path):
    """Killed after step 3 of 4, with the state of step 2 on disk: going on gives the weights of the run never killed."""
    cfg = replace(cfg, steps=4)
    whole = weights(last(train(cfg)))
    other = replace(cfg, out=str(tmp_path / "killed"))
    for sd, log in train(other):
        if log["step"] == 3:
            break
    assert (tmp_path / "killed" / "state.safetensors").exists()
    steps = []
    for sd, log in train(replace(other, resume=True)):
        steps.append(log["step"])
    assert steps == [0, 3, 4]
    assert same(whole, weights(sd))
    with pytest.raises(UserError, match=r"other settings \(lr\)"):
        last(train(replace(other, resume=True, lr=0.5)))


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(cfg, tmp_path):
    with pytest.raises(UserError, match="step [34]: try a lower --lr"):
        for sd, log in train(replace(cfg, steps=50, save_every=1)):
            if log["step"] == 2:
                sd.unet.conv_in.weight.data.fill_(float("nan"))
    assert (tmp_path / "out" / "state.safetensors").exists()


def test_a_new_token_gets_a_row_of_its_own(cfg):
    sd = StableDiffusion.from_pretrained(cfg.model)
    rows = sd.text.table.weight.clone()
    bind_token(sd, "<it>")
    assert sd.tokenizer.encode("a <it> dog")[1] == len(rows)
    assert torch.equal(sd.text.table.weight[:-1], rows) and len(sd.text.table.weight) == len(rows) + 1
    with pytest.raises(UserError, match="already"):
        bind_token(sd, "<it>")


def test_a_long_identifier_is_warned_of(cfg, capsys):
    sd = StableDiffusion.from_pretrained(cfg.model)
    bind_token(sd, "sks")
    assert capsys.readouterr().err == ""
    bind_token(sd, "xxy5syt00")
    assert "tokens" in capsys.readouterr().err


def test_the_square_is_cut_from_the_middle_of_an_upright_photo():
    photo = Image.new("RGB", (300, 100), "white")
    photo.paste("black", (100, 0, 200, 100))
    assert square(photo, 50).size == (50, 50)
    assert square(photo, 50).resize((1, 1)).getpixel((0, 0))[0] < 10
    crops = {square(photo, 50, torch.Generator().manual_seed(i)).tobytes() for i in range(8)}
    assert len(crops) > 1


@pytest.mark.parametrize("change, message", [
    (dict(class_name=""), "--class-name"), (dict(steps=0), "--steps 0"), (dict(size=60), "--size 60"),
    (dict(images=""), "go together"), (dict(class_name=" "), "no word"), (dict(token=""), "no word"), (dict(lr=0.0), "--lr 0"),
    (dict(lr=float("nan")), "--lr nan"), (dict(prior_weight=-1.0), "--prior-weight -1"), (dict(seed=-1), "--seed -1"), (dict(size=0), "--size 0"),
    (dict(dtype="float16"), "float32 or bfloat16"), (dict(images="nowhere"), "nowhere"), (dict(batch_size=0), "--batch-size 0")])
def test_what_cannot_work_is_said_in_one_line(cfg, change, message):
    with pytest.raises(UserError, match=message) as error:
        next(train(replace(cfg, **change)))
    assert "\n" not in str(error.value)


def test_random_crops_are_other_pictures(cfg):
    """The same chance otherwise: what is learned differs only if other squares were seen."""
    a, b = [weights(last(train(replace(cfg, random_crop=crop)))) for crop in (False, True)]
    assert not same(a, b)


def test_bfloat16_computes_and_float32_keeps(cfg):
    """The weights that are trained stay float32: steps of 1e-6 would vanish in bfloat16."""
    sd = last(train(replace(cfg, dtype="bfloat16")))
    assert {p.dtype for p in sd.unet.parameters()} == {torch.float32}


def test_the_command_leaves_a_picture_and_a_model_that_diffusers_draws_alike(cfg, tmp_path):
    ended = subprocess.run([sys.executable, "dreambooth.py", "--model", cfg.model, "--images", cfg.images, "--class-name", "dog",
                            "--token", "<it>", "--steps", "2", "--class-images", "1", "--sampling-steps", "2", "--out", cfg.out],
                           cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    picture = ended.stdout.strip().splitlines()[-1].split(": ")[1]
    assert Image.open(ROOT / picture).width > 300
    pipe = diffusers_pipeline(tmp_path / "out" / "model")
    theirs = pipe("a <it> dog", num_inference_steps=4, generator=torch.Generator().manual_seed(0)).images[0]
    ours = StableDiffusion.from_pretrained(str(tmp_path / "out" / "model")).sample("a <it> dog", steps=4, guidance=7.5)[0]
    assert pixels(ours, theirs) <= 1
    assert json.loads((tmp_path / "out" / "model" / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"


def test_it_learns_the_subject_and_keeps_the_class(tmp_path):
    """On the tiny world, 40 steps: the subject's own error falls clearly, that of the class's pictures hardly moves, and with
    prior preservation turned off it rises more."""
    cfg = Config(steps=40, class_images=8, sampling_steps=8, out=str(tmp_path), batch_size=4)
    after = {}
    for prior_weight in (1.0, 0.0):
        for sd, log in train(replace(cfg, prior_weight=prior_weight)):
            if log["step"] == 0:
                squares = torch.stack([dreambooth.to_tensor(photo) for photo in log["photos"]])
                subject, cats = sd.encode(squares, torch.Generator().manual_seed(0)), class_latents(sd, settle(cfg, sd))
                before = held_out_error(sd, subject, "a photo of a sks cat"), held_out_error(sd, cats, "a photo of a cat")
        after[prior_weight] = held_out_error(sd, subject, "a photo of a sks cat"), held_out_error(sd, cats, "a photo of a cat")
    assert after[1.0][0] < 0.9 * before[0]
    assert after[1.0][1] < 1.1 * before[1]
    assert after[1.0][1] < after[0.0][1]
