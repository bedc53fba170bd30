"""DreamBooth: what moves and what stays, the two halves of its loss, resuming, and that it learns."""
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import dreambooth
from files import UserError
from conftest import ROOT, diffusers_pipeline, held_out_error, latents, pixels, same, trained, weights
from dreambooth import Config, bind_token, draw_class_latents, dreambooth_loss, prepare, train
from stable_diffusion import StableDiffusion


@pytest.fixture
def cfg(sd15_folder, photos, tmp_path):
    return Config(model=str(sd15_folder), images=str(photos), class_name="dog", steps=3, lr=1e-3, batch_size=2,
                  class_images=2, sampling_steps=2, save_every=2, size=64, out=str(tmp_path / "out"))


@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_the_unet_moves_and_the_rest_stays(cfg, train_text_encoder):
    """Personalization is a choice of which numbers change. Every tensor of the UNet does; the VAE is the same to the
    bit."""
    before = weights(StableDiffusion.from_pretrained(cfg.model))
    after = weights(trained(dreambooth, replace(cfg, train_text_encoder=train_text_encoder)))
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    expected = {n for n in before if n.startswith("unet.") or (train_text_encoder and n.startswith("text."))}
    assert moved == expected


def test_of_the_words_only_the_identifier_moves_and_at_its_own_rate(cfg):
    """Three steps of Adam at this rate; "photo" and "dog" are in the sentences too, and stay."""
    sd = StableDiffusion.from_pretrained(cfg.model)
    before = sd.text.table.weight.clone()
    after = trained(dreambooth, replace(cfg, train_text_encoder=True, token_lr=0.1)).text.table.weight
    [sks] = sd.tokenizer.encode("sks")
    assert (after != before).any(1).nonzero().flatten().tolist() == [sks]
    assert 0.1 < (after[sks] - before[sks]).abs().max() < 0.31


def test_cross_attention_can_move_alone(cfg):
    before = weights(StableDiffusion.from_pretrained(cfg.model))
    after = weights(trained(dreambooth, replace(cfg, layers="cross-attention", train_text_encoder=False)))
    assert {n for n in before if not torch.equal(before[n], after[n])} == {n for n in before if ".attn2." in n}


def test_the_loss_is_equation_2(cfg):
    """Recomputed literally, picture by picture: the mean over the subject's plus lambda times the mean over the
    class's."""
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
    a = weights(trained(dreambooth, replace(cfg, prior_weight=0.0, class_images=2)))
    b = weights(trained(dreambooth, replace(cfg, prior_weight=0.0, class_images=7)))
    assert same(a, b)
    assert not (tmp_path / "out" / "class_latents.safetensors").exists()


# === class pictures ===================================================================================================

def test_class_pictures_come_from_the_model_before_training(cfg, tmp_path):
    """They are what the frozen model draws: what must not be forgotten."""
    sd = StableDiffusion.from_pretrained(cfg.model)
    *_, (_, expected, _) = sd.walk("a photo of a dog", images=2, sampler="dpm++", steps=2, seed=0, size=64)
    trained(dreambooth, cfg)
    assert torch.equal(load_file(tmp_path / "out" / "class_latents.safetensors")["z"], expected)


@pytest.fixture
def draws(monkeypatch):
    """draws(cfg): how often the sampler is asked for class pictures when a run is about to begin."""
    walked, walk = [], StableDiffusion.walk

    def count(cfg):
        sd, cfg, _ = prepare(cfg)
        walked.clear()
        draw_class_latents(sd, cfg)
        return len(walked)
    monkeypatch.setattr(StableDiffusion, "walk", lambda sd, *a, **how: walked.append(a) or walk(sd, *a, **how))
    return count


def test_class_pictures_are_drawn_once_for_all_runs_that_would_draw_the_same(cfg, draws):
    """Resumed or not, and however the training differs: drawing them may take longer than the training."""
    assert draws(cfg) == 1
    for change in ({}, {"resume": True}, {"lr": 0.5, "prior_weight": 2.0}, {"steps": 9}, {"token": "<it>"}):
        assert draws(replace(cfg, **change)) == 0, change


@pytest.mark.parametrize("change", [
    {"class_name": "cat"}, {"class_images": 3}, {"size": 32}, {"seed": 1}, {"guidance": 1.0}, {"sampling_steps": 3},
    {"dtype": "bfloat16"}, {"steps": 1, "batch_size": 1}], ids=str)
def test_class_pictures_are_drawn_again_where_they_would_be_others(cfg, draws, change):
    assert draws(cfg) == 1
    assert draws(replace(cfg, **change)) == 1


