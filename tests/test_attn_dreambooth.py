"""AttnDreamBooth: what moves in each stage, the penalty on attention, resuming across stages; and that it learns."""
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import ROOT, diffusers_pipeline, held_out_error, latents, pixels, same, trained, weights
from PIL import Image
from safetensors.torch import load_file

import attn_dreambooth
from attn_dreambooth import (Config, Stage, TwoColumns, attention_penalty, augment, find_word, light_up, main,
                             measure_gaze, plan_stages, prepare, train)
from files import UserError
from stable_diffusion import StableDiffusion


@pytest.fixture
def cfg(sd15_folder, photos, tmp_path):
    return Config(model=str(sd15_folder), images=str(photos), class_name="dog", steps=3, lr=1e-3, batch_size=2,
                  augment=False, sampling_steps=2, save_every=2, size=64, out=str(tmp_path / "out"))


TABLE = "text.text_model.embeddings.token_embedding.weight"


def moved(before, after):
    return {n for n in before if not torch.equal(before[n], after[n])}


def after_each_stage(cfg):
    """{stage: all numbers of the model at its end}; of the start under 0."""
    sd, cfg, photos = prepare(cfg)
    at = {0: weights(sd)}
    for log in train(sd, cfg, photos):
        at[log["stage"]] = weights(sd)
    return at


def test_each_stage_moves_its_own_numbers_and_no_others(cfg):
    """The paper in one test: first one vector, then the cross-attention layers, then the whole UNet."""
    at = after_each_stage(cfg)
    unet = {n for n in at[0] if n.startswith("unet.")}
    assert moved(at[0], at[1]) == {TABLE} and torch.equal(at[0][TABLE][:-1], at[1][TABLE][:-1])
    assert moved(at[1], at[2]) == {n for n in unet if ".attn2." in n}
    assert moved(at[2], at[3]) == unet


@pytest.mark.parametrize("stages, parts", [("3", "unet"), ("13", "word unet"), ("2", "attn2")])
def test_a_stage_that_is_left_out_moves_nothing(cfg, stages, parts):
    at = after_each_stage(replace(cfg, stages=stages))
    assert list(at) == [0, *map(int, stages)]
    unet = {n for n in at[0] if n.startswith("unet.")}
    expected = {"word": {TABLE}, "attn2": {n for n in unet if ".attn2." in n}, "unet": unet}
    assert moved(at[0], at[int(stages[-1])]) == set().union(*(expected[part] for part in parts.split()))


def test_steps_are_counted_over_all_stages(cfg):
    sd, cfg, photos = prepare(replace(cfg, steps=2, stages="13"))
    logs = list(train(sd, cfg, photos))
    assert [(log["step"], log["stage"]) for log in logs] == [(1, 1), (2, 1), (3, 3), (4, 3)]


def test_from_the_second_stage_on_no_gradient_reaches_the_word(cfg):
    """Only in the first stage do they go back through the text encoder."""
    sd, cfg, photos = prepare(replace(cfg, steps=2))
    now, reached = {}, {}
    sd.unet.register_forward_pre_hook(lambda unet, inputs: now.update(words=inputs[2].requires_grad))
    for log in train(sd, cfg, photos):
        reached[log["stage"]] = now["words"]
    assert reached == {1: True, 2: False, 3: False}


def stage(lambda_mean, lambda_var):
    """One that differs from others in its penalty only."""
    return Stage(2, 1, 1e-3, 1, lambda_mean, lambda_var)


def literal(maps, new, category, lambda_mean, lambda_var):
    """The penalty number by number, as its definition reads."""
    total = 0.0
    for attention in maps:
        b, h, n, _ = attention.shape
        for i in range(b):
            a = [attention[i, j, k, new].item() for j in range(h) for k in range(n)]
            c = [attention[i, j, k, category].item() for j in range(h) for k in range(n)]
            mean_a, mean_c = sum(a) / len(a), sum(c) / len(c)
            var_a = sum((x - mean_a) ** 2 for x in a) / (len(a) - 1)
            var_c = sum((x - mean_c) ** 2 for x in c) / (len(c) - 1)
            total += lambda_mean * (mean_a - mean_c) ** 2 + lambda_var * (var_a - var_c) ** 2
    return total / len(maps)


