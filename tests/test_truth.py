"""What comments and the README say is true: shapes, shared functions, imports, commands, flags, files."""
import ast
import importlib
import inspect
import math
import os
import re
import subprocess
import sys
from collections import defaultdict

import pytest
import torch
from conftest import ROOT

import clip_text
import hyperdreambooth
import tiny_unet
import vae
from clip_text import CLIPText, CLIPTextConfig
from stable_diffusion import StableDiffusion
from tiny_unet import UNet, UNetConfig
from vae import VAE, VAEConfig

GROUND = ("command", "files", "pictures", "optimizer")                        # the ground floor: nobody came to read it
PARTS = ("ddpm", "tiny_unet", "clip_text", "vae")
CHAPTERS = (*PARTS, "checkpoint", "lora_file", "single_file", "stable_diffusion")
METHODS = ("dreambooth", "lora_dreambooth", "textual_inversion", "attn_dreambooth", "hyperdreambooth")
SCRIPTS = (*METHODS, "learn_hypernetwork")                                    # those with a Config

LONGEST = 100      # columns of a line
DRAWING = 110      # the same of the code that draws the tiny world,
IN_TESTS = 120     # and of a test
DRAWS = ("pen", "live", "objects", "gear", "figures", "scenery", "styles", "draw")


def source(name):
    return (ROOT / f"{name}.py").read_text("utf-8")


# === shapes ===========================================================================================================

def shapes(text):
    """The shapes in a text, each a list of expressions."""
    return [shape.rstrip(",").split(", ") for shape in re.findall(r"\(((?:[^()]|\([^()]*\))*)\)", text)]


def shapes_said(cls):
    """The comment on a module's forward, as ([shape, ...], shape); None without one."""
    said = re.search(r"def forward\(.*\):\s+# (.+) -> (.+)", inspect.getsource(cls))
    return said and (shapes(said[1]), shapes(said[2])[0])


def holds(expressions, shape, letters):
    """Does a shape match what the comment says, given the sizes that its letters already have? Unknown ones get
    theirs."""
    assert len(expressions) == len(shape), (expressions, shape)
    for expression, size in zip(expressions, shape):
        expression = re.sub(r"^(\d)([a-z])", r"\1*\2", expression)
        if re.fullmatch(r"[a-z_]+", expression) and expression not in letters:
            letters[expression] = size
        assert math.isclose(eval(expression, {"ceil": math.ceil}, letters), size), (expression, size, letters)


def watched(network, run, **known):
    """Runs a network and checks the shape comment of every module in it at each call; returns the classes checked.
    known: letters that are sizes of the network itself."""
    checked = set()

    def check(module, inputs, output):
        said, letters = shapes_said(type(module)), dict(known)
        for expressions, x in zip(said[0], [x for x in inputs if isinstance(x, torch.Tensor)]):
            holds(expressions, x.shape, letters)
        if isinstance(inputs[-1], torch.Size):
            letters |= dict(zip(("y_to", "x_to"), inputs[-1]))
        holds(said[1], output.shape, letters)
        checked.add(type(module))

    ours = [m for m in network.modules() if type(m).__module__ in (*CHAPTERS, *SCRIPTS) and shapes_said(type(m))]
    hooks = [module.register_forward_hook(check) for module in ours]
    run()
    for hook in hooks:
        hook.remove()
    return checked


def commented(module):
    return {c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__
            and issubclass(c, torch.nn.Module) and "forward" in vars(c) and shapes_said(c)}


@pytest.mark.parametrize("c", [4, 6])
def test_the_shape_comments_are_true(c):
    """Every module with a shape comment runs at sizes that are pairwise different and not square, and the comment
    holds: for latents of four channels, Stable Diffusion's, and of another number."""
    unet = UNet(UNetConfig(block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=24, norm_num_groups=8,
                           down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), in_channels=c, out_channels=c,
                           up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=2))
    run = lambda: unet(torch.randn(3, c, 10, 14), torch.tensor([1, 2, 3]), torch.randn(3, 7, 24))
    assert watched(unet, run) == commented(tiny_unet) and len(commented(tiny_unet)) > 8
    auto = VAE(VAEConfig(block_out_channels=(8, 16), norm_num_groups=4, latent_channels=c))
    assert watched(auto, lambda: auto.decode(auto.encode(torch.randn(5, 3, 12, 20))[0])) == commented(vae)
    text = CLIPText(CLIPTextConfig(vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=1,
                                   num_attention_heads=3))
    assert watched(text, lambda: text(torch.randint(50, (3, 7)))) == commented(clip_text)
    hyper = hyperdreambooth.Hypernetwork(layers=5, payload=14, channels=c, side=16, width=32)
    assert watched(hyper, lambda: hyper(torch.randn(3, c, 16, 16)), a=10, b=4) == commented(hyperdreambooth)


