"""HyperDreamBooth: LiDB's size and frozen directions, weights of one's own in a batch, the exported LoRA, and that it
learns one picture. How its hypernetwork is learned: test_learn_hypernetwork.py."""
import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, diffusers_pipeline, pixels, same, weights
from PIL import Image
from safetensors.torch import load_file, save_file

from clip_text import CLIPText
from files import UserError, save_tensors
from hyperdreambooth import (HYPERNETWORK, Config, Hypernetwork, LiDB, adapted_layers, load_hypernetwork, merge_factors,
                             noise_loss, orthogonal, predict_theta, prepare, purpose, start_lora, train)
from lora_file import save_lora
from pictures import square
from stable_diffusion import StableDiffusion
from thetas import loss_with_theta
from tiny_unet import UNet
from tiny_world.draw import draw
from tiny_world.subjects import view


@pytest.fixture
def cfg(sd15_folder, photos, tmp_path):
    return Config(model=str(sd15_folder), images=str(photos / "0.png"), class_name="face", hypernetwork="none", steps=3,
                  lr=1e-2, batch_size=2, sampling_steps=2, size=64, a=8, b=6, out=str(tmp_path / "out"))


def opened(cfg):
    """A model, frozen, with a LiDB beside its layers that adds nothing."""
    sd, _, _ = prepare(cfg)
    return sd, sd.lidb


# === LiDB =============================================================================================================

def test_on_stable_diffusion_lidb_has_the_papers_size():
    """On the public shapes, without weights. The figure in the paper: LoRA 386k numbers, 1.6 MB; LiDB 28k, 120 KB."""
    with torch.device("meta"):
        sd = SimpleNamespace(unet=UNet(), text=CLIPText())
    layers = adapted_layers(sd)
    assert len(layers) == 192 and all(isinstance(layer, torch.nn.Linear) for layer in layers.values())
    rank_1 = sum(layer.in_features + layer.out_features for layer in layers.values())
    assert rank_1 == 385_344
    assert (1 + Config().rank) * rank_1 == 1_926_720, "the LoRA file that finetuning leaves"
    theta = torch.zeros(len(layers), Config().a + Config().b)
    assert theta.numel() == 28_800 and theta.nbytes == 115_200


def test_the_frozen_directions_are_orthogonal_and_the_same_for_everyone(cfg):
    """So nothing of them has to be kept beside a theta."""
    (_, one), (_, other) = opened(cfg), opened(replace(cfg, seed=1))
    assert one.aux.keys() == other.aux.keys() == adapted_layers(opened(cfg)[0]).keys()
    for name, (A, B) in one.aux.items():
        assert torch.equal(A, other.aux[name][0]) and torch.equal(B, other.aux[name][1])
        assert torch.allclose(A.T @ A, torch.eye(cfg.a), atol=1e-6)
        assert torch.allclose(B @ B.T, torch.eye(cfg.b), atol=1e-6)
    q = orthogonal(20, 4, torch.Generator().manual_seed(0))
    assert [round(x, 5) for x in q[:5, 0].tolist()] == FIRST_NUMBERS


# If torch's chance or QR ever change, every saved theta is lost.
FIRST_NUMBERS = [-0.44438, -0.17003, -0.2492, 0.21844, 0.02953]


def test_theta_zero_changes_nothing_and_is_not_stuck(cfg):
    """At the start A is not zero, so that B has a gradient; and so has the hypernetwork through it."""
    sd, lidb = opened(cfg)
    z, words = torch.randn(2, 4, 8, 8), sd.read(["a sks face"] * 2)
    plain = sd.unet(z, torch.tensor([10, 500]), words)
    network = Hypernetwork(len(lidb.layers), cfg.a + cfg.b, 4, 8, width=32)
    guess = network(z)
    lidb.added = [lidb.factors(torch.zeros_like(guess))]
    assert torch.equal(sd.unet(z, torch.tensor([10, 500]), words), plain)
    lidb.added = [lidb.factors(guess)]
    assert (sd.unet(z, torch.tensor([10, 500]), words) - plain).norm() < 0.05 * plain.norm()
    noise_loss(sd, z, sd.read(["a sks face"] * 2), torch.Generator().manual_seed(0)).backward()
    assert all(p.grad.abs().max() > 0 for p in network.parameters())


