"""HyperDreamBooth: LiDB's size and frozen directions, weights of one's own in a batch, the exported LoRA, resuming, and that it learns."""
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, diffusers_pipeline, pixels, same, weights
from PIL import Image
from safetensors.torch import load_file, save_file

from checkpoint import UserError, load_tensors, save_tensors
from clip_text import CLIPText
from hyperdreambooth import (EVERYONE, HYPERNETWORK, Config, Hypernetwork, LiDB, adapted, encode, fit, found_thetas, learn, noise_loss,
                             noise_with, of_strangers, optimise, orthogonal, people, purpose, save_lora, settle, train)
from stable_diffusion import TINY, StableDiffusion
from tiny_unet import UNet
from tiny_world.draw import draw
from tiny_world.subjects import view


@pytest.fixture
def cfg(sd15_folder, photos, tmp_path):
    return Config(model=str(sd15_folder), images=str(photos / "0.png"), class_name="face", hypernetwork="none", steps=3, lr=1e-2,
                  batch_size=2, sampling_steps=2, save_every=2, size=64, a=8, b=6, out=str(tmp_path / "out"))


@pytest.fixture
def crowd(tmp_path):
    """Three people, the first in a folder with two pictures."""
    folder = tmp_path / "crowd"
    (folder / "anna").mkdir(parents=True)
    for i, (name, colour) in enumerate({"anna/1": "red", "anna/2": "red", "ben": "blue", "cleo": "yellow"}.items()):
        noise = Image.effect_noise((64 + i, 70), 60).convert("RGB")
        Image.blend(noise, Image.new("RGB", noise.size, colour), 0.8).save(folder / f"{name}.png")
    return folder


def opened(cfg):
    sd = StableDiffusion.from_pretrained(cfg.model)
    for part in (sd.unet, sd.text, sd.vae):
        part.requires_grad_(False)
    return sd, LiDB(sd, cfg.a, cfg.b)


# === LiDB =============================================================================================================

def test_on_stable_diffusion_lidb_has_the_papers_size():
    """On the public shapes, without weights. The figure in the paper: LoRA 386k numbers, 1.6 MB; LiDB 28k, 120 KB."""
    with torch.device("meta"):
        sd = SimpleNamespace(unet=UNet(), text=CLIPText())
    layers = adapted(sd)
    assert len(layers) == 192 and all(isinstance(layer, torch.nn.Linear) for layer in layers.values())
    rank_1 = sum(layer.in_features + layer.out_features for layer in layers.values())
    assert rank_1 == 385_344 and (1 + Config().rank) * rank_1 == 1_926_720  # the second is the LoRA file that finetuning leaves
    theta = torch.zeros(len(layers), Config().a + Config().b)
    assert theta.numel() == 28_800 and theta.nbytes == 115_200


def test_the_frozen_directions_are_orthogonal_and_their_seed_is_enough(cfg):
    _, one = opened(cfg)
    _, other = opened(cfg)
    sd, _ = opened(cfg)
    changed = LiDB(sd, cfg.a, cfg.b, seed=1)
    for (A, B), (A2, B2), (A3, _) in zip(one.aux, other.aux, changed.aux):
        assert torch.equal(A, A2) and torch.equal(B, B2) and not torch.equal(A, A3)
        assert torch.allclose(A.T @ A, torch.eye(cfg.a), atol=1e-6) and torch.allclose(B @ B.T, torch.eye(cfg.b), atol=1e-6)
    q = orthogonal(20, 4, torch.Generator().manual_seed(0))
    assert [round(x, 5) for x in q[:5, 0].tolist()] == FIRST_NUMBERS


FIRST_NUMBERS = [-0.44438, -0.17003, -0.2492, 0.21844, 0.02953]  # if torch's chance or QR ever change, every saved theta is lost


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
    theta, z, t = 0.5 * torch.randn(3, len(lidb.layers), cfg.a + cfg.b), torch.randn(3, 4, 8, 8), torch.tensor([3, 300, 900])

    def output(theta, rows):
        lidb.added = [lidb.factors(theta)]
        return sd.unet(z[rows], t[rows], sd.read(["a sks face"] * len(z[rows])))

    together = output(theta, slice(None))
    for i in range(3):
        assert torch.allclose(output(theta[i], slice(i, i + 1)), together[i:i + 1], atol=1e-5)
    assert (output(theta[0], slice(1, 2)) - together[1:2]).abs().max() > 1e-3


