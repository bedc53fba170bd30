"""Learning a hypernetwork: people and their pictures, a theta for each of them, what H is taught, resuming,
strangers."""
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, same, trained
from PIL import Image
from safetensors.torch import load_file

import hyperdreambooth
import learn_hypernetwork
from ddpm import Schedule
from files import UserError, load_metadata, load_tensors
from hyperdreambooth import Hypernetwork, adapted_layers
from learn_hypernetwork import Config, draw_people, look_at_strangers, main, prepare, read_people, train
from thetas import find_thetas, fit_thetas, loss_with_theta


@pytest.fixture
def crowd(tmp_path):
    """Three people, the first in a folder with two pictures."""
    folder = tmp_path / "crowd"
    (folder / "anna").mkdir(parents=True)
    for i, (name, colour) in enumerate({"anna/1": "red", "anna/2": "red", "ben": "blue", "cleo": "yellow"}.items()):
        noise = Image.effect_noise((64 + i, 70), 60).convert("RGB")
        Image.blend(noise, Image.new("RGB", noise.size, colour), 0.8).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def cfg(sd15_folder, crowd, tmp_path):
    return Config(model=str(sd15_folder), images=str(crowd), class_name="face", steps=5, lr=1e-2, batch_size=2,
                  width=32, theta_steps=3, theta_lr=1e-2, theta_batch=2, save_every=2, size=64, a=8, b=6,
                  out=str(tmp_path / "out"))


# === people ===========================================================================================================

def test_a_person_is_a_picture_or_a_folder_of_pictures(cfg, crowd):
    """What is hidden is neither, and what is no picture is passed over."""
    for hidden in (".thumbs/ben.png", "anna/.1.png", ".ben.png"):
        (crowd / hidden).parent.mkdir(exist_ok=True)
        shutil.copy(crowd / "ben.png", crowd / hidden)
    (crowd / "notes.txt").write_text("no picture")
    sd, cfg, (z, people) = prepare(cfg)
    assert z.shape == (4, 4, 8, 8) and people == {"anna": [0, 1], "ben": [2], "cleo": [3]}
    with pytest.raises(UserError, match="0 pictures of 0 people"):
        read_people(sd, replace(cfg, images=str(crowd / "ben.png")))


def test_of_two_people_nothing_can_be_learned(cfg, crowd):
    """One is kept aside, and how far people are apart needs two more."""
    (crowd / "cleo.png").unlink()
    with pytest.raises(UserError, match="3 pictures of 2 people"):
        prepare(cfg)


def test_what_is_denoised_are_other_pictures_than_the_one_that_is_seen():
    """Of three or more. Of two both are denoised, and one alone twice. Here a latent is the number of its picture."""
    z, people = torch.arange(7.0), [[0, 1, 2, 3], [4, 5], [6]]
    ways = set()
    for seed in range(40):
        seen, hidden = draw_people(z, people, [0, 1, 2], torch.Generator().manual_seed(seed))
        of_four, of_two, of_one = hidden.int().split(2)
        ways.add((int(seen[0]), *of_four.tolist()))
        assert {seen[0].item(), *of_four.tolist()} <= {0, 1, 2, 3} and len({seen[0].item(), *of_four.tolist()}) == 3
        assert set(of_two.tolist()) == {4, 5} and of_one.tolist() == [6, 6] and seen[2] == 6
    assert len(ways) > 12, "in an order by chance"


# === a theta for each =================================================================================================

def files(folder):
    return {path.name: load_file(path) for path in folder.glob("*.safetensors")}


def test_everyone_gets_a_theta_and_only_those_that_lack_are_found(cfg, tmp_path, monkeypatch):
    """One for all together, then in blocks of two: killed in the second block, the next run finds the rest, the same
    bits."""
    sd, one, (z, people) = prepare(cfg)
    theta = find_thetas(sd, one, z, people)
    whole = files(tmp_path / "out" / "theta")
    assert {file: list(thetas) for file, thetas in whole.items()} == {
        "start.safetensors": ["all people together"], "000000.safetensors": ["anna", "ben"],
        "000002.safetensors": ["cleo"]}
    assert theta.shape == (3, len(adapted_layers(sd)), 14)
    assert all((person != 0).any(1).float().mean() > 0.9 for person in theta)
    assert torch.equal(theta[1], whole["000000.safetensors"]["ben"].float())

    other, fitted = replace(one, out=str(tmp_path / "killed")), []

    def fit(sd, cfg, z, shown, theta, generator):
        fitted.append(len(theta))
        if len(fitted) == 2:
            raise KeyboardInterrupt
        fit_thetas(sd, cfg, z, shown, theta, generator)
    monkeypatch.setattr("thetas.fit_thetas", fit)
    with pytest.raises(KeyboardInterrupt):
        find_thetas(sd, other, z, people)
    assert list(files(tmp_path / "killed" / "theta")) == ["start.safetensors"]
    assert torch.equal(find_thetas(sd, other, z, people), theta) and fitted == [1, 2, 2, 1]
    find_thetas(sd, other, z, people)
    assert len(fitted) == 4, "nobody lacks one any more"