@pytest.mark.parametrize("c", [4, 6])
def test_what_the_autoencoder_says_of_its_shapes_is_true(c):
    """In the docstrings of encode and decode, with and without the scaling."""
    auto = VAE(VAEConfig(block_out_channels=(8, 16, 16), norm_num_groups=4, latent_channels=c))
    sd, x = StableDiffusion(None, None, None, auto), torch.randn(5, 3, 12, 20)
    z = auto.encode(x)[0]
    for function, given, made, letters in ((auto.encode, x, z, {"c": c}), (sd.decode, z, sd.decode(z), {}),
                                           (auto.decode, z, auto.decode(z), {"y": 12, "x": 20})):
        before, after = function.__doc__.split("->")
        letters |= {"f": auto.factor}
        holds(shapes(before)[0], given.shape, letters)
        holds(shapes(after)[0], made.shape, letters)


def test_no_comment_says_that_latents_have_four_channels():
    """They are c wide: the tiny world's have eight."""
    for name in (*CHAPTERS, *SCRIPTS):
        assert not re.search(r"\(\w+, [48], y, x", source(name)), name


def test_a_wrong_shape_comment_would_be_found():
    with pytest.raises(AssertionError):
        holds(["b", "c", "x", "y"], (2, 3, 5, 7), {"b": 2, "c": 3, "y": 5, "x": 7})
    with pytest.raises(AssertionError):
        holds(["b", "y/2"], (2, 5), {"b": 2, "y": 8})


# === who imports whom =================================================================================================

def imports(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[0] for a in node.names}
        if isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names


OURS = {path.stem for path in ROOT.glob("*.py")} | {"tiny_world"}


def test_run_time_needs_the_six_packages_and_nothing_else():
    allowed = {"torch", "numpy", "PIL", "tqdm", "safetensors", "huggingface_hub"}
    for path in [*ROOT.glob("*.py"), *ROOT.glob("tiny_world/*.py")]:
        assert imports(path) - set(sys.stdlib_module_names) <= allowed | OURS, path


# What a file may import of ours. The parts know nothing of each other, a chapter no method, a method no other one
# but for what it begins with (LoRA with DreamBooth's loss, HyperDreamBooth with a LoRA), and none of them the tiny
# world's code: that is the comparison's.
MAY_IMPORT = {
    "files": (), "command": ("files",), "pictures": ("files",), "optimizer": (),
    **dict.fromkeys(PARTS, ()), "checkpoint": ("files", *PARTS), "lora_file": ("files",),
    "single_file": ("files", *PARTS, "checkpoint"),
    "stable_diffusion": (*GROUND, *PARTS, "checkpoint", "lora_file", "single_file"),
    **dict.fromkeys(METHODS, (*GROUND, *CHAPTERS)), "lora_dreambooth": (*GROUND, *CHAPTERS, "dreambooth"),
    "hyperdreambooth": (*GROUND, *CHAPTERS, "lora_dreambooth"), "thetas": (*GROUND, "hyperdreambooth"),
    "learn_hypernetwork": (*GROUND, *CHAPTERS, "hyperdreambooth", "thetas"),
    "exercises": ("command", "files"), "tables": (), "claims": ("tables",),
    "measure": (*GROUND, *CHAPTERS, "tiny_world"),
    "compare": (*GROUND, *CHAPTERS, *METHODS, "measure", "tables", "claims", "tiny_world"),
    "vit": (*GROUND, "clip_text", "checkpoint"), "fidelity": (*GROUND, *CHAPTERS, "vit", "tables"),
}


def test_every_file_imports_only_what_lies_below_it():
    assert MAY_IMPORT.keys() == OURS - {"tiny_world"}, "a new file has its place among the others"
    for name, below in MAY_IMPORT.items():
        assert imports(ROOT / f"{name}.py") & OURS <= {*below}, name


def test_the_tiny_world_knows_no_method():
    for path in ROOT.glob("tiny_world/*.py"):
        assert imports(path) & OURS <= {*GROUND, *CHAPTERS, "tiny_world"}, path


# === what stands in several files =====================================================================================

def same_names():
    """{function: {script: its text}}, of those that several scripts have."""
    found = defaultdict(dict)
    for script in SCRIPTS:
        text = source(script)
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef):
                found[node.name][script] = ast.get_source_segment(text, node)
    return {name: texts for name, texts in found.items() if len(texts) > 1}


