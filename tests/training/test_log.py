"""metrics.jsonl: rows that are on disk when they are said, and none of a future that did not happen."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from ganvas.errors import MissingExtra, StorageError
from ganvas.training.log import Log, Tick


def tick(seen_images: int) -> Tick:
    return Tick(seen_images, 1.23456789, 100.0, 0.5, 1e-3, 0.7, 0.8, 0.01, 0.2, -0.2)


def rows(path: Path) -> list[int]:
    return [json.loads(line)["seen_images"] for line in path.read_text().splitlines()]


def test_a_row_is_there_when_write_returns(tmp_path: Path) -> None:
    log = Log(tmp_path, 0, tensorboard=False)
    log.write(tick(32))
    assert rows(log.path) == [32], "before anything is closed"
    row = json.loads(log.path.read_text())
    assert set(row) == set(asdict(tick(32)))
    assert row["seconds"] == pytest.approx(1.23456789, abs=1e-6)
    log.close()


def test_rows_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    log = Log(tmp_path, 0, tensorboard=False)
    for seen in (10, 20, 30, 40):
        log.write(tick(seen))
    log.close()
    again = Log(tmp_path, 20, tensorboard=False)
    assert rows(again.path) == [10, 20]
    again.write(tick(30))
    again.close()
    assert rows(again.path) == [10, 20, 30]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("litter", ['{"seen_images": 1', "", "[1, 2]", "null", '{"other": 3}', "\x00\x00", "{}"])
def test_a_killed_process_leaves_nothing_that_hurts(tmp_path: Path, litter: str) -> None:
    whole = json.dumps({"seen_images": 5})
    (tmp_path / "metrics.jsonl").write_text(f"{whole}\n{litter}")
    log = Log(tmp_path, 10, tensorboard=False)
    log.write(tick(12))
    log.close()
    assert rows(log.path) == [5, 12]


def test_bytes_that_are_no_text_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'\xff\xfe\x00{"seen_images": 3}\n{"seen_images": 4}\n')
    Log(tmp_path, 10, tensorboard=False).close()
    assert rows(tmp_path / "metrics.jsonl") == [4]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        Log(tmp_path / "nowhere", 0, tensorboard=False)
    assert "metrics.jsonl" in str(caught.value) and "\n" not in str(caught.value)


def test_tensorboard_without_its_extra_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtra, match=r"pip install 'ganvas\[tensorboard\]'"):
        Log(tmp_path, 0, tensorboard=True)


def test_tensorboard_gets_the_same_numbers_and_the_grids(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the tensorboard extra is not installed")
    import numpy as np
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Log(tmp_path, 0, tensorboard=True)
    for seen in (25, 50):
        log.write(tick(seen))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "grid.png")
    log.picture(tmp_path / "grid.png", 50)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(asdict(tick(0))) - {"seen_images"}
    assert [(event.step, round(event.value, 4)) for event in events.Scalars("generator_loss")] == [(25, 0.8), (50, 0.8)]
    assert [event.step for event in events.Images("samples")] == [50]