def test_thetas_of_others_or_for_something_else_are_refused(cfg, tmp_path):
    """Days of work are neither mixed with others nor overwritten."""
    sd, cfg, (z, people) = prepare(cfg)
    find_thetas(sd, cfg, z, people)
    before = files(tmp_path / "out" / "theta")
    for change, message in ((dict(theta_lr=0.5), r"other settings \(theta_lr\)"),
                            (dict(token="zwx"), r"other settings \(token\)")):
        with pytest.raises(UserError, match=message):
            find_thetas(sd, replace(cfg, **change), z, people)
    with pytest.raises(UserError, match="of other people"):
        find_thetas(sd, cfg, z, {"dora": [0], "ben": [1], "cleo": [2]})
    after = files(tmp_path / "out" / "theta")
    assert after.keys() == before.keys() and all(same(after[file], before[file]) for file in before)


def test_in_a_batch_of_people_each_is_taught_as_if_alone(cfg, monkeypatch):
    """Three steps for two people at once and for each of them alone, with the same noise for all: the same thetas."""
    sd, cfg, _ = prepare(replace(cfg, theta_lr=1e-3))
    z, eps = torch.randn(2, 4, 8, 8), torch.randn(4, 8, 8)

    def same_noise(sd, z, words, generator, lowest_t):
        output = sd.unet(0.6 * z + 0.8 * eps, torch.full((len(z),), 300), words)
        return F.mse_loss(output, eps.expand_as(z))
    monkeypatch.setattr("thetas.noise_loss", same_noise)

    def fitted(people):
        theta = torch.zeros(len(people), len(sd.lidb.layers), cfg.a + cfg.b)
        fit_thetas(sd, cfg, z, people, theta, torch.Generator())
        return theta.detach()
    together, alone = fitted([[0], [1]]), torch.cat([fitted([[0]]), fitted([[1]])])
    close = torch.isclose(together, alone, atol=1e-4).float().mean()
    assert close > 0.99 and (together[0] - together[1]).abs().max() > 1e-3


# === what the hypernetwork is taught ==================================================================================

def test_the_second_term_draws_the_guess_to_everyones_theta(cfg, monkeypatch):
    """By itself, without the noise loss, and for pictures that are easily told apart: the guesses for two people come
    nearer to their thetas than the mean of both, whose distance is 1."""
    sd, cfg, (_, people) = prepare(replace(cfg, beta=1.0, steps=200, lr=4e-3, save_every=200))
    theta = 0.1 * torch.randn(3, len(sd.lidb.layers), cfg.a + cfg.b)
    monkeypatch.setattr("learn_hypernetwork.find_thetas", lambda sd, cfg, z, people: theta)
    monkeypatch.setattr("learn_hypernetwork.loss_with_theta", lambda sd, cfg, theta, z, *more: torch.ones(()))
    logs = list(train(sd, cfg, (torch.randn(3, 4, 8, 8), {"anna": [0], "ben": [1], "cleo": [2]})))
    assert all(log["loss"] == pytest.approx(log["noise"] + log["distance"]) for log in logs)
    assert sum(log["distance"] for log in logs[-5:]) / 5 < 0.5 < 0.9 < logs[0]["distance"]


