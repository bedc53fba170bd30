"""The chapters' networks are those of diffusers and transformers: same numbers out, same gradients, same names and
counts.

The reference is built by its own library with random weights and saved by its own save_pretrained; ours loads that
folder."""
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig as ReferenceTextConfig
from transformers import CLIPTextModel

from clip_text import CLIPText, CLIPTextConfig
from checkpoint import load_module, read_config, read_weights
from tiny_unet import UNet, UNetConfig
from vae import VAE, VAEConfig

WIDTHS = dict(block_out_channels=(16, 32, 64, 64), cross_attention_dim=24, norm_num_groups=8, sample_size=16)
UNETS = {
    "sd15": dict(WIDTHS, attention_head_dim=8),
    "sd21": dict(WIDTHS, attention_head_dim=(1, 2, 4, 4), use_linear_projection=True),
    "bk_small": dict(WIDTHS, layers_per_block=1, mid_block_type=None),
    "bk_tiny": dict(WIDTHS, block_out_channels=(16, 32, 64), layers_per_block=1, mid_block_type=None,
                    down_block_types=("CrossAttnDownBlock2D",) * 3, up_block_types=("CrossAttnUpBlock2D",) * 3),
    "words_below": dict(WIDTHS, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=2,
                        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D")),
}
TEXTS = {
    "sd15": dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
                 hidden_act="quick_gelu"),
    "sd21": dict(hidden_size=48, intermediate_size=96, num_hidden_layers=5, num_attention_heads=3, hidden_act="gelu"),
}


