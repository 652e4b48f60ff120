"""Layouts of the weights: which one is chosen at start or by measuring, and what happens to its files."""

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from dermnote_notegen.engine.model import ModelInfo, ModelNotFound, find_weights, sha256_of
from dermnote_notegen.engine.tune import layouts, tuning
from dermnote_notegen.engine.tune.layouts import (
    ORIGINAL,
    SOURCE,
    Layout,
    Measurement,
    WeightsFile,
    default_layout,
    measure,
    remember,
    remembered,
    select_weights,
)
from dermnote_notegen.engine.tune.tuning import choose, tune

Q4, Q8, Q8_BF16 = Layout("Q4_0", "f16"), Layout("Q8_0", "f16"), Layout("Q8_0", "bf16")
# llguidance uses a deprecated name of llama-cpp-python's API.
llama = pytest.mark.filterwarnings("ignore:llama_token_get_attr is deprecated")


# Which layout.


@pytest.mark.parametrize(
    ("flags", "layout"),
    [
        ({"avx2", "avx512f", "avx512_bf16"}, Layout("BF16", "bf16")),
        ({"avx2", "avx512f"}, Q8),
        ({"avx2"}, Q8),
        ({"neon"}, ORIGINAL),
        ((), ORIGINAL),
    ],
)
def test_the_default_follows_the_cpus_flags(flags: set[str], layout: Layout) -> None:
    assert default_layout(flags) == layout


def chosen(speeds: Mapping[Layout, float], perplexities: Mapping[Layout, float]) -> Layout:
    """The chosen layout; perplexities are 10 by default."""
    return choose({layout: Measurement(perplexities.get(layout, 10.0), speed) for layout, speed in speeds.items()})


def test_the_fastest_layout_is_chosen() -> None:
    assert chosen({ORIGINAL: 100, Q8: 150, Q4: 190, Q8_BF16: 160}, {}) == Q4


@pytest.mark.parametrize(("loss", "layout"), [(1.9, Q4), (2.1, Q8)])
def test_a_perplexity_more_than_two_percent_higher_is_rejected(loss: float, layout: Layout) -> None:
    assert chosen({ORIGINAL: 100, Q8: 150, Q4: 190}, {Q4: 10.0 + loss / 10}) == layout


def test_a_lower_perplexity_is_accepted() -> None:
    assert chosen({ORIGINAL: 100, Q8: 150}, {Q8: 9.0}) == Q8


def test_the_original_is_kept_if_all_faster_layouts_are_rejected() -> None:
    assert chosen({ORIGINAL: 100, Q8: 150, Q4: 190, Q8_BF16: 104}, {Q8: 11.0, Q4: 12.0}) == ORIGINAL


def test_the_original_is_kept_unless_another_layout_is_five_percent_faster() -> None:
    assert chosen({ORIGINAL: 100, Q8: 104.9, Q4: 50}, {}) == ORIGINAL
    assert chosen({ORIGINAL: 100, Q8: 105, Q4: 50}, {}) == Q8


# Files.


@pytest.fixture(scope="module")
def source() -> WeightsFile:
    """SmolLM2's file."""
    name, path, sha256 = find_weights("smollm2")
    return WeightsFile(path, ModelInfo(name, sha256))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of this module's layouts."""
    return tmp_path_factory.mktemp("layouts") / "created at first use"


@pytest.fixture
def other(tmp_path: Path) -> WeightsFile:
    """A file that is not a preset and does not exist."""
    return WeightsFile(tmp_path / "some.gguf", ModelInfo("some", "0" * 64))


def select(source: WeightsFile, folder: Path, requantize: str = "auto") -> WeightsFile:
    return select_weights(source, threads=1, folder=folder, requantize=requantize)


def names(folder: Path) -> set[str]:
    """The files in the folder, without the digest at the beginning of each name."""
    return {path.name.partition("-")[2] for path in folder.iterdir() if path.name != layouts.LOCK}


def choice_name(info: ModelInfo) -> str:
    return layouts._choice_file(info, 1, Path()).name


@pytest.mark.gguf
def test_a_requested_layout_is_written_and_reported(source: WeightsFile, folder: Path) -> None:
    selected = select(source, folder, "q8_0")

    assert selected.path.parent == folder
    assert selected.path.name.startswith(str(source.info.sha256))
    assert names(folder) == {"Q8_0.gguf", "Q8_0.sha256"}
    reported = selected.info.quantization
    assert reported is not None
    assert (reported.type, reported.sha256) == ("Q8_0", sha256_of(selected.path))
    assert (selected.info.name, selected.info.sha256, selected.keys) == (source.info.name, source.info.sha256, "f16")


@pytest.mark.gguf
def test_an_existing_layout_is_reused(source: WeightsFile, folder: Path) -> None:
    first = select(source, folder, "q8_0")
    written_at = first.path.stat().st_mtime_ns

    assert select(source, folder, "q8_0") == first
    assert first.path.stat().st_mtime_ns == written_at