def test_with_the_second_term_it_begins_at_the_mean_theta_of_those_it_learns_from(cfg, tmp_path):
    """And measures in units of their spread. The thetas it finds by itself; the one who is kept aside has no part in
    it."""
    trained(learn_hypernetwork, replace(cfg, beta=0.1))
    thetas = files(tmp_path / "out" / "theta")["000000.safetensors"]
    learned = torch.stack([thetas["anna"], thetas["ben"]]).float()
    network = load_tensors(tmp_path / "out" / "hypernetwork.safetensors")
    assert torch.allclose(network["mean"].float(), learned.mean(0), atol=1e-3)
    assert network["scale"].item() == pytest.approx((learned - learned.mean(0)).std().item(), rel=1e-2)


def test_people_that_are_kept_aside_tell_whether_it_learns(cfg, capsys):
    """A hypernetwork that guesses the mean person has a ratio of 1, and a distance of about 1; one that knows
    everyone's theta has a distance of 0. In a training the last of three people is the stranger."""
    sd, cfg, (z, people) = prepare(cfg)
    network = Hypernetwork(len(sd.lidb.layers), cfg.a + cfg.b, 4, 8, width=32)
    network.heads.data.zero_()
    strangers, chance = [[0], [1], [2, 3]], torch.Generator().manual_seed(0)
    theta = network.scale * torch.randn(3, len(sd.lidb.layers), cfg.a + cfg.b, generator=chance)
    _, ratio, distance = look_at_strangers(sd, cfg, network, z, strangers, theta)
    assert abs(ratio - 1) < 1e-6 and abs(distance - 1) < 0.05
    assert look_at_strangers(sd, cfg, network, z, strangers, torch.zeros_like(theta))[2] == 0
    for log in train(sd, replace(cfg, steps=2), (z, people)):
        pass
    assert "1 strangers: noise loss" in capsys.readouterr().out


def test_the_noise_loss_is_that_of_the_model_with_the_guess_beside_its_weights(cfg):
    """With theta 0 that of the model as it is, with another one another."""
    sd, cfg, (z, _) = prepare(cfg)
    words = sd.read(["a sks face"] * len(z))
    zero = torch.zeros(len(sd.lidb.layers), cfg.a + cfg.b)
    plain = hyperdreambooth.noise_loss(sd, z, words, torch.Generator().manual_seed(0))
    assert torch.equal(loss_with_theta(sd, cfg, zero, z, torch.Generator().manual_seed(0)), plain)
    assert (loss_with_theta(sd, cfg, zero + 1, z, torch.Generator().manual_seed(0)) - plain).abs() > 1e-4


def test_it_learns_from_noise_levels_that_leave_something_to_say(cfg, monkeypatch):
    """From lowest_t on; and how well strangers are known is asked at all levels."""
    seen, add_noise = [], Schedule.add_noise
    monkeypatch.setattr(Schedule, "add_noise", lambda self, z, eps, t: seen.append(t) or add_noise(self, z, eps, t))
    sd, cfg, people = prepare(replace(cfg, lowest_t=990, steps=6, batch_size=8, save_every=6))
    logs = train(sd, cfg, people)
    for _ in range(5):
        next(logs)
    assert 990 <= torch.cat(seen).min() and len(torch.cat(seen).unique()) == 10
    list(logs)
    assert torch.cat(seen).min() < 990
    with pytest.raises(UserError, match="--lowest-t 1000: from 0 to 999"):
        prepare(replace(cfg, lowest_t=1000, out=cfg.out + "2"))


# === interrupted ======================================================================================================

@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_a_killed_training_resumes_to_the_same_bits(cfg, tmp_path, capsys, beta):
    """Killed after step 4 of 5, whose state is there; in the end the file is the same, with the history of the
    training."""
    cfg = replace(cfg, beta=beta)
    trained(learn_hypernetwork, cfg)
    other = replace(cfg, out=str(tmp_path / "killed"))
    trained(learn_hypernetwork, other, steps=4)
    sd, settled, people = prepare(replace(other, resume=True))
    assert [log["step"] for log in train(sd, settled, people)] == [5]
    whole, resumed = [tmp_path / out / "hypernetwork.safetensors" for out in ("out", "killed")]
    assert same(load_tensors(whole), load_tensors(resumed)) and load_metadata(whole) == load_metadata(resumed)
    history = json.loads(load_metadata(whole)["history"])
    assert [row[0] for row in history] == [2, 4, 5]
    assert all(len(row) == 6 and min(row[:5] if not beta else row) >= 0 < row[1] for row in history)
    with pytest.raises(UserError, match=r"other settings \(lr\)"):
        prepare(replace(other, resume=True, lr=0.5))