def test_what_is_added_lies_in_the_frozen_directions(cfg):
    """Nothing is left of A and B when their parts in those directions are taken away; of another LiDB's, much."""
    sd, lidb = opened(cfg)
    left = []
    theta, other = torch.randn(len(lidb.layers), cfg.a + cfg.b), LiDB(sd, cfg.a, cfg.b, seed=1)
    for (A, B), (A_aux, B_aux), (A_other, _) in zip(lidb.factors(theta).values(), lidb.aux, other.aux):
        assert (A - A_aux @ A_aux.T @ A).norm() < 1e-5 * A.norm() and (B - B @ B_aux.T @ B_aux).norm() < 1e-5 * B.norm()
        left.append((A - A_other @ A_other.T @ A).norm() / A.norm())
    assert sum(left) / len(left) > 0.5


# === one person =======================================================================================================

def test_finetuning_moves_the_lora_and_nothing_of_the_model(cfg):
    before = weights(StableDiffusion.from_pretrained(cfg.model))
    for sd, log in train(cfg):
        if log["step"] == 0:
            lora, untouched = log["lora"], {n: A.detach().clone() for n, (A, _) in log["lora"].items()}
            assert all((B == 0).all() for _, B in lora.values())
    assert same(before, weights(sd))
    for name, (A, B) in lora.items():  # in the middle of this small UNet there is one position: what it asks of itself makes no difference
        assert "mid_block.attentions.0.transformer_blocks.0.attn1" in name or B.abs().max() > 0 and not torch.equal(A, untouched[name]), name


def test_merged_factored_and_exported_agree(cfg, tmp_path):
    """The same change three ways: beside the layers, read back from the LoRA file into the weights, and by hand."""
    for sd, log in train(cfg):
        if log["step"] == 0:
            lidb = log["lidb"]
            lidb.added[0] = lidb.factors(0.3 * torch.randn(log["theta"].shape, generator=torch.Generator().manual_seed(1)))
    factored = sd.sample("a sks face", steps=3, images=2)
    save_lora(lidb.added, tmp_path / "lora.safetensors")
    merged = StableDiffusion.from_pretrained(cfg.model)
    plain = merged.sample("a sks face", steps=3, images=2)
    merged.load_lora(tmp_path / "lora.safetensors")
    for name, layer in adapted(merged).items():
        by_hand = lidb.layers[name].weight + sum(A @ B for A, B in (added[name] for added in lidb.added)).T
        assert torch.allclose(layer.weight, by_hand, atol=1e-6)
    for one, other, without in zip(factored, merged.sample("a sks face", steps=3, images=2), plain):
        assert pixels(one, other) <= 1 < pixels(one, without)
    merged.load_lora(tmp_path / "lora.safetensors", strength=-1)
    assert max((a - b).abs().max() for a, b in zip(weights(merged).values(), weights(StableDiffusion.from_pretrained(cfg.model)).values())) < 1e-6


