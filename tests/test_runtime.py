"""The process before torch, and the machine: what is set up, what is left as the user has it, what loads what."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from ganvas import runtime
from ganvas.errors import SettingError
from ganvas.runtime import choose_machine, decide_bf16, nothing_old_is_searched, usable_cores


def say(code: str, **environment: str) -> Any:
    """Run Python code in a process of its own and read its last line as JSON."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**clean, **environment},
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout.splitlines()[-1])


LOADED = "print(json.dumps(sorted({'torch', 'numpy', 'cyclopts', 'PIL'} & set(sys.modules))))"


def test_importing_ganvas_is_instant() -> None:
    assert say(f"import json, sys, ganvas; {LOADED}") == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["generate", "--help"], ["--version"], ["trian"]]
)
def test_looking_for_help_loads_no_torch(arguments: list[str]) -> None:
    code = f"import json, sys; from ganvas.cli import run; run({arguments}); {LOADED}"
    assert "torch" not in say(code)


@pytest.mark.parametrize("flags", [["--batch", "0"], ["--network", "stile"], ["--size", "7"], ["--objective", "x"]])
def test_a_bad_flag_is_refused_before_torch_is_loaded(flags: list[str]) -> None:
    code = f"import json, sys; from ganvas.cli import run; assert run(['train', 'x', *{flags}]) == 2; {LOADED}"
    assert "torch" not in say(code)


@pytest.mark.parametrize("module", ["ganvas.config", "ganvas.errors", "ganvas.latents", "ganvas.images", "ganvas.files",
                                    "ganvas.named", "ganvas.data.cache", "ganvas.draw"])  # fmt: skip
def test_the_halves_that_need_no_torch_load_none(module: str) -> None:
    assert "torch" not in say(f"import json, sys, {module}; {LOADED}")


def test_waiting_is_set_up_before_torch_unless_the_user_has_a_say() -> None:
    code = "import json, os, ganvas; print(json.dumps(os.environ.get('OMP_WAIT_POLICY')))"
    assert say(code) == "PASSIVE"
    assert say(code, OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"


def test_nothing_is_set_up_once_torch_is_there() -> None:
    """OpenMP would not hear of it any more, and a program that only uses ganvas keeps its environment."""
    assert say("import json, os, torch, ganvas; print(json.dumps(os.environ.get('OMP_WAIT_POLICY')))") is None


def test_usable_cores_are_those_we_may_use() -> None:
    cores = usable_cores()
    assert 1 <= cores <= (os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        assert cores <= len(os.sched_getaffinity(0))


QUOTAS = [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8), ("", 8)]


@pytest.mark.parametrize(("quota", "cores"), QUOTAS)
def test_a_containers_quota_counts(monkeypatch: pytest.MonkeyPatch, quota: str, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(runtime.Path, "read_text", lambda *_: quota)
    assert usable_cores() == cores


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for device in ("cuda", "mps"):
        with pytest.raises(SettingError, match=f"device '{device}' is not available") as caught:
            choose_machine(device)
        assert "\n" not in str(caught.value)
    assert choose_machine().device == "cpu"


def test_what_is_asked_for_is_what_is_used() -> None:
    machine = choose_machine("cpu", "bf16", 1)
    assert (machine.device, machine.dtype, machine.threads) == ("cpu", torch.bfloat16, 1)
    assert torch.get_num_threads() == 1
    assert choose_machine("cpu", "fp32").dtype == torch.float32
    assert choose_machine("cpu", "fp32").threads == usable_cores()


def test_subnormal_numbers_are_flushed() -> None:
    tiny = torch.full((64,), 1e-38)
    assert (tiny * 1e-3).any(), "kept before"
    choose_machine("cpu", "fp32", 1)
    assert not (tiny * 1e-3).any()


PROCESSORS = [
    ({"amx_bf16": True}, True, "AMX"),
    ({"avx512_bf16": True}, True, "AVX-512"),
    ({"avx2": True}, False, "neither"),
    ({}, False, "neither"),
]


@pytest.mark.parametrize(("capabilities", "answer", "word"), PROCESSORS)
def test_bf16_is_read_off_the_processor(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], answer: bool, word: str
) -> None:
    if not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("this torch cannot say what the processor has")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    use, why = decide_bf16("cpu")
    assert use is answer and word in why
    assert choose_machine("cpu").dtype == (torch.bfloat16 if answer else torch.float32)


def test_apples_gpu_trains_in_fp32() -> None:
    assert decide_bf16("mps")[0] is False


def test_what_is_there_before_training_is_not_searched_and_comes_back() -> None:
    there: list[object] = []
    before = gc.get_freeze_count()
    with pytest.raises(KeyError), nothing_old_is_searched():
        assert gc.get_freeze_count() > before
        assert not any(one is there for one in gc.get_objects()), "an old one"
        fresh: list[object] = []
        assert any(one is fresh for one in gc.get_objects())
        raise KeyError
    assert gc.get_freeze_count() == 0
    assert any(one is there for one in gc.get_objects())