@pytest.mark.gguf
@pytest.mark.parametrize("damage", ["truncated", "changed", "digest missing"])
def test_a_damaged_layout_is_written_again(source: WeightsFile, folder: Path, damage: str) -> None:
    first = select(source, folder, "q8_0")
    if damage == "digest missing":
        first.path.with_suffix(".sha256").unlink()
    else:
        with first.path.open("r+b") as file:
            file.truncate(10_000_000) if damage == "truncated" else file.write(b"GGUX")

    again = select(source, folder, "q8_0")

    assert again == first
    assert again.info.quantization is not None
    assert sha256_of(again.path) == again.info.quantization.sha256
    assert names(folder) == {"Q8_0.gguf", "Q8_0.sha256"}


@pytest.mark.gguf
def test_the_file_of_a_killed_conversion_is_replaced(source: WeightsFile, folder: Path) -> None:
    first = select(source, folder, "q8_0")
    first.path.with_suffix(".sha256").unlink()
    first.path.with_name(f"{first.path.name}.part").write_bytes(b"torn")

    second = select(source, folder, "q8_0")

    assert second == first
    assert not list(folder.glob("*.part"))


@pytest.mark.gguf
@llama
def test_a_written_layout_loads_and_keeps_the_perplexity(source: WeightsFile, folder: Path) -> None:
    selected = select(source, folder, "q8_0")

    expected = pytest.approx(measure(source.path, threads=1).perplexity, rel=layouts.MAX_PERPLEXITY_RISE)
    assert measure(selected.path, threads=1).perplexity == expected


@pytest.mark.parametrize("requantize", ["q8_0", "auto"])
def test_an_unusable_folder_only_costs_the_speed_up(
    tmp_path: Path, other: WeightsFile, caplog: pytest.LogCaptureFixture, requantize: str
) -> None:
    (tmp_path / "file").write_text("not a folder")

    assert select(other, tmp_path / "file" / "folder", requantize) == other
    assert "original layout" in caplog.text


@pytest.mark.gguf
def test_a_file_that_cannot_be_converted_runs_as_it_is_and_leaves_no_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "wrong.gguf"
    path.write_bytes(b"not a model")
    wrong = WeightsFile(path, ModelInfo("wrong", sha256_of(path)))

    assert select(wrong, tmp_path / "layouts", "q8_0") == wrong
    assert "original layout" in caplog.text
    assert names(tmp_path / "layouts") == set()


# Choices.