def test_the_penalty_is_its_definition():
    g = torch.Generator().manual_seed(0)
    maps = [torch.randn(3, 2, n, 7, generator=g).mul(3).softmax(-1) for n in (4, 12)]
    kept = TwoColumns(4)
    kept.extend(maps)
    assert [one.untyped_storage().nbytes() for one in kept] == [3 * 2 * n * 2 * 4 for n in (4, 12)], "not all columns"
    ours = attention_penalty(kept, stage(lambda_mean=0.7, lambda_var=1.3)).item()
    assert ours == pytest.approx(literal(maps, 4, 5, 0.7, 1.3), rel=1e-4) and ours > 1e-3


def test_the_penalty_of_identical_maps_is_zero_and_has_no_gradient():
    x = torch.randn(2, 2, 6, 1).expand(-1, -1, -1, 2).clone().requires_grad_(True)
    loss = attention_penalty([x], stage(2.0, 5.0))
    loss.backward()
    assert loss == 0 and x.grad.abs().max() == 0


def test_the_penalty_pulls_the_maps_together(cfg):
    """With a heavy penalty the two words are looked at alike after training; without, they are not."""
    ends = {}
    for weight in (0.0, 3e4):
        sd, heavy, photos = prepare(replace(cfg, stages="2", steps=30, lr=1e-2, attn_weight=weight))
        sd.text.table.weight.data[-1] *= -3  # a word that is looked at in another way
        for log in train(sd, heavy, photos):
            pass
        maps, z = TwoColumns(5), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            sd.unet(z, torch.tensor([300, 600]), sd.read(["a photo of a <it> dog"] * 2), maps)
        ends[weight] = attention_penalty(maps, stage(1.0, 1.0)).item()
    assert ends[3e4] < 0.5 * ends[0.0]


def test_each_stage_pays_the_penalty_with_its_own_weights(cfg, monkeypatch):
    """Half of them with half the --attn-weight; with none no maps are made at all. What is trained on is the sum of
    both."""
    paid = []

    def penalty(maps, stage):
        paid.append((len(maps), maps.place, stage.lambda_mean, stage.lambda_var))
        return torch.tensor(0.25)
    monkeypatch.setattr("attn_dreambooth.attention_penalty", penalty)
    logs = list(train(*prepare(replace(cfg, steps=1, attn_weight=0.5))))
    assert paid == [(16, 5, 0.05, 0.0), (16, 5, 1.0, 2.5), (16, 5, 1.0, 2.5)]
    assert all(log["attention"] == 0.25 and log["loss"] == pytest.approx(log["noise"] + 0.25) for log in logs)
    logs = list(train(*prepare(replace(cfg, steps=1, attn_weight=0.0))))
    assert len(logs) == len(paid) == 3 and all(log["loss"] == log["noise"] for log in logs)


def test_the_stages_and_their_weights_are_the_papers():
    """What the official script runs on Stable Diffusion, and its fast variant: steps, rate, batch, the penalty's
    weights."""
    papers = [Stage(1, 60, 1e-3, 8, 0.1, 0), Stage(2, 100, 2e-5, 8, 2, 5), Stage(3, 500, 2e-6, 8, 2, 5)]
    assert plan_stages(Config(), large=True) == papers
    assert plan_stages(Config(fast=True), large=True) == [*papers[:2], Stage(3, 200, 1e-5, 4, 2, 5)]
    assert plan_stages(Config(attn_weight=0.0, stages="2"), large=True) == [Stage(2, 100, 2e-5, 8, 0, 0)]


