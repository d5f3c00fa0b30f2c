"""Tensors in one file: the safetensors format, read as hostile input, so that a file can hold data and never code.

The format (safetensors 0.x): 8 bytes little-endian header length n, n bytes of JSON that map each name to dtype, shape
and [begin, end) in the data, then the data. Everything is checked on the header before the data is read.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import safetensors.torch
import torch
from torch import Tensor

from ganvas.errors import CheckpointError, TrainingError
from ganvas.files import decode_json, one_line, open_regular

Expected: TypeAlias = Mapping[str, tuple[Sequence[int], torch.dtype]]

MAX_HEADER_BYTES = 4 * 2**20
MAX_TENSORS = 20_000
MAX_FILE_BYTES = 16 * 2**30
MAX_DIMENSIONS = 8

_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
# What people rename to .safetensors, by its first bytes.
_FOREIGN = (
    (re.compile(rb"PK\x03\x04|PK\x05\x06"), "a zip archive, as torch.save writes; it can hold code and is not opened"),
    (re.compile(rb"\x80[\x00-\x05]|\(dp|c\w+\n|\]q|\}q"), "a Python pickle; it can hold code and is not opened"),
    (re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x3a]"), "an ONNX model"),
    (re.compile(rb"\s*<", re.IGNORECASE), "a web page or XML, perhaps a failed download"),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer, not the file itself; run git lfs pull"),
    (re.compile(rb"\x89HDF"), "an HDF5 file, as Keras writes"),
    (re.compile(rb"\x93NUMPY"), "a NumPy array"),
    (re.compile(rb"GGUF"), "a GGUF model"),
    (re.compile(rb"\x1f\x8b"), "a gzip archive"),
    (re.compile(rb"\x89PNG|\xff\xd8\xff|RIFF"), "a picture"),
    (re.compile(rb"\s*[{\[]"), "JSON text"),
)


def pack(tensors: Mapping[str, Tensor], *, assert_finite: bool = True) -> bytes:
    """`tensors` as the bytes of a safetensors file, stored contiguous; the same tensors always give the same bytes.

    Any device, layout and memory sharing; dtypes float 16/32/64, bfloat16, int 8/16/32/64, uint8, bool. Raises
    TrainingError naming a tensor with a value that is not finite (unless `assert_finite=False`), and ValueError for
    a name or dtype that the format here does not allow.
    """
    if len(tensors) > MAX_TENSORS:
        raise ValueError(f"{len(tensors):,} tensors are more than {MAX_TENSORS:,}")
    copies: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not _NAME.fullmatch(name) or tensor.dtype not in _CODES or tensor.dim() > MAX_DIMENSIONS:
            raise ValueError(f"tensor {name!r} ({tensor.dtype}, {tensor.dim()} dimensions) cannot be stored")
        # One copy each: safetensors refuses tensors that share memory or are not contiguous.
        copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        if assert_finite and not _is_finite(copies[name]):
            raise TrainingError(f"{name} holds values that are not finite; it is not saved, use an earlier checkpoint")
    data = safetensors.torch.save(copies)
    if int.from_bytes(data[:8], "little") > MAX_HEADER_BYTES:
        raise ValueError(f"the names of {len(tensors):,} tensors need a header of more than {MAX_HEADER_BYTES:,} bytes")
    return data


def read_tensors(
    path: Path | str, expect: Expected | None = None, *, size: int | None = None, sha256: str | None = None
) -> dict[str, Tensor]:
    """Read a safetensors file as contiguous CPU tensors.

    `expect` (name -> shape and dtype) must be matched exactly; `size` (bytes) and `sha256` (hex digits) come from a
    manifest. Raises CheckpointError of one line that names the file: not the format (told by content, never by the
    name), larger than the limits above, damaged, of other shapes, or with values that are not finite.
    """
    path = Path(path)
    try:
        with open_regular(path) as (descriptor, found), os.fdopen(descriptor, "rb", closefd=False) as file:
            if size is not None and found != size:
                raise ValueError(f"has {found:,} bytes instead of {size:,}: damaged or cut off")
            if found > MAX_FILE_BYTES:
                raise ValueError(f"has {found:,} bytes, more than the {MAX_FILE_BYTES:,} allowed")
            start = _read_start(file, found)
            shapes = _check_header(start[8:], found - len(start))
            if expect is not None:
                _compare(shapes, expect)
            data = start + file.read(found - len(start))
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError("its SHA-256 differs from the manifest's: damaged or exchanged")
        if len(data) != found:
            raise ValueError("changed while it was read")
        return _unpack(data)
    except ValueError as exc:
        raise CheckpointError(one_line(f"{path}: {exc}; restore the file, or use another checkpoint")) from exc


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (64 hex digits) over sorted names, dtypes, shapes and bytes: equal for equal weights, in any layout.

    Provenance fields carry the first 16 digits.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {_CODES[tensor.dtype]} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _read_start(file: BinaryIO, size: int) -> bytes:
    """The 8 bytes of length and the header that follows; ValueError where the content is not safetensors."""
    start = file.read(64)
    if not start:
        raise ValueError("is empty")
    length = int.from_bytes(start[:8], "little")
    if len(start) <= 8 or start[8:9] != b"{":
        kind = next((what for pattern, what in _FOREIGN if pattern.match(start)), None)
        raise ValueError(f"is {kind}" if kind else "is not a safetensors file")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"has a header of {length:,} bytes, more than the {MAX_HEADER_BYTES:,} allowed")
    if length < 2 or 8 + length > size:
        raise ValueError(f"has a header of {length:,} bytes in a file of {size:,}: cut off")
    file.seek(0)
    return file.read(8 + length)


def _check_header(header: bytes, data_bytes: int) -> dict[str, tuple[list[int], torch.dtype]]:
    """Name -> (shape, dtype) from the header's JSON; ValueError unless it describes exactly `data_bytes` bytes."""
    try:
        entries = decode_json(header)
    except ValueError as exc:
        raise ValueError(f"has a header that is not valid JSON ({exc})") from None
    if not isinstance(entries, dict):
        raise ValueError("has a header that is not a JSON object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("has metadata that is not text")
    if len(entries) > MAX_TENSORS:
        raise ValueError(f"has {len(entries):,} tensors, more than the {MAX_TENSORS:,} allowed")
    shapes: dict[str, tuple[list[int], torch.dtype]] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in entries.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"has a tensor name {name[:60]!r}; allowed are letters, digits, '_' and '.'")
        shape, dtype, span = _check_entry(name, entry)
        shapes[name] = (shape, dtype)
        spans.append(span)
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise ValueError(f"has tensors that overlap or leave a hole at data byte {position:,}")
        position = end
    if position != data_bytes:
        raise ValueError(f"describes {position:,} bytes of tensors but holds {data_bytes:,}: cut off or damaged")
    return shapes


