"""Model files that must be refused: name -> bytes. EXPECT is what the one good file, `GOOD`, holds."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from io import BytesIO
from typing import Any

import torch

EXPECT = {"a.weight": ((2, 3), torch.float32), "b": ((4,), torch.uint8)}
HEADER: dict[str, Any] = {
    "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "U8", "shape": [4], "data_offsets": [24, 28]},
}
DATA = struct.pack("<6f4B", 1, 2, 3, 4, 5, 6, 1, 2, 3, 4)


def model_file(header: object, data: bytes = DATA) -> bytes:
    """A file in the safetensors layout; `header` is taken as it is where it is bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


GOOD = model_file(HEADER)


def changed(name: str, **fields: object) -> bytes:
    """`GOOD` with fields of one header entry replaced."""
    return model_file({**HEADER, name: {**HEADER[name], **fields}})


def torch_archive(*, legacy: bool) -> bytes:
    """What torch.save writes: a zip archive now, a pickle in its old format."""
    file = BytesIO()
    torch.save({"a.weight": torch.zeros(2, 3)}, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


class _Calls:
    """Its pickle names a function to call: what a hostile pickle does, here with one that does nothing."""

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return dict, ()


def model_files() -> dict[str, bytes]:
    """Every hostile file. Each is refused by its content alone, except those named `unexpected…`: by EXPECT."""
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.pkl", b"x")
    nan, infinite = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    many = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_001)}
    return {
        "empty": b"",
        "three bytes": b"abc",
        "zeros": bytes(4096),
        "pickle": pickle.dumps({"w": [1.0]}),
        "pickle that calls": pickle.dumps(_Calls(), protocol=2),
        "pickle of protocol 0": pickle.dumps({"w": 1.0}, protocol=0),
        "torch archive": torch_archive(legacy=False),
        "torch pickle": torch_archive(legacy=True),
        "zip": archive.getvalue(),
        "onnx": b"\x08\x08\x12\x07pytorch\x1a\x042.13:\x10",
        "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
        "numpy": b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(200),
        "gguf": b"GGUF\x03\0\0\0" + bytes(64),
        "gzip": b"\x1f\x8b\x08\0" + bytes(64),
        "keras archive": archive.getvalue().replace(b"data.pkl", b"m.keras!"),
        "tar": b"model.safetensors".ljust(100, b"\0") + b"0000644\0" + bytes(404),
        "python": b"import os\nos.system('true')\n" * 4,
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(64),
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(64),
        "json": b'{"a.weight": [1, 2, 3]}',
        "header length of 2^63": (2**63).to_bytes(8, "little") + b"{" + bytes(64),
        "header length of 2^64 - 1": b"\xff" * 8 + b"{" + bytes(64),
        "header length 0": bytes(8) + DATA,
        "header in UTF-16": model_file(json.dumps(HEADER).encode("utf-16")),
        "header with a zero byte": model_file(json.dumps(HEADER).encode() + b"\0" * 8),
        "metadata of 4 MB": model_file({**HEADER, "__metadata__": {"note": "x" * (4 * 2**20)}}),
        "header over 4 MB": model_file(json.dumps(HEADER).encode() + b" " * (4 * 2**20)),
        "header longer than the file": (4000).to_bytes(8, "little") + b"{}" + bytes(64),
        "header not JSON": model_file(b"{" + b"\xff" * 50),
        "header nested deeply": model_file(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        "header is a list": (2).to_bytes(8, "little") + b"[]",
        "name given twice": model_file(
            b'{"b":' + json.dumps(one).encode() + b',"b":' + json.dumps(one).encode() + b"}"
        ),
        "name given twice, once escaped": model_file(
            json.dumps(HEADER).replace('"b"', '"\\u0062"').replace("{", '{"b": ' + json.dumps(one) + ", ", 1).encode()
        ),
        "name of a special method": model_file({"__class__.__init__": one, "a b": one}, bytes(4)),
        "name too long": model_file({"w" * 201: one}, bytes(4)),
        "too many tensors": model_file(many, b""),
        "name with a path": model_file({"../../etc/passwd": one}, bytes(4)),
        "name with a line end": model_file({"a\nb": one}, bytes(4)),
        "name not ASCII": model_file({"ｗeight": one}, bytes(4)),
        "name empty": model_file({"": one}, bytes(4)),
        "unknown dtype": changed("b", dtype="PICKLE"),
        "dtype not text": changed("b", dtype=["U8"]),
        "40 GB shape": changed("a.weight", shape=[100_000, 100_000]),
        "shape that overflows": changed("a.weight", shape=[2**32, 2**32, 0, 6]),
        "shape product wraps to 24 bytes": changed("a.weight", shape=[2**62 + 6]),
        "negative shape": changed("a.weight", shape=[-2, -3]),
        "shape of floats": changed("a.weight", shape=[2.0, 3.0]),
        "shape of booleans": changed("b", shape=[True, 4]),
        "nine dimensions": changed("b", shape=[1] * 8 + [4]),
        "offsets backwards": changed("b", data_offsets=[28, 24]),
        "offsets negative": changed("b", data_offsets=[-4, 0]),
        "offsets overlap": changed("b", data_offsets=[20, 24]),
        "offsets leave a hole": model_file({"b": {**HEADER["b"], "data_offsets": [24, 28]}}),
        "offsets beyond the end": changed("b", data_offsets=[2**40, 2**40 + 4]),
        "field missing": model_file({"b": {"dtype": "U8", "shape": [28]}}),
        "field too many": changed("b", code="print()"),
        "entry not an object": model_file({"b": 7}),
        "number not finite in the header": model_file(b'{"b":{"dtype":"U8","shape":[1e999],"data_offsets":[0,28]}}'),
        "metadata not text": model_file({**HEADER, "__metadata__": {"run": {"deep": 1}}}),
        "cut off": GOOD[:-1],
        "trailing bytes": GOOD + b"MZ",
        "nan": model_file({"b": one}, nan),
        "infinity": model_file({"b": one}, infinite),
        "nan in fp64": model_file(
            {"b": {**one, "dtype": "F64", "data_offsets": [0, 8]}}, struct.pack("<d", float("nan"))
        ),
        "nan in bf16": model_file({"b": {**one, "dtype": "BF16", "data_offsets": [0, 2]}}, b"\xc0\x7f"),
        "infinity in fp16": model_file({"b": {**one, "dtype": "F16", "data_offsets": [0, 2]}}, b"\0\x7c"),
        "bool of 7": model_file({"b": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}, b"\x01\x07"),
        "float of no size": changed("b", dtype="F8_E4M3"),
        "shape of a text": changed("b", shape="4"),
        "offsets of floats": changed("b", data_offsets=[24.0, 28.0]),
        "unexpected shape": changed("a.weight", shape=[3, 2]),
        "unexpected dtype": changed("a.weight", dtype="I32"),
        "unexpected tensor": model_file({**HEADER, "c": {**HEADER["b"], "data_offsets": [28, 32]}}, DATA + bytes(4)),
        "unexpected names": model_file({"A.weight": HEADER["a.weight"], "B": HEADER["b"]}),
        "unexpected dimensions": changed("a.weight", shape=[6]),
        "unexpected lack": model_file({"b": {**HEADER["b"], "data_offsets": [0, 4]}}, DATA[24:]),
    }