def test_what_the_config_says_holds_for_every_stage():
    for large in (False, True):
        stages = plan_stages(Config(steps=7, lr=0.5, batch_size=3), large)
        found = [(stage.number, stage.steps, stage.lr, stage.batch_size) for stage in stages]
        assert found == [(1, 7, 0.5, 3), (2, 7, 0.5, 3), (3, 7, 0.5, 3)]


def test_of_a_long_category_the_first_token_is_compared(cfg):
    """[V] starts as the first token of the category, and stands right before it."""
    sd, cfg, _ = prepare(replace(cfg, class_name="space shuttle"))
    prompt, word, place = find_word(sd, cfg)
    table, tokens, space = sd.text.table.weight, sd.tokenizer(prompt)[0], sd.tokenizer.encode("space")[0]
    assert word == len(table) - 1 and torch.equal(table[word], table[space])
    assert tokens[place] == word and tokens[place + 1] == space


# === interrupted ======================================================================================================

@pytest.mark.parametrize("killed_at, goes_on_with", [(3, (3, 1)), (4, (4, 2)), (6, (6, 2)), (7, (7, 3)), (9, (9, 3))])
def test_a_killed_run_resumes_to_the_same_bits_whatever_the_stage(cfg, tmp_path, killed_at, goes_on_with):
    """Killed in a step, before its state was written. States are kept every two steps of a stage and at its end, so
    little is done twice: the step that it was killed in."""
    whole = weights(trained(attn_dreambooth, cfg))
    other = replace(cfg, out=str(tmp_path / "killed"))
    trained(attn_dreambooth, other, steps=killed_at)
    sd, settled, photos = prepare(replace(other, resume=True))
    logs = list(train(sd, settled, photos))
    assert (logs[0]["step"], logs[0]["stage"]) == goes_on_with and logs[-1]["step"] == 9
    assert same(whole, weights(sd))
    with pytest.raises(UserError, match=r"other settings \(lr\)"):
        prepare(replace(other, resume=True, lr=0.5))


@pytest.mark.parametrize("stages", ["3", "13", "1"])
def test_a_killed_run_is_not_resumed_with_other_stages(cfg, tmp_path, stages):
    """Not even where the stage it stood in is none of them: its work would be lost without a word."""
    trained(attn_dreambooth, cfg, steps=6)
    before = load_file(tmp_path / "out" / "state.safetensors")
    with pytest.raises(UserError, match=r"other settings \(stages\)"):
        prepare(replace(cfg, resume=True, stages=stages))
    assert same(before, load_file(tmp_path / "out" / "state.safetensors"))


def test_a_run_is_not_resumed_with_other_photos(cfg, photos):
    trained(attn_dreambooth, cfg, steps=3)
    prepare(replace(cfg, resume=True))
    (photos / "2.png").unlink()
    with pytest.raises(UserError, match=r"other settings \(photos\)"):
        prepare(replace(cfg, resume=True))


def until(step):
    """train, interrupted when a step is done, before anyone has seen it."""
    def interrupted(sd, cfg, photos):
        for log in train(sd, cfg, photos):
            if log["step"] == step:
                raise KeyboardInterrupt
            yield log
    return interrupted