@pytest.mark.gguf
def test_a_remembered_choice_is_used_without_measuring(
    source: WeightsFile, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested = select(source, folder, "q8_0")
    remember(Q8_BF16, source.info, 1, folder)
    monkeypatch.setattr(layouts, "measure", lambda *_, **__: pytest.fail("measured"))

    assert select(source, folder) == replace(requested, keys="bf16")


@pytest.mark.gguf
@llama
@pytest.mark.parametrize(("rise", "quantization"), [(1.019, "Q8_0"), (1.021, None)])
def test_a_presets_default_is_verified_once(
    source: WeightsFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rise: float, quantization: str | None
) -> None:
    measured: list[Path] = []

    def fake_measure(path: Path, *, threads: int, keys: str = "f16") -> Measurement:
        measured.append(path)
        return Measurement(10.0 if path == source.path else 10.0 * rise, 100)

    monkeypatch.setattr(layouts, "measure", fake_measure)
    monkeypatch.setattr(layouts, "cpu_flags", lambda: {"avx2"})

    first, again = select(source, tmp_path), select(source, tmp_path)

    assert first == again
    assert len(measured) == 2
    assert (first.info.quantization and first.info.quantization.type) == quantization
    assert {name for name in names(tmp_path) if name.endswith("gguf")} == ({"Q8_0.gguf"} if quantization else set())


def test_other_models_keep_their_layout_until_they_are_tuned(
    tmp_path: Path, other: WeightsFile, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert select(other, tmp_path / "layouts") == other

    assert "python -m dermnote_notegen.engine.tune" in caplog.text
    assert names(tmp_path / "layouts") == set()


def test_the_original_layout_can_be_chosen_and_unused_files_are_deleted(tmp_path: Path, other: WeightsFile) -> None:
    folder = tmp_path / "layouts"
    folder.mkdir()
    for name in ("Q8_0.gguf", "Q8_0.sha256", "BF16.gguf"):
        (folder / f"{other.info.sha256}-{name}").write_text("unused")
    (folder / "of-another-model-Q8_0.gguf").write_text("not ours")
    remember(Layout(SOURCE, "bf16"), other.info, 1, folder)

    assert select(other, folder) == replace(other, keys="bf16")
    assert sorted(path.name for path in folder.iterdir()) == [
        choice_name(other.info),
        layouts.LOCK,
        "of-another-model-Q8_0.gguf",
    ]


def test_a_choice_is_valid_for_one_machine_and_file(tmp_path: Path, other: WeightsFile) -> None:
    remember(Q8, other.info, 1, tmp_path)

    assert remembered(other.info, 1, tmp_path) == Q8
    assert remembered(other.info, 2, tmp_path) is None
    assert remembered(ModelInfo("some", "1" * 64), 1, tmp_path) is None


def test_services_with_different_threads_keep_their_own_choices_and_layouts(tmp_path: Path, other: WeightsFile) -> None:
    for name in layouts.QUANTIZATIONS:
        (tmp_path / f"{other.info.sha256}-{name}.gguf").write_text("made")

    remember(Q8, other.info, 1, tmp_path)
    (tmp_path / f"{other.info.sha256}-Q4_0.gguf").write_text("made by the other")
    remember(Q4, other.info, 2, tmp_path)

    assert remembered(other.info, 1, tmp_path) == Q8
    assert remembered(other.info, 2, tmp_path) == Q4
    assert {name for name in names(tmp_path) if name.endswith("gguf")} == {"Q8_0.gguf", "Q4_0.gguf"}


HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
open(sys.argv[2], "w").write(sys.argv[3])
"""


def test_a_second_engine_waits_for_the_first_and_uses_its_choice(tmp_path: Path, other: WeightsFile) -> None:
    """The first is another process, since the lock is one between processes."""
    folder = tmp_path / "layouts"
    folder.mkdir()
    choice = json.dumps({"chosen": {"quantization": SOURCE, "keys": "bf16"}})
    arguments = [folder / layouts.LOCK, folder / choice_name(other.info), choice]
    with (
        subprocess.Popen(
            [sys.executable, "-c", HOLD, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as first,
        ThreadPoolExecutor(1) as second,
    ):
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        waiting = second.submit(select, other, folder)
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        first.stdin.write("continue\n")
        first.stdin.flush()
        selected = waiting.result(60)

    assert selected == replace(other, keys="bf16")


def test_a_layout_that_cannot_be_loaded_is_skipped(
    tmp_path: Path, other: WeightsFile, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake_measure(path: Path, *, threads: int, keys: str) -> Measurement:
        if "Q8_0" in path.name:
            raise ModelNotFound("not a model")
        return Measurement(10, 100)

    monkeypatch.setattr(layouts, "quantize", lambda _source, target, _quantization: target.write_text("made"))
    monkeypatch.setattr(tuning, "measure", fake_measure)

    assert tune(other, threads=1, folder=tmp_path / "layouts") == ORIGINAL
    assert "Q8_0 weights with f16 keys is skipped" in caplog.text


@pytest.mark.gguf
@llama
def test_a_default_layout_that_cannot_be_loaded_is_rejected(
    source: WeightsFile, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shortest = min(layouts.sample_texts(), key=len)
    monkeypatch.setattr(layouts, "sample_texts", lambda: [shortest])
    monkeypatch.setattr(layouts, "cpu_flags", lambda: {"avx2"})
    monkeypatch.setattr(layouts, "quantize", lambda _source, target, _quantization: target.write_text("not a model"))

    assert select(source, tmp_path) == source
    assert "Q8_0 weights with f16 keys rejected" in caplog.text
    assert remembered(source.info, 1, tmp_path) == ORIGINAL


def test_an_original_that_cannot_be_loaded_is_an_error(
    tmp_path: Path, other: WeightsFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.path.write_bytes(b"not a model")

    with pytest.raises(ModelNotFound):
        tune(other, threads=1, folder=tmp_path / "layouts")


@pytest.mark.parametrize(
    "content",
    [
        '{"chosen": {"quantization": "Q9", "keys": "f16"}}',
        '{"chosen": {"quantization": [1], "keys": "f16"}}',
        '{"chosen": {"quantization": "Q8_0", "keys": null}}',
        "",
        "{",
        "[]",
        '{"machine": "x"}',
        '{"machine": 1, "chosen": {"type": "Q8_0"}}',
    ],
)
def test_an_unreadable_choice_is_ignored(tmp_path: Path, other: WeightsFile, content: str) -> None:
    layouts._choice_file(other.info, 1, tmp_path).write_text(content)

    assert remembered(other.info, 1, tmp_path) is None


@pytest.mark.gguf
@llama
def test_the_layout_chosen_by_measuring_keeps_the_perplexity_and_is_used_at_the_next_start(
    source: WeightsFile, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which layout wins depends on the machine."""
    monkeypatch.setattr(tuning, "ROUNDS", 1)
    shortest = min(layouts.sample_texts(), key=len)
    monkeypatch.setattr(layouts, "sample_texts", lambda: [shortest])
    with caplog.at_level(logging.INFO):
        layout = tune(source, threads=1, folder=tmp_path)
    assert caplog.text.count("tokens/s") == 8
    selected = select(source, tmp_path)

    assert selected.keys == layout.keys
    reported = selected.info.quantization
    assert (reported.type if reported else SOURCE) == layout.quantization
    files = {f"{reported.type}.gguf", f"{reported.type}.sha256"} if reported else set()
    assert names(tmp_path) == {choice_name(source.info).partition("-")[2]} | files
    limit = measure(source.path, threads=1).perplexity * (1 + layouts.MAX_PERPLEXITY_RISE)
    assert measure(selected.path, threads=1, keys=selected.keys).perplexity <= limit * 1.001
