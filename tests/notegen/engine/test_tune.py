"""Weights in the layout that this machine is fast with: which is chosen, and what becomes of its file."""

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from dermnote_notegen.engine.llama import Shape
from dermnote_notegen.engine.model import ModelNotFound, Origin, find_weights, sha256_of
from dermnote_notegen.engine.tune import layouts
from dermnote_notegen.engine.tune.layouts import AS_IT_CAME, SOURCE, Layout, choose, loaded, perplexity, tune

SHAPE = Shape(cells=1024, lanes=16, threads=1)
Q4, Q8, Q8_BF16 = Layout("Q4_0", "f16"), Layout("Q8_0", "f16"), Layout("Q8_0", "bf16")
# llguidance's own code asks llama-cpp-python by an old name.
llama = pytest.mark.filterwarnings("ignore:llama_token_get_attr is deprecated")


def chosen(speeds: Mapping[Layout, float], perplexities: Mapping[Layout, float]) -> tuple[Layout, list[Layout]]:
    """(what is chosen, the layouts whose perplexity was asked for, in order)."""
    asked: list[Layout] = []

    def told(layout: Layout) -> float:
        asked.append(layout)
        return perplexities.get(layout, 10.0)

    return choose(speeds, told), asked


def test_the_fastest_is_chosen() -> None:
    assert chosen({AS_IT_CAME: 100, Q8: 150, Q4: 190, Q8_BF16: 160}, {}) == (Q4, [AS_IT_CAME, Q4])


@pytest.mark.parametrize(("loss", "layout"), [(1.9, Q4), (2.1, Q8)])
def test_one_that_says_over_two_percent_less_is_refused(loss: float, layout: Layout) -> None:
    assert chosen({AS_IT_CAME: 100, Q8: 150, Q4: 190}, {Q4: 10.0 + loss / 10})[0] == layout


def test_one_that_says_more_is_as_good_as_any() -> None:
    assert chosen({AS_IT_CAME: 100, Q8: 150}, {Q8: 9.0})[0] == Q8


def test_where_all_that_are_faster_say_less_it_stays_as_it_came() -> None:
    layout, asked = chosen({AS_IT_CAME: 100, Q8: 150, Q4: 190, Q8_BF16: 104}, {Q8: 11.0, Q4: 12.0})

    assert (layout, asked) == (AS_IT_CAME, [AS_IT_CAME, Q4, Q8])


def test_where_nothing_is_five_percent_faster_no_perplexity_is_asked() -> None:
    assert chosen({AS_IT_CAME: 100, Q8: 104.9, Q4: 50}, {}) == (AS_IT_CAME, [])
    assert chosen({AS_IT_CAME: 100, Q8: 105, Q4: 50}, {})[0] == Q8


# Files.


@pytest.fixture(scope="module")
def source() -> tuple[Path, Origin]:
    """SmolLM2's file, and what it is called."""
    name, path, sha256 = find_weights("smollm2")
    return path, Origin(name, sha256)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the layouts of this file's tests are kept."""
    return tmp_path_factory.mktemp("layouts") / "made by tune"


def names(folder: Path) -> set[str]:
    """What is in the folder, without the digest that each name begins with."""
    return {path.name.partition("-")[2] for path in folder.iterdir() if path.name != layouts.LOCK}


def choice_name(origin: Origin, shape: Shape = SHAPE) -> str:
    return layouts._choice_file(origin, shape, Path()).name


@pytest.mark.gguf
def test_a_layout_that_is_asked_for_is_made_whole_and_told(source: tuple[Path, Origin], folder: Path) -> None:
    path, origin = source

    tuned = tune(path, origin, shape=SHAPE, folder=folder, wanted="q8_0")

    assert tuned.path.parent == folder
    assert tuned.path.name.startswith(str(origin.sha256))
    assert names(folder) == {"Q8_0.gguf", "Q8_0.sha256"}
    made = tuned.origin.quantization
    assert made is not None
    assert (made.type, made.sha256) == ("Q8_0", sha256_of(tuned.path))
    assert (tuned.origin.name, tuned.origin.sha256, tuned.keys) == (origin.name, origin.sha256, SHAPE.keys)


