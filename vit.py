"""Vision transformers: from a picture to one vector that says what it shows, and CLIP's, which says
it in the same space as a sentence does.

    picture --Patches--> 196 squares of 16 x 16 pixels, each a vector, and one vector in front that
            --layers---> looks at all others: in the end it is the picture's, 384 numbers

A patch is to this network what a token is to the text encoder, and the layers are the same, only
that each patch sees all others (Dosovitskiy et al. 2021, figure 1). How it was trained is what it
sees: DINO was asked to recognise a picture by a crop of it, without any words, so its vectors tell
one dog from another (Caron et al. 2021); CLIP was asked which caption belongs to which picture, so
its vectors tell what is said of a dog (Radford et al. 2021). The papers measure likeness with both,
obedience with CLIP: see fidelity.py.

Letters in the shape comments, the same in every file: see tiny_unet.py; l counts patches here, and
the one in front.

    ViTConfig()                  DINO's ViT-S/16                    21,665,664 parameters
    CLIP ViT-B/32, ViT-L/14      picture and words, by their files  151,277,313 and 427,616,513

Not here: pictures of other sizes than those it was trained on, the training.
"""
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from checkpoint import load_module
from clip_text import CLIPLayer, CLIPText, CLIPTextConfig, Tokenizer
from files import UserError, load_tensors, read_json, shown
from pictures import to_tensor


@dataclass(frozen=True)
class ViTConfig:
    """config.json. The defaults are those of DINO's ViT-S/16."""
    hidden_size: int = 384
    intermediate_size: int = 1536
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    image_size: int = 224
    patch_size: int = 16
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    causal = False      # a patch sees all others
    of_clip = False     # patches without a bias, one normalisation more before the first layer


@dataclass(frozen=True)
class CLIPVisionConfig(ViTConfig):
    """The part "vision_config" of config.json. The defaults are those of ViT-B/32."""
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    of_clip = True


# === the network ==================================================================================

