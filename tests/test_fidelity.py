"""The papers' figures are what they are defined as, and what is measured is what lies there."""
import json
import sys

import pytest
import torch
from conftest import clip_tokenizer
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, ViTConfig, ViTModel

import fidelity
from files import UserError
from stable_diffusion import TINY, StableDiffusion

SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
PICTURE = dict(SIZES, image_size=224, patch_size=56)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Two of transformers' networks with random weights, and their folders."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    dino = ViTModel(ViTConfig(**PICTURE), add_pooling_layer=False).eval()
    clip = CLIPModel(CLIPConfig(projection_dim=16, text_config=SIZES, vision_config=PICTURE)).eval()
    dino.save_pretrained(folder / "dino")
    clip.save_pretrained(folder / "clip")
    clip_tokenizer().save(folder / "clip")
    return dino, clip, folder


@pytest.fixture
def measured(networks, tmp_path, monkeypatch):
    """measured(drawn, "--images", ...): what the command finds, from its --json."""
    *_, folder = networks

    def measure(drawn, *arguments):
        out = tmp_path / "found.json"
        line = ["fidelity.py", "--drawn", drawn, "--dino", folder / "dino", "--clip", folder / "clip", "--json", out,
                *arguments]
        monkeypatch.setattr(sys, "argv", [str(part) for part in line])
        fidelity.main()
        return json.loads(out.read_text())
    return measure


def picture(seed, folder, name):
    """A picture of its own for each seed: a colour, and noise."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (70, 60), (seed * 37 % 256, seed * 91 % 256, seed * 53 % 256))
    image.paste(Image.effect_noise((30, 30), 80 + seed), (seed % 30, 5))
    image.save(folder / name)


@pytest.fixture
def subject(tmp_path):
    """Three photos, two prompts, two pictures of each, three of the class; and the arguments for them."""
    for i in range(3):
        picture(i, tmp_path, f"photos/{i}.png")
        picture(20 + i, tmp_path, f"drawn/class/{i}.png")
    for i in range(4):
        picture(10 + i, tmp_path, f"drawn/0{1 + i // 2}-{1 + i % 2}.png")
    (tmp_path / "prompts.txt").write_text("# places\na {} in the snow\n\na {} on a rug\n")
    return tmp_path, ("--images", tmp_path / "photos", "--class-name", "dog", "--prompts", tmp_path / "prompts.txt")


def test_the_figures_are_those_of_the_papers(subject, networks, measured):
    """Worked out a second time, with transformers."""
    folder, arguments = subject
    dino, clip, _ = networks
    found = measured(folder / "drawn", *arguments)

    def opened(pattern):
        return [Image.open(path) for path in sorted(folder.glob(pattern))]

    @torch.no_grad()
    def by_dino(pictures):
        processor = CLIPImageProcessorPil(size={"shortest_edge": 256}, crop_size=224,
                                          image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
        x = processor(pictures, return_tensors="pt")["pixel_values"]
        return torch.nn.functional.normalize(dino(x).last_hidden_state[:, 0])

    photos, by_prompt = by_dino(opened("photos/*")), [by_dino(opened(f"drawn/0{i}-*")) for i in (1, 2)]
    assert found["drawn"]["DINO"] == pytest.approx([(one @ photos.T).mean().item() for one in by_prompt], abs=1e-4)
    assert found["drawn"]["DIV"] == pytest.approx([1 - (one[0] @ one[1]).item() for one in by_prompt], abs=1e-4)
    of_class = by_dino(opened("drawn/class/*")) @ photos.T
    assert found["drawn"]["PRES"] == pytest.approx(of_class.mean(1).tolist(), abs=1e-4)
    pairs = [(photos[i] @ photos[j]).item() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found["your photos among themselves"]["DINO"] == pytest.approx(pairs, abs=1e-4)

    tokens = clip_tokenizer()(["a dog in the snow", "a dog on a rug"])
    for i, row in enumerate(tokens):
        pixels = CLIPImageProcessorPil()(opened(f"drawn/0{i + 1}-*"), return_tensors="pt")["pixel_values"]
        photo_pixels = CLIPImageProcessorPil()(opened("photos/*"), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            want = clip(pixel_values=pixels, input_ids=row[None])
            seen = clip(pixel_values=photo_pixels, input_ids=row[None]).image_embeds
        for name, others in (("CLIP-T", want.text_embeds), ("CLIP-I", seen)):
            assert found["drawn"][name][i] == pytest.approx((want.image_embeds @ others.T).mean().item(), abs=1e-4)


def test_the_papers_figures_stand_beside(subject, measured, capsys):
    folder, arguments = subject
    measured(folder / "drawn", *arguments)
    said = capsys.readouterr().out
    assert "DreamBooth, Stable Diffusion  0.668                   0.803                   0.305" in said


def test_a_model_draws_what_is_not_there_and_leaves_what_is(subject, measured):
    folder, arguments = subject
    (folder / "drawn" / "02-2.png").unlink()
    kept = (folder / "drawn" / "01-1.png").read_bytes()
    measured(folder / "drawn", *arguments, "--model", TINY, "--each", 2, "--class-images", 4, "--sampling-steps", 2)
    assert (folder / "drawn" / "01-1.png").read_bytes() == kept
    drawn = [Image.open(folder / "drawn" / name) for name in ("02-2.png", "class/4.png")]
    assert all(one.size == (64, 64) for one in drawn)


def test_the_subject_is_called_as_its_method_learned_it(subject, measured, tmp_path, monkeypatch):
    """An identifier stands before the noun; a word of Textual Inversion's is the noun."""
    folder, arguments = subject
    save_file({"<it>": torch.zeros(1, 128)}, tmp_path / "word.safetensors")
    for more, subject_is in ((["--token", "sks"], "a sks dog on a rug"),
                             (["--token", "<it>", "--embeds", tmp_path / "word.safetensors"], "a <it> on a rug")):
        asked = []
        monkeypatch.setattr(StableDiffusion, "sample", lambda sd, prompt, **how: (
            asked.append(prompt) or [Image.new("RGB", (64, 64), "red")]))
        drawn = tmp_path / subject_is
        measured(drawn, *arguments, *more, "--model", TINY, "--each", 2, "--class-images", 3)
        assert subject_is in asked
    with pytest.raises(UserError, match="has pictures of other words, subject"):
        measured(drawn, *arguments, "--model", TINY)
    with pytest.raises(UserError, match="has learned <it>, and --token sks is none"):
        measured(folder / "new", *arguments, "--model", TINY, "--embeds", tmp_path / "word.safetensors")