@pytest.mark.gguf
def test_a_layout_that_is_there_is_used_as_it_is(source: tuple[Path, Origin], folder: Path) -> None:
    first = tune(*source, shape=SHAPE, folder=folder, wanted="q8_0")
    made_at = first.path.stat().st_mtime_ns

    assert tune(*source, shape=SHAPE, folder=folder, wanted="q8_0") == first
    assert first.path.stat().st_mtime_ns == made_at


@pytest.mark.gguf
@pytest.mark.parametrize("harm", ["cut", "changed", "unnamed"])
def test_a_layout_that_is_not_whole_is_made_again(source: tuple[Path, Origin], folder: Path, harm: str) -> None:
    first = tune(*source, shape=SHAPE, folder=folder, wanted="q8_0")
    if harm == "unnamed":
        first.path.with_suffix(".sha256").unlink()
    else:
        with first.path.open("r+b") as file:
            file.truncate(10_000_000) if harm == "cut" else file.write(b"GGUX")

    again = tune(*source, shape=SHAPE, folder=folder, wanted="q8_0")

    assert again == first
    assert again.origin.quantization is not None
    assert sha256_of(again.path) == again.origin.quantization.sha256
    assert names(folder) == {"Q8_0.gguf", "Q8_0.sha256"}


@pytest.mark.gguf
@llama
def test_the_file_that_was_made_loads_and_says_as_much(source: tuple[Path, Origin], folder: Path) -> None:
    tuned = tune(*source, shape=SHAPE, folder=folder, wanted="q8_0")

    with loaded(source[0]) as as_it_came, loaded(tuned.path) as made:
        assert perplexity(made, SHAPE) == pytest.approx(perplexity(as_it_came, SHAPE), rel=layouts.MOST_LOSS)


@pytest.mark.parametrize("wanted", ["q8_0", "auto"])
def test_a_folder_that_can_not_be_written_costs_the_gain_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wanted: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    path, origin = tmp_path / "some.gguf", Origin("some", "0" * 64)

    tuned = tune(path, origin, shape=SHAPE, folder=tmp_path / "file" / "folder", wanted=wanted)

    assert (tuned.path, tuned.origin, tuned.keys) == (path, origin, SHAPE.keys)
    assert "runs as it is" in caplog.text


@pytest.mark.gguf
def test_a_file_that_can_not_be_rewritten_runs_as_it_is_and_leaves_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "wrong.gguf"
    path.write_bytes(b"no model")
    origin = Origin("wrong", sha256_of(path))

    tuned = tune(path, origin, shape=SHAPE, folder=tmp_path / "layouts", wanted="q8_0")

    assert (tuned.path, tuned.origin) == (path, origin)
    assert "runs as it is" in caplog.text
    assert names(tmp_path / "layouts") == set()


# Choices.