def test_in_a_batch_everyone_has_weights_of_their_own(cfg):
    sd, lidb = opened(cfg)
    theta = 0.5 * torch.randn(3, len(lidb.layers), cfg.a + cfg.b)
    z, t = torch.randn(3, 4, 8, 8), torch.tensor([3, 300, 900])

    def output(theta, rows):
        lidb.added = [lidb.factors(theta)]
        return sd.unet(z[rows], t[rows], sd.read(["a sks face"] * len(z[rows])))

    together = output(theta, slice(None))
    for i in range(3):
        assert torch.allclose(output(theta[i], slice(i, i + 1)), together[i:i + 1], atol=1e-5)
    assert (output(theta[0], slice(1, 2)) - together[1:2]).abs().max() > 1e-3


def test_what_is_added_lies_in_the_frozen_directions(cfg):
    """Nothing is left of A and B when their parts in those directions are taken away; in others, much is."""
    sd, lidb = opened(cfg)
    left, factors = [], lidb.factors(torch.randn(len(lidb.layers), cfg.a + cfg.b))
    for name, (A, B) in factors.items():
        A_aux, B_aux = lidb.aux[name]
        A_other = orthogonal(len(A_aux), cfg.a, torch.Generator().manual_seed(1))
        assert (A - A_aux @ A_aux.T @ A).norm() < 1e-5 * A.norm() and (B - B @ B_aux.T @ B_aux).norm() < 1e-5 * B.norm()
        left.append((A - A_other @ A_other.T @ A).norm() / A.norm())
    assert sum(left) / len(left) > 0.5


def test_checkpointing_gives_the_same_gradients(cfg):
    """Recomputed layers add what they added the first time."""
    found = []
    for checkpointing in (False, True):
        sd, lidb = opened(cfg)
        sd.unet.checkpointing = checkpointing
        theta = torch.full((2, len(lidb.layers), cfg.a + cfg.b), 0.1, requires_grad=True)
        lidb.added = [lidb.factors(theta)]
        z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
        noise_loss(sd, z, sd.read(["a sks face"] * 2), torch.Generator().manual_seed(1)).backward()
        found.append(theta.grad)
    assert torch.allclose(*found, rtol=1e-4, atol=1e-8) and found[0].abs().max() > 0


# === one person =======================================================================================================

def test_finetuning_moves_the_lora_and_nothing_of_the_model(cfg):
    before = weights(StableDiffusion.from_pretrained(cfg.model))
    sd, cfg, photos = prepare(cfg)
    untouched = start_lora(sd.lidb.layers, cfg.rank, torch.Generator().manual_seed(cfg.seed))
    assert all((B == 0).all() for _, B in untouched.values())
    for log in train(sd, cfg, photos):
        pass
    assert same(before, weights(sd)) and len(sd.lidb.added) == 2
    # In the middle of this small UNet there is one position: what it asks of itself makes no difference.
    still = "mid_block_attentions_0_transformer_blocks_0_attn1"
    for name, (A, B) in sd.lidb.added[1].items():
        assert still in name or (B.abs().max() > 0 and not torch.equal(A, untouched[name][0])), name


def test_without_steps_there_is_what_the_hypernetwork_guessed(cfg):
    """And the LoRA beside it still changes nothing."""
    sd, cfg, photos = prepare(replace(cfg, steps=0))
    before = sd.sample("a sks face", steps=2)[0]
    assert list(train(sd, cfg, photos)) == []
    assert before.tobytes() == sd.sample("a sks face", steps=2)[0].tobytes()


def test_merged_factored_and_exported_agree(cfg, tmp_path):
    """The same change three ways: beside the layers, read back from the LoRA file into the weights, and by hand."""
    sd, cfg, photos = prepare(cfg)
    lidb = sd.lidb
    theta = 0.3 * torch.randn(lidb.theta.shape, generator=torch.Generator().manual_seed(1))
    lidb.added = [lidb.factors(theta)]
    for log in train(sd, cfg, photos):
        pass
    factored = sd.sample("a sks face", steps=3, images=2)
    save_lora(tmp_path / "lora.safetensors", merge_factors(lidb.added))
    merged = StableDiffusion.from_pretrained(cfg.model)
    plain = merged.sample("a sks face", steps=3, images=2)
    merged.load_lora(tmp_path / "lora.safetensors")
    for name, layer in adapted_layers(merged).items():
        by_hand = lidb.layers[name].weight + sum(A @ B for A, B in (added[name] for added in lidb.added)).T
        assert torch.allclose(layer.weight, by_hand, atol=1e-6)
    for one, other, without in zip(factored, merged.sample("a sks face", steps=3, images=2), plain):
        assert pixels(one, other) <= 1 < pixels(one, without)
    merged.load_lora(tmp_path / "lora.safetensors", strength=-1)
    original = weights(StableDiffusion.from_pretrained(cfg.model))
    assert max((tensor - original[name]).abs().max() for name, tensor in weights(merged).items()) < 1e-6