def test_class_pictures_of_another_model_are_not_taken(cfg, draws, tmp_path):
    assert draws(cfg) == 1
    other = StableDiffusion.from_pretrained(cfg.model)
    other.unet.conv_out.bias.data += 0.1
    other.save(tmp_path / "other")
    assert draws(replace(cfg, model=str(tmp_path / "other"))) == 1


# === interrupted ======================================================================================================

def test_a_killed_run_resumes_to_the_same_bits(cfg, tmp_path):
    """Killed after step 3 of 4, with the state of step 2 on disk: going on gives the weights of the run never
    killed."""
    cfg = replace(cfg, steps=4)
    whole = weights(trained(dreambooth, cfg))
    other = replace(cfg, out=str(tmp_path / "killed"))
    trained(dreambooth, other, steps=3)
    assert (tmp_path / "killed" / "state.safetensors").exists()
    sd, settled, photos = prepare(replace(other, resume=True))
    assert [log["step"] for log in train(sd, settled, photos)] == [3, 4]
    assert same(whole, weights(sd))
    with pytest.raises(UserError, match=r"other settings \(lr\)"):
        prepare(replace(other, resume=True, lr=0.5))


@pytest.mark.parametrize("memory, share", [("thrifty", 0.2), ("lean", 0.3)])
def test_in_less_memory_it_goes_nearly_the_same_way(cfg, tmp_path, memory, share):
    """Computed in bfloat16 by both, clipped in one: the ways end within so much of their length of each other. Killed
    and resumed they end in the same bits."""
    cfg = replace(cfg, steps=8, dtype="bfloat16", save_every=5)
    start = weights(StableDiffusion.from_pretrained(cfg.model))
    plain, less = [weights(trained(dreambooth, replace(cfg, memory=mode))) for mode in ("plain", memory)]
    way, apart = [sum((a[name].float() - b[name].float()).square().sum() for name in start) ** 0.5
                  for a, b in ((plain, start), (plain, less))]
    assert apart < share * way
    other = replace(cfg, memory=memory, out=str(tmp_path / "killed"))
    trained(dreambooth, other, steps=6)
    assert same(less, weights(trained(dreambooth, replace(other, resume=True))))


def test_a_model_that_was_trained_in_bfloat16_is_saved_in_float16(cfg, tmp_path):
    """Which diffusers opens as any other; it holds more digits."""
    dreambooth.main(replace(cfg, memory="lean"))
    file = tmp_path / "out" / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}
    StableDiffusion.from_pretrained(str(tmp_path / "out" / "model")).sample("a sks dog", steps=2)


def test_a_run_is_not_resumed_with_other_photos(cfg, photos):
    """Their names and their number may be the same: what counts is what they show."""
    trained(dreambooth, cfg, steps=2)
    prepare(replace(cfg, resume=True))
    Image.new("RGB", (64, 64), "red").save(photos / "1.png")
    with pytest.raises(UserError, match=r"other settings \(photos\)"):
        prepare(replace(cfg, resume=True))


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(cfg, tmp_path):
    sd, cfg, photos = prepare(replace(cfg, steps=50, save_every=1))
    with pytest.raises(UserError, match="step 3: start again with a lower --lr"):
        for log in train(sd, cfg, photos):
            if log["step"] == 2:
                sd.unet.conv_in.weight.data.fill_(float("nan"))
    state = load_file(tmp_path / "out" / "state.safetensors")
    assert state and all(tensor.isfinite().all() for tensor in state.values())


# === the new word and the rest ========================================================================================

def test_a_new_token_gets_a_row_of_its_own(cfg):
    sd = StableDiffusion.from_pretrained(cfg.model)
    rows = sd.text.table.weight.clone()
    bind_token(sd, "<it>")
    assert sd.tokenizer.encode("a <it> dog")[1] == len(rows)
    assert torch.equal(sd.text.table.weight[:-1], rows) and len(sd.text.table.weight) == len(rows) + 1


def test_a_word_that_the_model_has_learned_is_taken_as_it_is(cfg, capsys):
    sd = StableDiffusion.from_pretrained(cfg.model)
    sd.add_word("<it>", torch.randn(3, sd.text.config.hidden_size))
    before = sd.text.table.weight.clone()
    bind_token(sd, "<it>")
    assert torch.equal(sd.text.table.weight, before) and capsys.readouterr().err == ""