@pytest.mark.gguf
def test_a_choice_of_this_machine_is_kept_to_without_measuring(
    source: tuple[Path, Origin], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, origin = source
    asked_for = tune(path, origin, shape=SHAPE, folder=folder, wanted="q8_0")
    layouts._remember(Q8_BF16, origin, SHAPE, folder)

    with caplog.at_level(logging.INFO):
        tuned = tune(path, origin, shape=SHAPE, folder=folder)

    assert tuned == replace(asked_for, keys="bf16")
    assert "fastest layout" not in caplog.text


def test_to_stay_as_it_came_is_a_choice_too_and_what_lost_is_deleted(tmp_path: Path) -> None:
    path, origin = tmp_path / "some.gguf", Origin("some", "0" * 64)
    folder = tmp_path / "layouts"
    folder.mkdir()
    for name in ("Q8_0.gguf", "Q8_0.sha256", "BF16.gguf"):
        (folder / f"{origin.sha256}-{name}").write_text("lost")
    (folder / "of-another-model-Q8_0.gguf").write_text("not ours")
    layouts._remember(Layout(SOURCE, "bf16"), origin, SHAPE, folder)

    tuned = tune(path, origin, shape=SHAPE, folder=folder)

    assert (tuned.path, tuned.origin, tuned.keys) == (path, origin, "bf16")
    assert sorted(one.name for one in folder.iterdir()) == [
        choice_name(origin),
        layouts.LOCK,
        "of-another-model-Q8_0.gguf",
    ]


def test_the_choice_of_another_machine_or_file_is_none(tmp_path: Path) -> None:
    origin = Origin("some", "0" * 64)
    layouts._remember(Q8, origin, SHAPE, tmp_path)

    assert layouts._remembered(origin, SHAPE, tmp_path) == Q8
    assert layouts._remembered(origin, replace(SHAPE, cells=9, lanes=9), tmp_path) == Q8
    assert layouts._remembered(origin, replace(SHAPE, threads=SHAPE.threads + 1), tmp_path) is None
    assert layouts._remembered(Origin("some", "1" * 64), SHAPE, tmp_path) is None


def test_services_with_other_threads_keep_their_own_choices_and_each_other_s_layouts(tmp_path: Path) -> None:
    origin, more = Origin("some", "0" * 64), replace(SHAPE, threads=SHAPE.threads + 1)
    for name in layouts.CANDIDATES:
        (tmp_path / f"{origin.sha256}-{name}.gguf").write_text("made")

    layouts._remember(Q8, origin, SHAPE, tmp_path)
    (tmp_path / f"{origin.sha256}-Q4_0.gguf").write_text("made by the other")
    layouts._remember(Q4, origin, more, tmp_path)

    assert layouts._remembered(origin, SHAPE, tmp_path) == Q8
    assert layouts._remembered(origin, more, tmp_path) == Q4
    assert {name for name in names(tmp_path) if name.endswith("gguf")} == {"Q8_0.gguf", "Q4_0.gguf"}


HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
open(sys.argv[2], "w").write(sys.argv[3])
"""


def test_a_second_engine_waits_for_the_first_and_takes_its_choice(tmp_path: Path) -> None:
    """The first is another process, so that the lock is one between processes; killed, it would let go too."""
    path, origin = tmp_path / "some.gguf", Origin("some", "0" * 64)
    folder = tmp_path / "layouts"
    folder.mkdir()
    choice = json.dumps({"chosen": {"quantization": SOURCE, "keys": "bf16"}})
    told = [folder / layouts.LOCK, folder / choice_name(origin), choice]
    with (
        subprocess.Popen(
            [sys.executable, "-c", HOLD, *told], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as first,
        ThreadPoolExecutor(1) as second,
    ):
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        waiting = second.submit(tune, path, origin, shape=SHAPE, folder=folder)
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        first.stdin.write("go on\n")
        first.stdin.flush()
        tuned = waiting.result(60)

    assert (tuned.path, tuned.origin, tuned.keys) == (path, origin, "bf16")


def test_a_layout_that_can_not_be_loaded_is_no_choice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"no model")

    assert layouts._speeds("Q8_0", wrong, SHAPE) == {}
    assert "Q8_0 is no choice" in caplog.text
    with pytest.raises(ModelNotFound):
        layouts._speeds(SOURCE, wrong, SHAPE)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"machine": "x"}', '{"machine": 1, "chosen": {"type": "Q8_0"}}'])
def test_a_choice_that_can_not_be_read_is_none(tmp_path: Path, content: str) -> None:
    origin = Origin("some", "0" * 64)
    layouts._choice_file(origin, SHAPE, tmp_path).write_text(content)

    assert layouts._remembered(origin, SHAPE, tmp_path) is None


@pytest.mark.gguf
@llama
def test_what_is_chosen_by_measuring_says_as_much_and_is_chosen_again(
    source: tuple[Path, Origin], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Which one it is, is the machine's matter."""
    with caplog.at_level(logging.INFO):
        tuned = tune(*source, shape=SHAPE, folder=tmp_path)
    assert caplog.text.count("tokens/s") == 8
    caplog.clear()
    again = tune(*source, shape=SHAPE, folder=tmp_path)

    assert again == tuned
    assert caplog.text == ""
    layout = tuned.origin.quantization
    made = {f"{layout.type}.gguf", f"{layout.type}.sha256"} if layout else set()
    assert names(tmp_path) == {choice_name(source[1]).partition("-")[2]} | made
    measured = replace(SHAPE, cells=layouts.MEASURED_CELLS, lanes=layouts.MEASURED_LANES)
    with loaded(source[0]) as as_it_came, loaded(tuned.path) as chosen_one:
        most = perplexity(as_it_came, measured) * (1 + layouts.MOST_LOSS)
        assert perplexity(chosen_one, replace(measured, keys=tuned.keys)) <= most * 1.001