@pytest.mark.parametrize("step", [3, 4])
def test_a_resumed_run_has_the_maps_of_the_stages_before(cfg, tmp_path, step):
    """The picture of where it looks has a row for each stage, as that of a run in one go: also if it was killed at
    the end of a stage, when the stage's row was not drawn yet."""
    main(cfg)
    other = replace(cfg, out=str(tmp_path / "killed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attn_dreambooth.train", until(step))
        with pytest.raises(KeyboardInterrupt):
            main(other)
    main(replace(other, resume=True))
    whole, resumed = [Image.open(tmp_path / folder / "attention.png") for folder in ("out", "killed")]
    assert whole.tobytes() == resumed.tobytes() and not [*tmp_path.glob("*/attention_*.png")]


# === the photos =======================================================================================================

def test_photos_are_rotated_and_mirrored_as_often_as_the_official_code_does():
    """Of a photo that has no room to be cropped, white but for its left half: black corners in 75 % of 400, and of
    the others a quarter mirrored."""
    photo = Image.new("RGB", (32, 32), "white")
    photo.paste("red", (0, 0, 16, 32))
    seen = [augment(photo, 32, torch.Generator().manual_seed(i)) for i in range(400)]
    colours = lambda picture: {colour for _, colour in picture.getcolors(32 * 32)}
    upright = [p for p in seen if colours(p) == colours(photo)]
    mirrored = [p for p in upright if p.getpixel((0, 0)) == (255, 255, 255)]
    assert {p.size for p in seen} == {(32, 32)}
    assert 70 < len(upright) < 135 and 0.1 < len(mirrored) / len(upright) < 0.42


@pytest.fixture
def augmented(monkeypatch):
    """[(photo, square), ...] of all that were augmented."""
    pairs = []

    def noted(photo, size, generator):
        pairs.append((photo, augment(photo, size, generator)))
        return pairs[-1][1]
    monkeypatch.setattr("attn_dreambooth.augment", noted)
    return pairs


def test_photos_of_a_camera_are_made_smaller_once(cfg, tmp_path, augmented):
    """They are turned at every step, and turning 12 million pixels takes longer than the step."""
    (tmp_path / "large").mkdir()
    Image.effect_noise((700, 500), 60).convert("RGB").save(tmp_path / "large" / "a.png")
    trained(attn_dreambooth, replace(cfg, images=str(tmp_path / "large"), augment=True, stages="2", steps=2))
    assert [photo.size for photo, _ in augmented] == [(234, 167)] * 4
    assert all(photo is augmented[0][0] for photo, _ in augmented)


def test_photos_are_rotated_by_45_degrees_at_most_and_cropped_anywhere():
    """Then what was above the middle stays there, in every one of 100. Of a wide photo, different parts are seen."""
    halves = Image.new("RGB", (32, 32), "white")
    halves.paste("red", (0, 0, 32, 16))
    for i in range(100):
        seen = augment(halves, 32, torch.Generator().manual_seed(i))
        assert seen.getpixel((16, 6))[1] < 40 and min(seen.getpixel((16, 25))) > 215
    slope = Image.linear_gradient("L").rotate(90).resize((96, 32)).convert("RGB")
    seen = {augment(slope, 32, torch.Generator().manual_seed(i)).getpixel((16, 16)) for i in range(100)}
    assert len(seen) > 30


def test_every_step_sees_other_pictures_of_the_photos(cfg, augmented):
    with_it = weights(trained(attn_dreambooth, replace(cfg, augment=True, stages="2")))
    assert len({picture.tobytes() for _, picture in augmented}) == len(augmented) == 3 * cfg.batch_size
    assert moved(with_it, weights(trained(attn_dreambooth, replace(cfg, stages="2"))))
    assert len(augmented) == 3 * cfg.batch_size, "without it none is turned"


REFUSED = [  # without a model, and then with one
    (dict(stages="21"), "--stages 21"), (dict(stages="4"), "--stages 4"), (dict(stages=""), "--stages"),
    (dict(token="cat"), "angle brackets"), (dict(images=""), "go together"), (dict(lr=0.0), "--lr 0"),
    (dict(attn_weight=-1.0), "--attn-weight -1"), (dict(seed=-1), "--seed -1"), (dict(class_name=""), "--class-name"),
    (dict(steps=0), "--steps 0"), (dict(images="nowhere"), "nowhere")]
REFUSED_BY_THE_MODEL = [(dict(class_name=" "), "no word"), (dict(size=60), "--size 60")]


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


# === what it leaves ===================================================================================================

def test_the_photo_is_lit_where_it_looks(cfg, monkeypatch):
    """A UNet that looks at [V] from the upper left and at the category from the lower right: those corners stay as they
    were."""
    sd, cfg, _ = prepare(cfg)
    _, _, place = find_word(sd, cfg)

    def looks(x, t, words, maps):
        for side in (4, 8):
            attention = torch.zeros(len(x), 2, side, side, words.shape[1])
            attention[:, :, :side // 4, :side // 4, place] = 0.5
            attention[:, :, -side // 4:, -side // 4:, place + 1] = 0.2
            maps.append(attention.flatten(2, 3))

    monkeypatch.setattr(sd.unet, "forward", looks)
    picture = Image.new("RGB", (64, 64), "white")
    share = measure_gaze(sd, cfg, picture)
    of_word, of_category = light_up(picture, share[0]), light_up(picture, share[1])
    assert abs(share[0].mean() - 0.5 / 16) < 0.005 and abs(share[1].mean() - 0.2 / 16) < 0.003
    assert picture.getpixel((2, 2)) == of_word.getpixel((2, 2)) == of_category.getpixel((61, 61)) == (255, 255, 255)
    assert max(of_word.getpixel((61, 61)) + of_category.getpixel((2, 2))) < 60


@pytest.mark.parametrize("memory", ["thrifty", "lean"])
def test_where_it_looks_is_measured_in_every_precision(cfg, memory):
    picture = Image.new("RGB", (64, 64), "white")
    plain = measure_gaze(*prepare(replace(cfg, memory="plain"))[:2], picture)
    share = measure_gaze(*prepare(replace(cfg, memory=memory, out=cfg.out + memory))[:2], picture)
    assert torch.allclose(share, plain, atol=0.01) and torch.equal(share, plain) == (memory == "thrifty")


def test_the_command_leaves_its_pictures_and_a_model_that_diffusers_draws_alike(cfg, tmp_path):
    ended = subprocess.run([sys.executable, "attn_dreambooth.py", "--model", cfg.model, "--images", cfg.images,
                            "--class-name", "dog", "--steps", "1", "--batch-size", "1", "--sampling-steps", "2",
                            "--out", cfg.out], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    out = tmp_path / "out"
    left = sorted(path.name for path in out.iterdir())
    assert left == [".lock", "attention.png", "before_after.png", "it.safetensors", "learned_embeds.safetensors",
                    "model"]
    assert same(load_file(out / "it.safetensors"), load_file(out / "learned_embeds.safetensors"))
    assert Image.open(out / "before_after.png").width > 300 and Image.open(out / "attention.png").height > 500

    def theirs(pipe):
        return pipe("a <it> dog", num_inference_steps=4, generator=torch.Generator().manual_seed(0)).images[0]
    sd = StableDiffusion.from_pretrained(str(out / "model"))
    assert pixels(sd.sample("a <it> dog", steps=4, guidance=7.5)[0], theirs(diffusers_pipeline(out / "model"))) <= 1
    plain, base = diffusers_pipeline(cfg.model), StableDiffusion.from_pretrained(cfg.model)
    plain.load_textual_inversion(out / "learned_embeds.safetensors")
    assert base.load_embeds(out / "learned_embeds.safetensors") == "<it>"
    assert torch.equal(base.read(["a <it> dog"]), sd.read(["a <it> dog"]))
    assert pixels(base.sample("a <it> dog", steps=4, guidance=7.5)[0], theirs(plain)) <= 1


def test_it_learns_in_every_stage(tmp_path):
    """On the tiny world, 15 steps a stage: each stage leaves the photos better explained than the one before."""
    sd, cfg, photos = prepare(Config(steps=15, batch_size=4, out=str(tmp_path)))
    subject, sentence = latents(sd, photos), "a photo of a <it> cat"
    errors = [held_out_error(sd, subject, sentence)]
    for log in train(sd, cfg, photos):
        if log["step"] in (15, 30, 45):
            errors.append(held_out_error(sd, subject, sentence))
    assert len(errors) == 4 and errors == sorted(errors, reverse=True) and errors[-1] < 0.95 * errors[0]