def load(module, config, folder, stem):
    with torch.device("meta"):
        built = module(read_config(config, folder / "config.json"))
    return load_module(built, read_weights(folder, stem), folder)


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def close_with_gradients(ours, reference, run_ours, run_reference, inputs):
    """Outputs and the gradients of all inputs and parameters agree: in fp32 to 1e-5 of the largest entry, and each
    tensor by itself to 1e-9 in fp64, where rounding cannot hide or fake a difference."""
    mine, names = dict(ours.named_parameters()), dict(reference.named_parameters())
    match = {n: n if n in mine else "text_model." + n for n in names}
    assert set(match.values()) == mine.keys()
    for dtype in (torch.float32, torch.float64):
        ours.to(dtype), reference.to(dtype)
        x = [i.detach().to(dtype).requires_grad_() for i in inputs]
        a, b = run_ours(*x), run_reference(*x)
        probe = torch.randn(b.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        got = torch.autograd.grad((a * probe).sum(), [*x, *(mine[m] for m in match.values())])
        want = torch.autograd.grad((b * probe).sum(), [*x, *names.values()])
        if dtype == torch.float32:
            largest = max(w.abs().max() for w in want)
            assert relative(a, b) < 1e-5
            assert max((g - w).abs().max() for g, w in zip(got, want)) < 1e-5 * largest
        else:
            assert relative(a, b) < 1e-9
            # a key's bias has no effect on a softmax: its gradient is zero but for rounding, hence the floor
            assert max((g - w).abs().max() / max(w.abs().max(), 1e-6 * largest) for g, w in zip(got, want)) < 1e-9


@pytest.mark.parametrize("kind", UNETS)
@pytest.mark.parametrize("size", [(8, 24), (11, 18)])
def test_unet_and_its_gradients_are_those_of_diffusers(kind, size, tmp_path):
    """Also at sizes that do not halve evenly, where the way up must meet the skips' sizes."""
    torch.manual_seed(0)
    reference = UNet2DConditionModel(**UNETS[kind])
    reference.save_pretrained(tmp_path)
    ours = load(UNet, UNetConfig, tmp_path, "diffusion_pytorch_model")
    x = torch.randn(3, 4, *size)
    words = torch.randn(3, 7, 24)
    t = torch.tensor([0, 400, 999])
    close_with_gradients(ours, reference, lambda x, w: ours(x, t, w), lambda x, w: reference(x, t, w).sample,
                         [x, words])


@pytest.mark.parametrize("old_names", [False, True])
def test_vae_and_its_gradients_are_those_of_diffusers(old_names, tmp_path):
    """Encode and decode; also from a file with the attention names that public VAEs carry."""
    torch.manual_seed(0)
    reference = AutoencoderKL(block_out_channels=(8, 16, 24), layers_per_block=2, norm_num_groups=4, sample_size=32,
                              down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3)
    reference.save_pretrained(tmp_path)
    if old_names:
        file = tmp_path / "diffusion_pytorch_model.safetensors"
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        tensors = load_file(file)
        for new, name in old.items():
            tensors = {n.replace(new, name): t for n, t in tensors.items()}
        save_file(tensors, file)
    ours = load(VAE, VAEConfig, tmp_path, "diffusion_pytorch_model")
    noise = torch.randn(3, 4, 4, 10)

    def through_ours(x):
        mean, std = ours.encode(x)
        return ours.decode(mean + std * noise.to(x))

    def through_reference(x):
        q = reference.encode(x).latent_dist
        return reference.decode(q.mean + q.std * noise.to(x)).sample

    x = torch.randn(3, 3, 16, 40)
    close_with_gradients(ours, reference, through_ours, through_reference, [x])


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("style", ["prefixed", "flat", "position_ids"])
def test_text_encoder_and_its_gradients_are_those_of_transformers(kind, style, tmp_path):
    """With and without the prefix text_model., and with the buffer of positions that old files carry."""
    torch.manual_seed(0)
    reference = CLIPTextModel(ReferenceTextConfig(vocab_size=100, max_position_embeddings=13, eos_token_id=99,
                                                  **TEXTS[kind]))
    reference.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {n.removeprefix("text_model."): t for n, t in load_file(file).items()}
    if style != "flat":
        tensors = {"text_model." + n: t for n, t in tensors.items()}
    if style == "position_ids":
        tensors["text_model.embeddings.position_ids"] = torch.arange(13)[None]
    save_file(tensors, file)
    ours = load(CLIPText, CLIPTextConfig, tmp_path, "model")
    ids = torch.randint(100, (3, 11))
    close_with_gradients(ours, reference, lambda: ours(ids), lambda: reference(ids).last_hidden_state, [])
    vectors = ours.table(ids)
    assert (ours(ids) - ours(ids, vectors=vectors)).abs().max() == 0


def test_the_written_out_attention_equals_the_fast_one():
    """Asking for the maps changes the arithmetic, not the result; each position's gaze sums to one."""
    torch.manual_seed(0)
    unet = UNet(UNetConfig(**UNETS["sd15"]))
    x, t, words, maps = torch.randn(2, 4, 8, 12), torch.tensor([3, 900]), torch.randn(2, 7, 24), []
    assert relative(unet(x, t, words, maps), unet(x, t, words)) < 1e-5
    assert len(maps) == 16 and maps[0].shape == (2, 8, 96, 7)
    assert all((m.sum(-1) - 1).abs().max() < 1e-5 for m in maps)


def test_checkpointing_changes_memory_and_not_gradients():
    torch.manual_seed(0)
    unet = UNet(UNetConfig(**UNETS["bk_small"]))
    x, t, words = torch.randn(2, 4, 8, 8), torch.tensor([3, 900]), torch.randn(2, 7, 24)
    gradients = []
    for unet.checkpointing in (False, True):
        maps = []  # a loss may use them too, as AttnDreamBooth's does
        loss = unet(x, t, words, maps).square().sum() + sum(m.square().sum() for m in maps)
        layers = len(maps)
        gradients.append(torch.autograd.grad(loss, list(unet.parameters())))
        assert len(maps) == layers == 9
    assert all((a - b).abs().max() == 0 for a, b in zip(*gradients))


SD21 = dict(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True)
BK = dict(layers_per_block=1, mid_block_type=None, cross_attention_dim=768)
BK_TINY = UNETS["bk_tiny"] | dict(block_out_channels=(320, 640, 1280), norm_num_groups=32, cross_attention_dim=768,
                                  sample_size=64)
FULL = {  # ours, the reference, parameters
    "sd15 unet": (lambda: UNet(), lambda: UNet2DConditionModel(cross_attention_dim=768), 859_520_964),
    "sd21 unet": (lambda: UNet(UNetConfig(**SD21)), lambda: UNet2DConditionModel(**SD21), 865_910_724),
    "bk small unet": (lambda: UNet(UNetConfig(**BK)), lambda: UNet2DConditionModel(**BK), 482_346_884),
    "bk tiny unet": (lambda: UNet(UNetConfig(**BK_TINY)), lambda: UNet2DConditionModel(**BK_TINY), 323_384_964),
    "vae": (lambda: VAE(), lambda: AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4), 83_653_863),
    "sd15 text": (lambda: CLIPText(), lambda: CLIPTextModel(ReferenceTextConfig(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12)), 123_060_480),
    "sd21 text": (lambda: CLIPText(CLIPTextConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23,
                                                  num_attention_heads=16, hidden_act="gelu")),
                  lambda: CLIPTextModel(ReferenceTextConfig(
                      hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16,
                      hidden_act="gelu")), 340_387_840),
}


@pytest.mark.parametrize("name", FULL)
def test_names_shapes_and_counts_at_full_size(name):
    """Without allocating a weight: every tensor of the public model has its place, and there is none besides."""
    ours, reference, count = FULL[name]
    with torch.device("meta"):
        a, b = ours().state_dict(), reference().state_dict()

    def shapes(state):
        return {name.removeprefix("text_model."): tuple(tensor.shape) for name, tensor in state.items()
                if "position_ids" not in name}
    assert shapes(a) == shapes(b)
    assert sum(t.numel() for t in a.values()) == count