def test_a_long_identifier_is_warned_of(cfg, capsys):
    sd = StableDiffusion.from_pretrained(cfg.model)
    bind_token(sd, "sks")
    assert capsys.readouterr().err == ""
    bind_token(sd, "xxy5syt00")
    assert "tokens" in capsys.readouterr().err


REFUSED = [  # without a model, and then with one
    (dict(class_name=""), "--class-name"), (dict(steps=0), "--steps 0"), (dict(images=""), "go together"),
    (dict(lr=0.0), "--lr 0"), (dict(lr=float("nan")), "--lr nan"), (dict(prior_weight=-1.0), "--prior-weight -1"),
    (dict(seed=-1), "--seed -1"), (dict(dtype="float64"), "auto, float32, bfloat16 or float16"),
    (dict(memory="little"), "plain, thrifty or lean"), (dict(memory="lean", dtype="float32"), "computes in it"),
    (dict(images="nowhere"), "nowhere"), (dict(layers="some"), "all or cross-attention"),
    (dict(batch_size=0), "--batch-size 0"), (dict(device="nonsense"), "--device nonsense")]
REFUSED_BY_THE_MODEL = [(dict(size=60), "--size 60"), (dict(size=0), "--size 0"), (dict(class_name=" "), "no word"),
                        (dict(token=""), "no word")]


@pytest.mark.parametrize("change, message", REFUSED + REFUSED_BY_THE_MODEL)
def test_what_cannot_work_is_said_in_one_line(cfg, change, message):
    with pytest.raises(UserError, match=message) as error:
        prepare(replace(cfg, **change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change, message", REFUSED)
def test_what_needs_no_model_is_refused_before_one_is_loaded(cfg, change, message):
    """A model may take an hour to fetch. Here there is none, and the complaint is about something else."""
    with pytest.raises(UserError, match=message):
        prepare(replace(cfg, model="no/model/here", **change))


def test_random_crops_are_other_pictures(cfg):
    """The same chance otherwise: what is learned differs only if other squares were seen."""
    a, b = [weights(trained(dreambooth, replace(cfg, random_crop=crop))) for crop in (False, True)]
    assert not same(a, b)


def test_bfloat16_computes_and_float32_keeps(cfg):
    """The weights that are trained stay float32: steps of 1e-6 would vanish in bfloat16."""
    sd = trained(dreambooth, replace(cfg, dtype="bfloat16"))
    assert {p.dtype for p in sd.unet.parameters()} == {torch.float32}
    assert not same(weights(sd), weights(trained(dreambooth, cfg)))


def test_the_command_leaves_a_picture_and_a_model_that_diffusers_draws_alike(cfg, tmp_path):
    ended = subprocess.run([sys.executable, "dreambooth.py", "--model", cfg.model, "--images", cfg.images,
                            "--class-name", "dog", "--token", "<it>", "--steps", "2", "--class-images", "1",
                            "--sampling-steps", "2", "--out", cfg.out], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    picture = ended.stdout.strip().splitlines()[-1].split(": ")[1]
    assert Image.open(ROOT / picture).width > 300
    out = tmp_path / "out"
    left = sorted(path.name for path in out.iterdir())
    assert left == [".lock", "before_after.png", "class_latents.safetensors", "model"]
    pipe = diffusers_pipeline(out / "model")
    theirs = pipe("a <it> dog", num_inference_steps=4, generator=torch.Generator().manual_seed(0)).images[0]
    ours = StableDiffusion.from_pretrained(str(out / "model")).sample("a <it> dog", steps=4, guidance=7.5)[0]
    assert pixels(ours, theirs) <= 1
    index = json.loads((out / "model" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"


def test_it_learns_the_subject_and_keeps_the_class(tmp_path):
    """On the tiny world, 40 steps: the subject's own error falls clearly, that of the class's pictures hardly moves,
    and with prior preservation turned off it rises more."""
    cfg, after = Config(steps=40, class_images=8, sampling_steps=8, out=str(tmp_path), batch_size=4), {}
    for prior_weight in (1.0, 0.0):
        sd, settled, photos = prepare(replace(cfg, prior_weight=prior_weight))
        subject, cats = latents(sd, photos), draw_class_latents(sd, settled)

        def errors():
            subjects = held_out_error(sd, subject, "a photo of a sks cat")
            return subjects, held_out_error(sd, cats, "a photo of a cat")
        before = errors()
        for log in train(sd, settled, photos):
            pass
        after[prior_weight] = errors()
    assert after[1.0][0] < 0.9 * before[0]
    assert after[1.0][1] < 1.1 * before[1]
    assert after[1.0][1] < after[0.0][1]