def test_the_command_leaves_a_lora_that_diffusers_opens_and_draws_alike(cfg, tmp_path):
    ended = subprocess.run([sys.executable, "hyperdreambooth.py", "--model", cfg.model, "--images", cfg.images,
                            "--class-name", "face", "--a", "8", "--b", "6", "--hypernetwork", "none", "--lr", "0.1",
                            "--steps", "3", "--sampling-steps", "2", "--out", cfg.out],
                           cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert Image.open(tmp_path / "out" / "before_after.png").width > 300
    pipe = diffusers_pipeline(cfg.model)
    pipe.load_lora_weights(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    theirs = pipe("a sks face", num_inference_steps=4, generator=torch.Generator().manual_seed(0)).images[0]
    sd = StableDiffusion.from_pretrained(cfg.model)
    assert pixels(sd.sample("a sks face", steps=4, guidance=7.5)[0], theirs) > 1
    sd.load_lora(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    assert pixels(sd.sample("a sks face", steps=4, guidance=7.5)[0], theirs) <= 1
    assert load_file(tmp_path / "out" / "lidb.safetensors")["theta"].shape == (len(adapted_layers(sd)), 14)


def test_a_persons_own_theta_is_a_guess_too(cfg, tmp_path):
    """lidb.safetensors, which the command leaves: without the hypernetwork, and of what it is for."""
    sd, settled, _ = prepare(cfg)
    theta = torch.randn(len(sd.lidb.layers), cfg.a + cfg.b)
    path = tmp_path / "lidb.safetensors"
    save_tensors({"theta": theta}, path, {"purpose": json.dumps(purpose(sd, settled))})
    again, _, _ = prepare(replace(cfg, hypernetwork=str(path)))
    assert torch.equal(again.lidb.theta, theta)
    with pytest.raises(UserError, match="class_name face, and this is dog"):
        prepare(replace(cfg, hypernetwork=str(path), class_name="dog"))


@pytest.fixture(scope="module")
def whole(sd15_folder):
    """A model with a LiDB beside its layers, which are 152."""
    sd = StableDiffusion.from_pretrained(sd15_folder)
    sd.lidb = LiDB(sd, 8, 6)
    return sd


@pytest.fixture
def guessed(whole, tmp_path):
    """guessed(tensors, network=...): the guess from a file that holds these, and says that it is for this model."""
    cfg = Config(class_name="face", a=8, b=6, size=64, dtype="float32",
                 hypernetwork=str(tmp_path / "file.safetensors"))

    def guess(tensors, **about):
        about = {"purpose": purpose(whole, cfg)} | about
        said = {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
        save_file(tensors, cfg.hypernetwork, said)
        return predict_theta(whole, cfg, Image.new("RGB", (64, 64), "teal"))
    return guess


@pytest.mark.parametrize("change, more, message", [
    ({"iterations": 10 ** 9}, {}, "no network that can be built"), ({"iterations": 0}, {}, "no network"),
    ({"layers": 10 ** 12}, {}, "no network"), ({"width": 0}, {}, "no network"), ({"width": "wide"}, {}, "no network"),
    ({"side": 4}, {}, "no network"), ({"depth": 3}, {}, "no network"), ({"width": 64}, {}, "no network"),
    ({}, {"mean": torch.zeros(2, 14)}, "no network"), ({}, {"more": torch.zeros(1)}, "no network"),
    ({}, {"scale": torch.tensor(float("nan"))}, "not finite"), ({}, {"scale": torch.tensor(1)}, "floating point")],
    ids=str)
def test_a_hypernetwork_that_cannot_be_built_is_refused(guessed, change, more, message):
    """Whatever its file says of itself: one line, and no memory is asked for before the file's own numbers fit."""
    network = Hypernetwork(layers=152, payload=14, channels=4, side=8, width=32)
    assert guessed(network.state_dict(), network=network.config).shape == (152, 14)
    with pytest.raises(UserError, match=f"file.safetensors.*{message}") as error:
        guessed(network.state_dict() | more, network=network.config | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("theta", [torch.zeros(3), torch.zeros(2, 14), torch.zeros(152, 15), torch.zeros(152, 14).int(),
                                   torch.full((152, 14), float("nan"))], ids=lambda theta: f"{theta.sum()}")
def test_a_theta_that_is_none_for_these_layers_is_refused(guessed, theta):
    assert guessed({"theta": torch.ones(152, 14)}).sum() == 152 * 14
    with pytest.raises(UserError, match="file.safetensors"):
        guessed({"theta": theta})


@pytest.mark.parametrize("said", ["null", "[1]", "{", '"face"', "{}"])
def test_a_file_that_does_not_say_what_it_is_for_is_refused(guessed, said):
    with pytest.raises(UserError, match="file.safetensors"):
        guessed({"theta": torch.ones(152, 14)}, purpose=said)


# === what cannot work =================================================================================================

REFUSED = [  # without a model, and then with one
    (dict(class_name=""), "--class-name"), (dict(rank=0), "--rank 0"), (dict(steps=-1), "--steps -1"),
    (dict(images="nowhere"), "nowhere"), (dict(images=""), "go together"), (dict(lr=0.0), "--lr 0"),
    (dict(seed=-1), "--seed -1"), (dict(dtype="float64"), "auto, float32, bfloat16 or float16")]
REFUSED_BY_THE_MODEL = [
    (dict(hypernetwork=""), "--hypernetwork is missing"), (dict(hypernetwork="no.safetensors"), "no such file"),
    (dict(a=99), "--a 99"), (dict(size=60), "--size 60"), (dict(token=" "), '--token " " has no word')]


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


def test_of_a_folder_the_first_picture_is_taken(cfg, tmp_path, capsys):
    """What is none is named and passed over, and nothing after it is opened."""
    folder = tmp_path / "me"
    folder.mkdir()
    for name in ("0.txt", "2.png"):
        (folder / name).write_text("no picture")
    Image.new("RGB", (64, 64), "red").save(folder / "1.png")
    _, _, [photo] = prepare(replace(cfg, images=str(folder)))
    assert photo.getpixel((0, 0)) == (255, 0, 0)
    said = capsys.readouterr().err
    assert "0.txt" in said and "2.png" not in said


# === the one that ships ===============================================================================================

def test_the_shipped_hypernetwork_tells_strangers_apart(tmp_path):
    """By its guess from one picture the model denoises another picture of that person better than as it is, and
    better than by its guess for anyone else. People whom neither has seen, the same noise for all guesses, and
    enough of it."""
    sd, cfg, _ = prepare(Config(out=str(tmp_path)))
    network, factor = load_hypernetwork(HYPERNETWORK, sd, cfg), sd.vae.config.scaling_factor
    seen, hidden = [factor * sd.encode([draw(view("face", 400 + n, i)) for n in range(6)])[0] for i in (0, 1)]
    losses = torch.zeros(6, 7)                                                    # (people, guesses)
    with torch.no_grad():
        guesses = [*network(seen), torch.zeros_like(network.mean)]
        for person in range(6):
            z = hidden[person].repeat(64, 1, 1, 1)
            for i, guess in enumerate(guesses):
                losses[person, i] = loss_with_theta(sd, cfg, guess, z, torch.Generator().manual_seed(0))
    own, others, none = losses.diagonal(), losses[:, :6], losses[:, 6]
    assert (own < none).all() and (own < (others.sum(1) - own) / 5).all()
    assert (others.argmin(1) == torch.arange(6)).sum() >= 5
    assert HYPERNETWORK.stat().st_size < 8e6
    assert all(tensor.dtype == torch.float16 for tensor in load_file(HYPERNETWORK).values())


def test_fast_finetuning_learns_the_one_picture(tmp_path):
    """Ten steps from the hypernetwork's guess: at the same noise, the picture is denoised better than by the guess
    alone."""
    sd, cfg, photos = prepare(Config(steps=10, out=str(tmp_path)))
    mean, _ = sd.encode([square(photos[0], cfg.size)])
    z = mean.repeat(32, 1, 1, 1) * sd.vae.config.scaling_factor

    @torch.no_grad()
    def loss():
        return noise_loss(sd, z, sd.read(["a sks face"] * 32), torch.Generator().manual_seed(0)).item()
    before = loss()
    for log in train(sd, cfg, photos):
        pass
    assert loss() < 0.95 * before


def test_with_no_argument_it_is_the_tiny_worlds_face(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, ROOT / "hyperdreambooth.py", "--out", out, "--steps", "2", "--sampling-steps", "2"]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.endswith("before_after.png\n") and Image.open(out / "before_after.png").width > 500
    left = sorted(path.name for path in out.iterdir())
    assert left == [".lock", "before_after.png", "lidb.safetensors", "pytorch_lora_weights.safetensors"]