def test_a_training_is_not_resumed_with_other_pictures(cfg, crowd):
    trained(learn_hypernetwork, cfg, steps=2)
    prepare(replace(cfg, resume=True))
    Image.new("RGB", (64, 64), "green").save(crowd / "anna" / "2.png")
    with pytest.raises(UserError, match=r"other settings \(photos\)"):
        prepare(replace(cfg, resume=True))


@pytest.mark.parametrize("steps", [2, None])
def test_a_hypernetwork_is_not_trained_over_another_one(cfg, tmp_path, steps):
    """Neither over a finished one nor over the state of one that was stopped: it may be days of work."""
    trained(learn_hypernetwork, cfg, steps)
    before = files(tmp_path / "out")
    with pytest.raises(UserError, match="--resume goes on, another --out begins anew"):
        prepare(cfg)
    assert before and all(same(tensors, before[file]) for file, tensors in files(tmp_path / "out").items())


def test_what_is_finished_is_not_trained_again(cfg, tmp_path, capsys):
    main(cfg)
    path = tmp_path / "out" / "hypernetwork.safetensors"
    assert sorted(file.name for file in path.parent.iterdir()) == [".lock", path.name]
    before = path.read_bytes()
    main(replace(cfg, resume=True))
    assert path.read_bytes() == before and f"which is finished: {path}" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"other settings \(lr\)"):
        main(replace(cfg, resume=True, lr=0.5))


# === from the command to a person =====================================================================================

def test_the_command_leaves_a_hypernetwork_that_is_only_used_for_what_it_is_for(cfg, crowd, tmp_path):
    out = tmp_path / "out"
    ended = subprocess.run([sys.executable, "learn_hypernetwork.py", "--model", cfg.model, "--images", cfg.images,
                            "--class-name", "face", "--a", "8", "--b", "6", "--width", "32", "--steps", "1",
                            "--theta-steps", "1", "--beta", "0.1", "--out", out],
                           cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith(f"the hypernetwork: {out / 'hypernetwork.safetensors'}\n")
    one = hyperdreambooth.Config(model=cfg.model, images=str(crowd / "ben.png"), class_name="face", a=8, b=6, size=64,
                                 hypernetwork=str(out / "hypernetwork.safetensors"), out=str(tmp_path / "ben"))
    sd, _, _ = hyperdreambooth.prepare(one)
    assert sd.lidb.theta.shape == (len(adapted_layers(sd)), 14) and sd.lidb.theta.abs().max() > 0
    list(adapted_layers(sd).values())[-1].weight.data[0, 0] += 0.01  # any of them
    sd.save(tmp_path / "other")
    for change, message in ((dict(token="zwx"), "token sks, and this is zwx"), (dict(a=7), "a 8, and this is 7"),
                            (dict(size=128), "pictures of 64 pixels"), (dict(model=str(tmp_path / "other")), "model")):
        with pytest.raises(UserError, match=message):
            hyperdreambooth.prepare(replace(one, **change))


def test_a_file_that_holds_no_hypernetwork_is_refused(cfg, crowd, tmp_path):
    """Such as the thetas of the people that it was taught with."""
    sd, cfg, (z, people) = prepare(cfg)
    find_thetas(sd, cfg, z, people)
    one = hyperdreambooth.Config(model=cfg.model, images=str(crowd / "ben.png"), class_name="face", a=8, b=6, size=64,
                                 hypernetwork=str(tmp_path / "out" / "theta" / "000000.safetensors"))
    with pytest.raises(UserError, match="holds no hypernetwork"):
        hyperdreambooth.prepare(one)


REFUSED = [  # without a model, and then with one
    (dict(images=""), "many people"), (dict(class_name=""), "--class-name"), (dict(beta=-1.0), "--beta -1"),
    (dict(steps=0), "--steps 0"), (dict(theta_lr=0.0), "--theta-lr 0"), (dict(iterations=0), "--iterations 0"),
    (dict(seed=-1), "--seed -1"), (dict(dtype="float64"), "auto, float32, bfloat16 or float16")]
REFUSED_BY_THE_MODEL = [(dict(size=72), "a multiple of 64"), (dict(width=30), "--width 30"), (dict(a=99), "--a 99"),
                        (dict(token=" "), '--token " " has no word'), (dict(images="nowhere"), "nowhere")]


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
