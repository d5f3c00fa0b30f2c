"""Reads the weights of published networks: files whose SHA-256 is written in our source, and no others.

This is the one module that may call `torch.load` (a test says so): the files that the field has agreed on are of that
format. Two locks: the digest of the whole file is compared before a byte of it is parsed, and `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ganvas.errors import CheckpointError
from ganvas.files import one_line, read_bytes

MAX_BYTES = 2 * 2**30


def read_pinned(path: Path | str, sha256: str) -> dict[str, Tensor]:
    """Read the weights `path`, on the CPU: name -> tensor.

    `sha256` is that of the file, in 64 hex digits. A name that ends in .safetensors is read as such, any other as
    what `torch.save` writes. Links are followed, as package managers make them: the digest says what was found.

    Raises CheckpointError, one line that names the file: missing, above 2 GiB, another file, or not readable.
    """
    path = Path(path)
    data = read_bytes(path.resolve(), MAX_BYTES)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        what = f"{len(data):,} bytes with SHA-256 {found[:12]}..., not {sha256[:12]}..."
        raise CheckpointError(one_line(f"{path}: {what}: damaged or another file; fetch or install it again"))
    try:
        if path.suffix == ".safetensors":
            tensors = safetensors.torch.load(data)
        else:
            tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch lets pickle's and zip's errors through; the right file fails for no good reason
        raise CheckpointError(
            one_line(f"{path}: cannot be read by torch {torch.__version__} ({error})"[:300] + "; try another torch")
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CheckpointError(one_line(f"{path}: holds more than named tensors; use the weights alone"))
    return dict(tensors)
