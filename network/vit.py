"""The vision transformers of DINOv2 with patches of 14 pixels ("DINOv2", arXiv:2304.07193; ViT: arXiv:2010.11929).

The keys equal those of the published files (`dinov2_vits14_pretrain.pth`), as timm's do; Hugging Face's are renamed.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network.blocks import Trunk

PATCH = 14  # pixels
TABLE = 37  # the position table's rows and columns: images of 518 pixels
HEAD_WIDTH = 64  # channels of an attention head
NORM_EPS = 1e-6


class LayerScale(nn.Module):
    """A factor per channel (arXiv:2103.17239)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, N, width]."""
        return x * self.gamma


class Attention(nn.Module):
    """Self-attention with several heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, N, width]."""
        q, k, v = self.qkv(x).unflatten(2, (3, -1, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)  # each [B, heads, N, HEAD_WIDTH]
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention, then two layers for each token, each normalised before, scaled after, and with a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        layers = {"fc1": nn.Linear(width, 4 * width), "act": nn.GELU(), "fc2": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ls2 = LayerScale(width)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, N, width]."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """Maps after every quarter of the blocks, normalised: images [B, 3, H, W] -> four times [B, width, H / 14, W / 14].

    H and W must be multiples of 14.
    """

    def __init__(self, width: int, depth: int = 12) -> None:
        super().__init__()
        # Attribute names, and their order, are keys of published files. Renaming breaks loading.
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TABLE**2, width))
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, width, PATCH, PATCH)))
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        for parameter in (self.cls_token, self.pos_embed, *(m.weight for m in self.modules() if type(m) is nn.Linear)):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, images: Tensor) -> list[Tensor]:
        """`images`: [B, 3, H, W], normalised."""
        patches = self.patch_embed(images)
        rows, columns = patches.shape[2:]
        # In float32 under autocast too: sums over many blocks lose too much in 8 bits.
        x = patches.flatten(2).transpose(1, 2) + self.position_table(rows, columns)
        first = self.cls_token + self.pos_embed[:, :1]
        x = torch.cat([first.expand(x.shape[0], -1, -1), x], 1)  # an exported file's batch has any length
        maps = []
        for number, block in enumerate(self.blocks, 1):
            x = block(x)
            if 4 * number % len(self.blocks) == 0:
                maps.append(self.norm(x)[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)))
        return maps

    def position_table(self, rows: int, columns: int) -> Tensor:
        """The positions of the patches, resized bicubically: [1, rows * columns, width].

        As Hugging Face does it; the published code's are shifted by up to a tenth of a patch.
        """
        table = self.pos_embed[:, 1:]
        if (rows, columns) == (TABLE, TABLE):
            return table
        if torch.compiler.is_exporting():  # ONNX Runtime resizes no float64
            grid = F.interpolate(table.mT.unflatten(2, (TABLE, TABLE)), (rows, columns), mode="bicubic")
            return grid.flatten(2).mT
        # A compiler passes over the cache anyway, and warns of it.
        matrix = bicubic_matrix.__wrapped__ if torch.compiler.is_compiling() else bicubic_matrix
        grid = table[0].double().unflatten(0, (TABLE, TABLE))  # autocast would round what is not float64
        grid = torch.tensordot(matrix(rows, table.device), grid, 1)
        grid = torch.matmul(matrix(columns, table.device), grid)
        return grid.to(table.dtype).flatten(0, 1)[None]


@cache  # resizing itself would take its time in each step, and its gradient on a GPU is not reproducible
def bicubic_matrix(length: int, device: torch.device) -> Tensor:
    """The matrix [length, TABLE] float64 that resizes the table along one side."""
    with torch.inference_mode(False), torch.no_grad():  # what evaluation makes first, training uses too
        one_side = torch.eye(TABLE, dtype=torch.float64, device=device)[None, None]
        return F.interpolate(one_side, (length, TABLE), mode="bicubic")[0, 0]


def vision_transformer(width: int) -> Trunk:
    """DINOv2's ViT-S/14 (width 384) and ViT-B/14 (768)."""
    backbone = VisionTransformer(width)
    blocks = [f"blocks.{number}" for number in range(len(backbone.blocks))]
    published = ("cls_token", "mask_token", "pos_embed", "patch_embed.", "blocks.", "norm.")
    return Trunk(
        modules={"backbone": backbone},
        stages=tuple(f"backbone.{part}" for part in ("patch_embed", *blocks, "norm")),
        out_channels=width,
        published_keys={key: f"backbone.{key}" for key in published},
        unify_keys=unify_keys,
    )


# Hugging Face's names, of files and of networks in memory -> the published ones.
HUGGING_FACE_KEYS = (
    (r"embeddings\.(cls_token|mask_token)", r"\1"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"attention\.(output\.dense|o_proj)\.", "attn.proj."),
    (r"attention\.(attention\.)?(q|k|v)(uery|ey|alue|_proj)\.", r"attn.\2."),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
    (r"layernorm\.", "norm."),
)


def unify_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's tensors of a DINOv2 trunk, also from an ONNX file, as published; published ones as they are.

    Raises ValueError for a trunk with register tokens, which is another one.
    """
    found: dict[str, Tensor] = {}
    for key, value in tensors.items():
        for theirs, ours in HUGGING_FACE_KEYS:
            key = re.sub(theirs, ours, key)
        found[key] = value
    if any("register_tokens" in key for key in found):
        raise ValueError('the file\'s trunk has register tokens ("reg4"); take the one without them.')
    for key in [key for key in found if "attn.q." in key]:
        names = [key.replace("attn.q.", f"attn.{part}.") for part in "qkv"]
        if found.keys() >= set(names):
            found[key.replace("attn.q.", "attn.qkv.")] = torch.cat([found.pop(name) for name in names])
    # An exporter splits the position table, and gives its parts names of its own.
    parts = [found.pop(key) for key in list(found) if key.startswith("onnx::") and found[key].ndim == 3]
    if parts:
        prefix = next((key.removesuffix("cls_token") for key in found if key.endswith("cls_token")), "")
        found[f"{prefix}pos_embed"] = torch.cat(sorted(parts, key=lambda part: part.shape[1]), 1)
    return found