class Patches(nn.Module):
    """Cuts the picture up, and says of each patch where it was. A convolution that moves by its own
    size is a linear layer on each patch."""

    def __init__(self, config):
        super().__init__()
        d, p = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.zeros(d))
        self.patch_embedding = nn.Conv2d(3, d, p, stride=p, bias=not config.of_clip)
        self.position_embedding = nn.Embedding(1 + (config.image_size // p) ** 2, d)

    def forward(self, x):  # (b, 3, y, x) -> (b, l, d)
        patches = self.patch_embedding(x).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(x), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class ViT(nn.Module):
    """The names of its parts are CLIP's, "layrnorm" too."""

    def __init__(self, config=ViTConfig()):
        super().__init__()
        self.config = config
        d, eps = config.hidden_size, config.layer_norm_eps
        self.embeddings = Patches(config)
        if config.of_clip:
            self.pre_layrnorm = nn.LayerNorm(d, eps)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(
            [CLIPLayer(config) for _ in range(config.num_hidden_layers)])
        self.post_layernorm = nn.LayerNorm(d, eps)

    def forward(self, x):  # (b, 3, y, x) -> (b, d)
        x = self.embeddings(x)
        if self.config.of_clip:
            x = self.pre_layrnorm(x)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.post_layernorm(x[:, 0])


class CLIP(CLIPText):
    """The text encoder, a vision transformer beside it, and a linear map from each into the space
    that they share."""

    def __init__(self, text, vision, width):
        super().__init__(text)
        self.vision_model = ViT(vision)
        self.visual_projection = nn.Linear(vision.hidden_size, width, bias=False)
        self.text_projection = nn.Linear(text.hidden_size, width, bias=False)
        self.logit_scale = nn.Parameter(torch.zeros(()))  # of the training's softmax

    def encode_image(self, x):  # (b, 3, y, x) -> (b, width)
        return self.visual_projection(self.vision_model(x))

    def encode_text(self, ids):  # (b, l) -> (b, width)
        """The vector of the end token, the only one that has seen the whole sentence."""
        end = ids.argmax(1)  # the highest id; of several, the first
        return self.text_projection(self(ids)[torch.arange(len(ids)), end])


# === pictures to vectors ==========================================================================

# The shorter side before the middle is cut out; mean and deviation of the channels in [0, 1].
# AS_DINO reproduces DreamBooth's figures; the public DINO's own files say something else.
SIZE = 224
AS_DINO = {"side": 256, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
AS_CLIP = {"side": 224, "mean": (0.48145466, 0.4578275, 0.40821073),
           "std": (0.26862954, 0.26130258, 0.27577711)}


def preprocess(picture, side, mean, std):
    """A picture's middle, (3, SIZE, SIZE)."""
    short = min(picture.size)
    sides = [side if length == short else length * side // short for length in picture.size]
    left, top = [(length - SIZE) // 2 for length in sides]
    picture = picture.resize(sides, Image.Resampling.BICUBIC)
    x = to_tensor(picture.crop((left, top, left + SIZE, top + SIZE))) / 2 + 0.5
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@torch.no_grad()
def look(network, pictures, how, batch=16):
    """PIL pictures to vectors of length 1, (pictures, d). how: AS_DINO or AS_CLIP."""
    vectors = []
    for i in range(0, len(pictures), batch):
        x = [preprocess(picture, **how) for picture in pictures[i:i + batch]]
        vectors.append(F.normalize(network(torch.stack(x)), dim=1))
    return torch.cat(vectors)


# === from files ===================================================================================

# Where the hub has a model as a pickle only: the same weights, safely.
SAFE_COPIES = {
    "facebook/dino-vits16": "timm/vit_small_patch16_224.dino",
    "openai/clip-vit-base-patch32": "sentence-transformers/clip-ViT-B-32/0_CLIPModel",
}

# What a short config.json leaves out of "text_config": ViT-B/32's.
SHORT_TEXT_CONFIG = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}

OF_TRANSFORMERS = {  # the names of transformers' ViT -> those here
    "cls_token": "class_embedding", "patch_embeddings.projection": "patch_embedding",
    "position_embeddings": "position_embedding.weight", "encoder.layer.": "encoder.layers.",
    "attention.attention.query": "self_attn.q_proj", "attention.attention.key": "self_attn.k_proj",
    "attention.attention.value": "self_attn.v_proj", "attention.output.dense": "self_attn.out_proj",
    "layernorm_before": "layer_norm1", "layernorm_after": "layer_norm2",
    "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2", "layernorm.": "post_layernorm.",
}
OF_TIMM = {  # the names of timm's VisionTransformer, as DINO's own
    "cls_token": "embeddings.class_embedding", "patch_embed.proj": "embeddings.patch_embedding",
    "pos_embed": "embeddings.position_embedding.weight", "blocks.": "encoder.layers.",
    "attn.proj": "self_attn.out_proj", "norm1": "layer_norm1", "norm2": "layer_norm2",
    "norm.": "post_layernorm.",
}


def fetch(name):
    """A folder here, or owner/name or owner/name/folder on the hub: of that the files that are
    read."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import errors, snapshot_download
    owner, *rest = str(name).split("/")
    folder = "/".join(rest[1:])
    wanted = ["config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer.json",
              "tokenizer_config.json", "special_tokens_map.json"]
    try:
        place = snapshot_download("/".join([owner, *rest[:1]]), allow_patterns=[
            f"{folder}/{file}" if folder else file for file in wanted])
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{name} is no folder here, and the hub does not give it "
                        f"({reason})") from None
    return Path(place) / folder


def read_folder(name):
    """A folder's config.json, all its tensors, and where it is."""
    folder = fetch(name)
    if not (folder / "model.safetensors").exists():
        copy = SAFE_COPIES.get(str(name))
        hint = f": {copy} has the same weights" if copy else ""
        raise UserError(f"{name} has no model.safetensors, and pickles are not loaded{hint}")
    return read_json(folder / "config.json"), load_tensors(folder / "model.safetensors"), folder


def pick(config, values, where):
    """A Config with what a config.json says of its fields."""
    picked = {}
    for field in fields(config):
        value = values.get(field.name, field.default)
        if type(value) is not field.type:
            raise UserError(f'{where}: "{field.name}" is {shown(value)}')
        picked[field.name] = value
    if picked.get("image_size", SIZE) != SIZE:
        raise UserError(f"{where} looks at pictures of {picked['image_size']} pixels; this code "
                        f"knows {SIZE}")
    return config(**picked)


def rename(name, names):
    """A tensor's name with all that stands in `names` replaced, in that order."""
    for old, new in names.items():
        name = name.replace(old, new)
    return name


def split_qkv(tensors):
    """timm has query, key and value in one matrix, one below another."""
    split = {}
    for name, tensor in tensors.items():
        if ".attn.qkv." in name:
            for part, third in zip("qkv", tensor.chunk(3)):
                split[name.replace("attn.qkv", f"self_attn.{part}_proj")] = third
        else:
            split[name] = tensor
    return split


def load_dino(name):
    """The ViT of a folder or a name on the hub, in the names of transformers or of timm."""
    values, tensors, _ = read_folder(name)
    if values.get("model_type") == "vit":
        config, names = pick(ViTConfig, values, name), OF_TRANSFORMERS
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith("pooler.")}
    elif values.get("architecture") == "vit_small_patch16_224":  # timm's says no more than that
        config, names, tensors = ViTConfig(), OF_TIMM, split_qkv(tensors)
    else:
        kind = values.get("model_type") or values.get("architecture")
        raise UserError(f"{name} is no ViT that this code knows: its config.json says "
                        f"{shown(kind)}")
    with torch.device("meta"):  # no memory yet: the file's own tensors will be the weights
        network = nn.Module()
        network.vision_model = ViT(config)
    tensors = {f"vision_model.{rename(key, names)}": tensor for key, tensor in tensors.items()}
    return load_module(network, tensors, name).vision_model.float().eval()


def load_clip(name):
    """The CLIP of a folder or a name on the hub, and its tokenizer."""
    values, tensors, folder = read_folder(name)
    if values.get("model_type") != "clip":
        kind = values.get("model_type")
        raise UserError(f"{name} is no CLIP: its config.json says {shown(kind)}")
    text = pick(CLIPTextConfig, SHORT_TEXT_CONFIG | values.get("text_config", {}), name)
    vision = pick(CLIPVisionConfig, values.get("vision_config", {}), name)
    with torch.device("meta"):
        clip = CLIP(text, vision, values.get("projection_dim", 512))
    return load_module(clip, tensors, name).float().eval(), Tokenizer.load(folder)
