"""What comments and the README say is true: shapes, shared blocks, imports, commands, counts."""
import ast
import inspect
import math
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

import clip_text
import hyperdreambooth
import tiny_unet
import vae
from clip_text import CLIPText, CLIPTextConfig
from tiny_unet import UNet, UNetConfig
from vae import VAE, VAEConfig

CHAPTERS = ("ddpm", "tiny_unet", "clip_text", "vae", "checkpoint", "stable_diffusion")
METHODS = ("dreambooth", "textual_inversion", "attn_dreambooth", "hyperdreambooth")


# === shapes ===========================================================================================================

def shapes_said(cls):
    """The comment on a module's forward, as ([shape, ...], shape), each shape a list of expressions; None without one."""
    said = re.search(r"def forward\(.*\):\s+# (.+) -> (.+)", inspect.getsource(cls))
    shapes = lambda text: [shape.rstrip(",").split(", ") for shape in re.findall(r"\(((?:[^()]|\([^()]*\))*)\)", text)]
    return said and (shapes(said[1]), shapes(said[2])[0])


def holds(expressions, shape, letters):
    """Does a shape match what the comment says, given the sizes that its letters already have? Unknown letters get theirs."""
    assert len(expressions) == len(shape), (expressions, shape)
    for expression, size in zip(expressions, shape):
        expression = re.sub(r"^(\d)([a-z])", r"\1*\2", expression)
        if re.fullmatch(r"[a-z_]+", expression) and expression not in letters:
            letters[expression] = size
        assert math.isclose(eval(expression, {"ceil": math.ceil}, letters), size), (expression, size, letters)


def watched(network, run):
    """Runs a network and checks the shape comment of every module in it at each call; returns the classes that were checked."""
    checked = set()

    def check(module, inputs, output):
        said = shapes_said(type(module))
        letters = {}
        for expressions, x in zip(said[0], [x for x in inputs if isinstance(x, torch.Tensor)]):
            holds(expressions, x.shape, letters)
        if isinstance(inputs[-1], torch.Size):
            letters |= dict(zip(("y_to", "x_to"), inputs[-1]))
        holds(said[1], output.shape, letters)
        checked.add(type(module))

    hooks = [m.register_forward_hook(check) for m in network.modules() if type(m).__module__ in CHAPTERS + METHODS and shapes_said(type(m))]
    run()
    for hook in hooks:
        hook.remove()
    return checked


def commented(module):
    return {c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__
            and issubclass(c, torch.nn.Module) and "forward" in vars(c) and shapes_said(c)}


def test_the_shape_comments_are_true():
    """Every module with a shape comment runs at sizes that are pairwise different and not square, and the comment holds."""
    unet = UNet(UNetConfig(block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=24, norm_num_groups=8,
                           down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                           up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=2))
    run = lambda: unet(torch.randn(3, 4, 10, 14), torch.tensor([1, 2, 3]), torch.randn(3, 7, 24))
    assert watched(unet, run) == commented(tiny_unet) and len(commented(tiny_unet)) > 8
    auto = VAE(VAEConfig(block_out_channels=(8, 16), norm_num_groups=4))
    assert watched(auto, lambda: auto.decode(auto.encode(torch.randn(5, 3, 12, 20))[0])) == commented(vae)
    text = CLIPText(CLIPTextConfig(vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=3))
    assert watched(text, lambda: text(torch.randint(50, (3, 7)))) == commented(clip_text)
    hyper = hyperdreambooth.Hypernetwork(layers=5, payload=14, channels=4, side=16, width=32)
    assert watched(hyper, lambda: hyper(torch.randn(3, 4, 16, 16))) == commented(hyperdreambooth)


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


def test_run_time_needs_the_six_packages_and_nothing_else():
    allowed = {"torch", "numpy", "PIL", "tqdm", "safetensors", "huggingface_hub"}
    ours = {*CHAPTERS, *METHODS, "compare", "tiny_world"}
    for path in [*ROOT.glob("*.py"), *ROOT.glob("tiny_world/*.py")]:
        assert imports(path) - set(sys.stdlib_module_names) <= allowed | ours, path


def test_chapters_know_no_method_and_methods_not_each_other():
    for name in CHAPTERS:
        assert not imports(ROOT / f"{name}.py") & {*METHODS, "tiny_world"}, name
    for name in METHODS:
        assert not imports(ROOT / f"{name}.py") & set(METHODS), name


def test_what_every_method_shares_is_the_same_to_the_letter():
    mark = "# --- the same in every method script"
    files = {name: (ROOT / f"{name}.py").read_text("utf-8") for name in METHODS}
    assert len({text.split(mark)[1] for text in files.values()}) == 1
    for shared, scripts, variants in (("settings", 4, 1), ("precision", 4, 1), ("encode", 4, 1), ("read_with", 2, 1),
                                      ("square", 4, 2)):  # squares: in the middle, or anywhere
        found = [ast.get_source_segment(text, node) for text in files.values() for node in ast.parse(text).body
                 if isinstance(node, ast.FunctionDef) and node.name == shared]
        assert (len(found), len(set(found))) == (scripts, variants), shared


# === the README =======================================================================================================

def readme():
    return (ROOT / "README.md").read_text("utf-8")


def test_ci_runs_the_second_of_the_readmes_two_commands():
    first, second = re.findall(r"^    (python3 -m venv .*)$", readme(), re.M)[:2]
    assert first.endswith("python dreambooth.py") and second.endswith("python -m pytest")
    assert second in (ROOT / ".ci" / "run").read_text("utf-8")


def test_the_readme_names_files_that_exist_and_counts_their_lines():
    rows = re.findall(r"^\| `([a-z_/]+\.py)` \|.*\| (\d+) \|", readme(), re.M)
    assert {f"{name}.py" for name in (*CHAPTERS, *METHODS)} <= {name for name, _ in rows}
    for name, lines in rows:
        assert len((ROOT / name).read_text("utf-8").splitlines()) == int(lines), name


def test_every_command_has_help():
    for name in ("stable_diffusion", "compare", *METHODS):
        ended = subprocess.run([sys.executable, f"{name}.py", "-h"], cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == 0 and ended.stdout.startswith("usage:")