def test_the_benchmark_is_read_as_it_is_public(tmp_path, measured):
    """Thirty subjects there, two here; one of them is drawn. Live subjects have prompts of their own."""
    dataset = tmp_path / "dreambooth" / "dataset"
    for i in range(2):
        picture(i, dataset, f"bear_plushie/0{i}.jpg")
    (dataset / "prompts_and_classes.txt").write_text("""Classes

subject_name,class
bear_plushie,stuffed animal
dog2,dog

Prompts

Object Prompts

prompt_list = [
'a {0} {1} in the jungle'.format(unique_token, class_token),
'a red {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} wearing a hat'.format(unique_token, class_token)
]
""")
    subjects = fidelity.read_benchmark(tmp_path / "dreambooth")
    assert subjects["bear_plushie"] == (dataset / "bear_plushie", "stuffed animal", ["a {} in the jungle", "a red {}"])
    assert subjects["dog2"] == (dataset / "dog2", "dog", ["a {} wearing a hat"])
    for i, name in enumerate(("01-1.png", "02-1.png", "02-2.png")):
        picture(10 + i, tmp_path / "drawn" / "bear_plushie", name)
    found = measured(tmp_path / "drawn", "--benchmark", tmp_path / "dreambooth")["the mean of 1 subjects"]
    assert [len(found[name]) for name in fidelity.FIGURES] == [1, 1, 1, 0, 1]


@pytest.mark.parametrize("prompts, said", [
    ("a dog in the snow\n", 'once, where the subject is'), ("# nothing\n", "has no prompts"),
    ("a {} in the snow\na {} on a rug\na {} at night\n", 'no picture of prompt 3, "a {} at night"'),
])
def test_what_cannot_be_measured_is_refused(prompts, said, subject, measured):
    folder, arguments = subject
    (folder / "prompts.txt").write_text(prompts)
    with pytest.raises(UserError, match=said):
        measured(folder / "drawn", *arguments)


def test_so_is_half_a_request(subject, measured):
    folder, arguments = subject
    with pytest.raises(UserError, match="--images, --class-name and --prompts, or --benchmark"):
        measured(folder / "drawn", *arguments[:2])
    with pytest.raises(UserError, match="should be a clone"):
        measured(folder / "drawn", "--benchmark", folder)