def test_the_command_leaves_a_lora_that_diffusers_opens_and_draws_alike(cfg, tmp_path):
    ended = subprocess.run([sys.executable, "hyperdreambooth.py", "--model", cfg.model, "--images", cfg.images, "--class-name", "face", "--a", "8",
                            "--b", "6", "--hypernetwork", "none", "--lr", "0.1", "--steps", "3", "--sampling-steps", "2", "--out", cfg.out],
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
    assert load_file(tmp_path / "out" / "lidb.safetensors")["theta"].shape == (len(adapted(sd)), 14)


def test_loras_that_peft_made_are_read(cfg, tmp_path):
    """Peft's names as diffusers writes them, with the text encoder, against the picture that diffusers makes with them."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict
    torch.manual_seed(0)
    pipe = diffusers_pipeline(cfg.model)
    pipe.unet.add_adapter(LoraConfig(r=3, lora_alpha=3, init_lora_weights="gaussian", target_modules=["to_q", "to_out.0", "conv1", "proj_in"]))
    pipe.text_encoder.add_adapter(LoraConfig(r=3, lora_alpha=3, target_modules=["q_proj", "fc1"]))
    for name, p in [*pipe.unet.named_parameters(), *pipe.text_encoder.named_parameters()]:
        if "lora" in name:
            p.data = 0.1 * torch.randn(p.shape)
    StableDiffusionPipeline.save_lora_weights(tmp_path, get_peft_model_state_dict(pipe.unet), get_peft_model_state_dict(pipe.text_encoder))
    theirs = pipe("a cat", num_inference_steps=4, generator=torch.Generator().manual_seed(0)).images[0]
    sd = StableDiffusion.from_pretrained(cfg.model)
    assert pixels(sd.sample("a cat", steps=4, guidance=7.5)[0], theirs) > 1
    sd.load_lora(tmp_path / "pytorch_lora_weights.safetensors")
    assert pixels(sd.sample("a cat", steps=4, guidance=7.5)[0], theirs) <= 1


Q = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.mark.parametrize("names, about", [
    ((f"lora_{Q.replace('.', '_')}.lora_down.weight", f"lora_{Q.replace('.', '_')}.lora_up.weight", f"lora_{Q.replace('.', '_')}.alpha"), {}),
    ((f"{Q}.lora.down.weight", f"{Q}.lora.up.weight"), {}),
    ((Q.replace(".to_k", ".processor.to_k_lora.down.weight"), Q.replace(".to_k", ".processor.to_k_lora.up.weight")), {}),
    ((f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"),
     {"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 1, "unet.target_modules": ["attn2.to_k"]}'})])
def test_every_spelling_means_what_it_means_to_diffusers(cfg, tmp_path, names, about):
    """One layer, rank 2; alpha is 1 where the file can say so, else as good as 2."""
    tensors = (torch.randn(2, 32), torch.randn(64, 2), torch.tensor(1.0))
    save_file(dict(zip(names, tensors)), tmp_path / "lora.safetensors", {"format": "pt"} | about)
    pipe, sd = diffusers_pipeline(cfg.model), StableDiffusion.from_pretrained(cfg.model)
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    pipe.fuse_lora()
    sd.load_lora(tmp_path / "lora.safetensors")
    theirs = pipe.unet.get_submodule(Q.removeprefix("unet.")).base_layer.weight
    layer, plain = adapted(sd)[Q].weight, adapted(StableDiffusion.from_pretrained(cfg.model))[Q].weight
    assert torch.allclose(layer, theirs, atol=1e-6) and not torch.allclose(layer, plain, atol=0.1)


def test_a_lora_that_does_not_fit_changes_nothing(cfg, tmp_path):
    sd = StableDiffusion.from_pretrained(cfg.model)
    before, good = weights(sd), {f"{Q}.lora_A.weight": torch.randn(2, 32), f"{Q}.lora_B.weight": torch.randn(64, 2)}
    other = Q.replace("to_k", "to_v")
    for more, message in (({f"{other}.lora_A.weight": torch.randn(2, 32)}, "does not fit"), ({"unet.nothing.lora_A.weight": torch.randn(2, 32)}, "no layer"),
                          ({f"{other}.lora_A.weight": torch.randn(2, 32), f"{other}.lora_B.weight": torch.randn(64, 3)}, "does not fit")):
        save_file(good | more, tmp_path / "lora.safetensors")
        with pytest.raises(UserError, match=message):
            sd.load_lora(tmp_path / "lora.safetensors")
    assert same(before, weights(sd))


@pytest.mark.parametrize("change, message", [
    (dict(task="teach"), "--task teach"), (dict(class_name=""), "--class-name"), (dict(rank=0), "--rank 0"), (dict(steps=-1), "--steps -1"),
    (dict(hypernetwork=""), "--hypernetwork is missing"), (dict(hypernetwork="no.safetensors"), "no such file"), (dict(a=99), "--a 99"),
    (dict(images="nowhere"), "nowhere"), (dict(size=60), "--size 60"), (dict(task="learn", images=""), "many people"),
    (dict(images=""), "go together"), (dict(token=" "), '--token " " has no word'), (dict(task="optimise", size=72), "a multiple of 64"),
    (dict(lr=0.0), "--lr 0"), (dict(beta=-1.0), "--beta -1"), (dict(width=30), "--width 30"),
    (dict(seed=-1), "--seed -1"), (dict(dtype="float16"), "float32 or bfloat16")])
def test_what_cannot_work_is_said_in_one_line(cfg, change, message):
    with pytest.raises(UserError, match=message) as error:
        next(train(replace(cfg, **change)))
    assert "\n" not in str(error.value)


def test_of_a_folder_the_first_picture_is_taken(cfg, tmp_path, capsys):
    """What is none is named and passed over, and nothing after it is opened."""
    folder = tmp_path / "me"
    folder.mkdir()
    for name in ("0.txt", "2.png"):
        (folder / name).write_text("no picture")
    Image.new("RGB", (64, 64), "red").save(folder / "1.png")
    assert next(train(replace(cfg, images=str(folder))))[1]["photo"].getpixel((0, 0)) == (255, 0, 0)
    said = capsys.readouterr().err
    assert "0.txt" in said and "2.png" not in said


# === many people ======================================================================================================

def test_a_person_is_a_picture_or_a_folder_of_pictures(cfg, crowd):
    """What is hidden is neither."""
    for hidden in (".thumbs/ben.png", "anna/.1.png", ".ben.png"):
        (crowd / hidden).parent.mkdir(exist_ok=True)
        shutil.copy(crowd / "ben.png", crowd / hidden)
    sd, _ = opened(cfg)
    z, rows = people(sd, settle(replace(cfg, task="learn", images=str(crowd)), sd))
    assert z.shape == (4, 4, 8, 8) and rows == {"anna": [0, 1], "ben": [2], "cleo": [3]}
    with pytest.raises(UserError, match="0 pictures of 0 people"):
        people(sd, replace(cfg, images=str(crowd / "ben.png")))


def many(cfg, crowd, tmp_path, task, out, stop=None, **change):
    """One of the two long tasks, in a folder of its own, until the end or step `stop`: the steps it took."""
    sd, _ = opened(cfg)
    (tmp_path / out).mkdir(exist_ok=True)
    one, steps = settle(replace(cfg, task=task, images=str(crowd), out=str(tmp_path / out), **change), sd), []
    for _, log in {"optimise": optimise, "learn": learn}[task](sd, one):
        steps.append(log["step"])
        if log["step"] == stop:
            break
    return steps


def files(folder):
    return {path.name: load_file(path) for path in folder.glob("*.safetensors")}


def test_everyone_gets_a_theta_and_a_stopped_run_goes_on(cfg, crowd, tmp_path):
    """Three steps each for all together, for two people and for one; stopped in the middle of the second."""
    assert many(cfg, crowd, tmp_path, "optimise", "a") == [*range(1, 10)]
    whole = files(tmp_path / "a" / "theta")
    assert {file: [*thetas] for file, thetas in whole.items()} == {
        "start.safetensors": [EVERYONE], "000000.safetensors": ["anna", "ben"], "000002.safetensors": ["cleo"]}
    assert all(t.shape == (152, 14) and (t != 0).any(1).float().mean() > 0.9 for thetas in whole.values() for t in thetas.values())
    many(cfg, crowd, tmp_path, "optimise", "b", stop=4)
    assert [*files(tmp_path / "b" / "theta")] == ["start.safetensors"]
    assert many(cfg, crowd, tmp_path, "optimise", "b", resume=True) == [*range(4, 10)]
    for file, thetas in files(tmp_path / "b" / "theta").items():
        assert same(thetas, whole[file])
    with pytest.raises(UserError, match="other people or other settings"):
        many(cfg, crowd, tmp_path, "optimise", "b", resume=True, lr=0.5)
    _, lidb = opened(cfg)
    one = replace(cfg, out=str(tmp_path / "a"))
    assert torch.equal(found_thetas(one, lidb, ["cleo", "anna"])[1], whole["000000.safetensors"]["anna"].float())
    with pytest.raises(UserError, match="--resume finds the rest"):
        many(cfg, crowd, tmp_path, "optimise", "a")
    assert all(same(thetas, whole[file]) for file, thetas in files(tmp_path / "a" / "theta").items()), "days of work are not deleted"
    one = replace(cfg, out=str(tmp_path / "b"))
    for wrong, names, message in ((one, ["dora"], "none for 1 people"), (replace(one, token="zwx"), ["anna"], "token sks, and this is zwx")):
        with pytest.raises(UserError, match=message):
            found_thetas(wrong, lidb, names)


def test_in_a_batch_of_people_each_is_taught_as_if_alone(cfg, monkeypatch):
    """Three steps for two people at once and for each of them alone, with the same noise for all: the same thetas."""
    sd, lidb = opened(cfg)
    eps = torch.randn(4, 8, 8)
    monkeypatch.setattr("hyperdreambooth.noise_loss", lambda sd, z, words, chance: F.mse_loss(
        sd.unet(0.6 * z + 0.8 * eps, torch.full((len(z),), 300), words), eps.expand_as(z)))
    z, one = torch.randn(2, 4, 8, 8), replace(cfg, lr=1e-3)

    def fitted(rows):
        theta = torch.zeros(len(rows), len(lidb.layers), cfg.a + cfg.b)
        assert len([*fit(sd, one, lidb, z, rows, theta, torch.Generator())]) == 3
        return theta.detach()
    together, alone = fitted([[0], [1]]), torch.cat([fitted([[0]]), fitted([[1]])])
    close = torch.isclose(together, alone, atol=1e-4).float().mean()
    assert close > 0.99 and (together[0] - together[1]).abs().max() > 1e-3


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


def test_a_killed_training_of_the_hypernetwork_resumes_to_the_same_bits(cfg, crowd, tmp_path):
    many(cfg, crowd, tmp_path, "optimise", "a")
    many(cfg, crowd, tmp_path, "optimise", "b")
    many(cfg, crowd, tmp_path, "learn", "a", beta=0.1, steps=5)
    many(cfg, crowd, tmp_path, "learn", "b", beta=0.1, steps=5, stop=4)
    assert many(cfg, crowd, tmp_path, "learn", "b", beta=0.1, steps=5, resume=True) == [5]
    (whole, about), (resumed, about_it) = (load_tensors(tmp_path / out / "hypernetwork.safetensors") for out in "ab")
    assert same(whole, resumed) and about == about_it
    history = json.loads(about["history"])
    assert [row[0] for row in history] == [2, 4, 5] and all(len(row) == 6 and min(row) > 0 for row in history)
    assert many(cfg, crowd, tmp_path, "learn", "b", beta=0.1, steps=5, resume=True) == [], "it is done"
    many(cfg, crowd, tmp_path, "learn", "c", steps=5, stop=4)
    with pytest.raises(UserError, match=r"other settings \(lr\)"):
        many(cfg, crowd, tmp_path, "learn", "c", steps=5, resume=True, lr=0.5)


@pytest.mark.parametrize("stop", [2, None])
def test_a_hypernetwork_is_not_trained_over_another_one(cfg, crowd, tmp_path, stop):
    """Neither over a finished one nor over the state of one that was stopped: it may be days of work."""
    many(cfg, crowd, tmp_path, "learn", "a", steps=3, stop=stop)
    before = files(tmp_path / "a")
    with pytest.raises(UserError, match="--resume goes on, another --out begins anew"):
        many(cfg, crowd, tmp_path, "learn", "a", steps=3)
    assert len(before) == 1 and all(same(tensors, before[file]) for file, tensors in files(tmp_path / "a").items())


def test_how_far_people_are_apart_needs_two_of_them(cfg, crowd, tmp_path):
    (crowd / "cleo.png").unlink()
    with pytest.raises(UserError, match="of 2 only 1 is learned from"):
        many(cfg, crowd, tmp_path, "learn", "a", beta=0.1)


def test_the_weight_loss_draws_the_guess_to_everyones_theta(cfg, crowd, tmp_path, monkeypatch):
    """By itself, without the noise loss, and for pictures that are easily told apart: the guesses for two people come nearer to their
    thetas than the mean of both, whose distance is 1. Without the thetas it is refused."""
    with pytest.raises(UserError, match="--task optimise --resume finds them"):
        many(cfg, crowd, tmp_path, "learn", "a", beta=1.0)
    sd, lidb = opened(cfg)
    theta = {name: 0.1 * torch.randn(len(lidb.layers), cfg.a + cfg.b) for name in ("anna", "ben", "cleo")}
    save_tensors(theta, tmp_path / "a" / "theta" / "000000.safetensors", {"purpose": json.dumps(purpose(cfg, lidb))})
    one = settle(replace(cfg, task="learn", images=str(crowd), out=str(tmp_path / "a"), beta=1.0, steps=200, lr=4e-3, width=32, save_every=200), sd)
    monkeypatch.setattr("hyperdreambooth.noise_with", lambda sd, cfg, lidb, theta, z, chance: torch.ones(()))
    monkeypatch.setattr("hyperdreambooth.people", lambda sd, cfg: (torch.randn(3, 4, 8, 8), {"anna": [0], "ben": [1], "cleo": [2]}))
    distances = [log["distance"] for _, log in learn(sd, one)]
    assert sum(distances[-5:]) / 5 < 0.5 < 0.9 < distances[0]


def test_people_that_are_kept_aside_tell_whether_it_learns(cfg, crowd, tmp_path, capsys):
    """The last of three is a stranger: a hypernetwork that guesses the mean person has a ratio of 1, and a distance of about 1."""
    sd, lidb = opened(cfg)
    network, z = Hypernetwork(len(lidb.layers), cfg.a + cfg.b, 4, 8, width=32), torch.randn(3, 4, 8, 8)
    network.heads.data.zero_()
    theta = network.scale * torch.randn(3, len(lidb.layers), cfg.a + cfg.b)
    _, ratio, distance = of_strangers(sd, cfg, lidb, network, z, [0, 1, 2], [0, 1, 2], theta)
    assert abs(ratio - 1) < 1e-6 and abs(distance - 1) < 0.05
    many(cfg, crowd, tmp_path, "learn", "a", steps=2)
    assert "  1 strangers: noise loss" in capsys.readouterr().out


def test_a_hypernetwork_is_only_used_for_what_it_is_for(cfg, crowd, tmp_path):
    many(cfg, crowd, tmp_path, "learn", "a", steps=1)
    many(cfg, crowd, tmp_path, "optimise", "a", steps=1)
    one = replace(cfg, hypernetwork=str(tmp_path / "a" / "hypernetwork.safetensors"))
    sd, log = next(train(one))
    assert log["theta"].shape == (152, 14) and log["theta"].abs().max() > 0
    [*adapted(sd).values()][-1].weight.data += 0.01  # any of them
    sd.save(tmp_path / "other")
    for change, message in ((dict(token="zwx"), "token sks, and this is zwx"), (dict(a=7), "a 8, and this is 7"), (dict(size=128), "pictures of 64 pixels"),
                            (dict(model=str(tmp_path / "other")), "model"),
                            (dict(hypernetwork=str(tmp_path / "a" / "theta" / "000000.safetensors")), "holds no hypernetwork")):
        with pytest.raises(UserError, match=message):
            next(train(replace(one, **change)))


# === the one that ships ===============================================================================================

def test_the_shipped_hypernetwork_tells_strangers_apart():
    """By its guess from one picture the model denoises another picture of that person better than as it is, and better than by its
    guess for anyone else. People whom neither has seen, the same noise for all guesses."""
    sd = StableDiffusion.from_pretrained(TINY)
    one = settle(Config(), sd)
    lidb = LiDB(sd, one.a, one.b)
    network = Hypernetwork.load(HYPERNETWORK, one, lidb)
    seen, drawn = ([draw(view("face", 400 + n, i)) for n in range(6)] for i in (0, 1))
    seen, drawn = (encode(sd, one, pictures)[0] * sd.vae.config.scaling_factor for pictures in (seen, drawn))
    with torch.no_grad():
        guesses = [*network(seen), torch.zeros_like(network.start)]
        loss = torch.stack([torch.stack([noise_with(sd, one, lidb, guess, z.repeat(16, 1, 1, 1), torch.Generator().manual_seed(0)) for guess in guesses])
                            for z in drawn.split(1)])                                     # (people, guesses)
    own, others, none = loss.diagonal(), loss[:, :6], loss[:, 6]
    assert (own < none).all() and (own < (others.sum(1) - own) / 5).all()
    assert (others.argmin(1) == torch.arange(6)).sum() >= 5
    assert HYPERNETWORK.stat().st_size < 8e6 and all(t.dtype == torch.float16 for t in load_file(HYPERNETWORK).values())


def test_fast_finetuning_learns_the_one_picture(tmp_path):
    """Ten steps from the hypernetwork's guess: at the same noise, the picture is denoised better than by the guess alone."""
    losses = []
    for sd, log in train(Config(steps=10, out=str(tmp_path))):
        if log["step"] == 0:
            z = encode(sd, log["cfg"], [log["photo"]])[0].repeat(32, 1, 1, 1) * sd.vae.config.scaling_factor
        if log["step"] in (0, 10):
            with torch.no_grad():
                losses.append(noise_loss(sd, z, sd.read(["a sks face"] * 32), torch.Generator().manual_seed(0)).item())
    assert losses[1] < 0.95 * losses[0]


def test_with_no_argument_it_is_the_tiny_worlds_face(tmp_path):
    command = [sys.executable, ROOT / "hyperdreambooth.py", "--out", tmp_path / "out", "--steps", "2", "--sampling-steps", "2"]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.endswith("before_after.png\n") and Image.open(tmp_path / "out" / "before_after.png").width > 500
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["before_after.png", "lidb.safetensors", "pytorch_lora_weights.safetensors"]