def test_two_methods_have_the_same_frame_and_nothing_else_twice():
    """Only a script's frame is its own: what is refused, what a step is, what is drawn and told."""
    assert same_names().keys() == {"prepare", "train", "draw_prompts", "main"}
    drawn = same_names()["draw_prompts"]
    assert drawn["dreambooth"] == drawn["attn_dreambooth"]


def test_every_script_has_the_same_frame():
    """So that the difference between two scripts is that between two papers."""
    for script in SCRIPTS:
        names = [node.name for node in ast.parse(source(script)).body if isinstance(node, ast.FunctionDef)]
        assert names.index("prepare") < names.index("train") < names.index("main") == len(names) - 1, script
        assert source(script).endswith("    run(lambda: main(parse_flags(Config, __doc__, SETTINGS)))\n"), script


# === lines ============================================================================================================

@pytest.mark.parametrize("path", [*ROOT.glob("*.py"), *ROOT.glob("tiny_world/*.py"), *ROOT.glob("tests/*.py")],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_no_line_is_longer_than_a_page_is_wide(path):
    most = IN_TESTS if path.parent.name == "tests" else DRAWING if path.stem in DRAWS else LONGEST
    lines = enumerate(path.read_text("utf-8").splitlines(), 1)
    assert {number: len(line) for number, line in lines if len(line) > most} == {}


# === commands =========================================================================================================

def help_of(*command):
    """What -h says, without line breaks."""
    ended = subprocess.run([sys.executable, *command, "-h"], cwd=ROOT, capture_output=True, text=True,
                           env=os.environ | {"COLUMNS": "10000"})
    assert ended.returncode == 0 and ended.stdout.startswith("usage:"), ended.stderr
    return " ".join(ended.stdout.split())


@pytest.mark.parametrize("name", [*SCRIPTS, "tiny_world/pretrain"])
def test_help_says_of_every_flag_what_the_config_says_of_its_field(name):
    told = help_of("-m", name.replace("/", "."))
    [config] = [node for node in ast.parse(source(name)).body if getattr(node, "name", "") == "Config"]
    lines = source(name).splitlines()[config.lineno:config.end_lineno]
    comments = [line.split("  # ")[1].strip() for line in lines if "  # " in line]
    assert len(comments) >= 10 and [comment for comment in comments if comment not in told] == []
    for field in config.body:
        assert f"--{field.target.id.replace('_', '-')}" in told


@pytest.mark.parametrize("name, flag", [("stable_diffusion", "--seed"), ("compare", "--subjects")])
def test_the_other_commands_have_help_too(name, flag):
    assert flag in help_of(f"{name}.py")


# === the README =======================================================================================================

def readme():
    return (ROOT / "README.md").read_text("utf-8")


def test_ci_runs_the_second_of_the_readmes_two_commands():
    first, second = re.findall(r"^    (python3 -m venv .*)$", readme(), re.M)[:2]
    assert first.endswith("python dreambooth.py") and second.endswith("python -m pytest")
    assert second in (ROOT / ".ci" / "run").read_text("utf-8")


def test_the_readme_names_every_file_and_none_that_is_not_there():
    named = set(re.findall(r"`([\w/]+\.py)`", readme()))
    assert {path.name for path in ROOT.glob("*.py")} <= named
    assert [name for name in named if not (ROOT / name).exists() and not (ROOT / "notebooks" / name).exists()] == []


def test_the_flags_that_stand_beside_others_are_there():
    """FLAGS.md: what the second column names, the scripts have."""
    lines = (ROOT / "FLAGS.md").read_text("utf-8").split("\n")
    rows = [line.split(" | ") for line in lines if line.startswith("| ")][1:]
    named = {flag for _, ours, *_ in rows for flag in re.findall(r"`--([\w-]+)", ours)}
    configs = [importlib.import_module(name).Config for name in SCRIPTS]
    fields = {field.replace("_", "-") for config in configs for field in config.__annotations__}
    assert len(rows) > 30 and named - fields == set()


@pytest.mark.parametrize("page", ["README.md", "RESULTS.md", "CONTRIBUTING.md", "FLAGS.md", "EXERCISES.md",
                                  "RECIPES.md", "tiny_world/README.md"])
def test_every_link_of_a_page_leads_somewhere(page):
    """To a file of the project; what is elsewhere cannot be asked here."""
    links = re.findall(r"\]\(([^)#\s]+)\)", (ROOT / page).read_text("utf-8"))
    ours = [link for link in links if not link.startswith("http")]
    assert [link for link in ours if not (ROOT / page).parent.joinpath(link).exists()] == []