def _check_entry(name: str, entry: Any) -> tuple[list[int], torch.dtype, tuple[int, int]]:
    """(shape, dtype, (begin, end)) of one header entry, ValueError where a field is absent, odd or contradicted."""

    def whole_numbers(value: object) -> bool:
        return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**48 for item in value)

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"describes tensor {name} without exactly dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in _DTYPES:
        raise ValueError(f"has tensor {name} of type {str(code)[:30]!r}; known are {', '.join(_DTYPES)}")
    if not whole_numbers(shape) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"has tensor {name} of shape {str(shape)[:60]}")
    if not whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"has tensor {name} at {str(offsets)[:60]}")
    needed = _DTYPES[code].itemsize
    for side in shape:
        needed *= side
    if needed != offsets[1] - offsets[0]:
        raise ValueError(f"has tensor {name} {code} {shape} in {offsets[1] - offsets[0]:,} bytes instead of {needed:,}")
    return shape, _DTYPES[code], (offsets[0], offsets[1])


def _compare(found: Mapping[str, tuple[list[int], torch.dtype]], expect: Expected) -> None:
    """ValueError on the first tensor that is missing, not expected, or of another shape or dtype."""
    for name in sorted(expect.keys() | found.keys()):
        if name not in found:
            raise ValueError(f"lacks tensor {name} that the configuration asks for")
        if name not in expect:
            raise ValueError(f"has tensor {name} that the configuration does not know")
        shape, dtype = expect[name]
        wanted, seen = f"{_CODES.get(dtype, dtype)} {list(shape)}", f"{_CODES[found[name][1]]} {found[name][0]}"
        if wanted != seen:
            raise ValueError(f"has tensor {name} as {seen} where the configuration asks for {wanted}")


def _unpack(data: bytes) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, RuntimeError) as exc:
        raise ValueError(f"cannot be read ({exc})") from exc
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
            raise ValueError(f"has values in tensor {name} that are not finite")
        if tensor.dtype is torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
            raise ValueError(f"has values in tensor {name} that are neither true nor false")
    return tensors
