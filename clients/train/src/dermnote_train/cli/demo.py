"""dermnote demo: the whole way in one command, ending in found notes, figures and a report."""

from pathlib import Path
from typing import Annotated

import typer

from dermnote_contracts.retrieval import Via
from dermnote_train.cli import options, screen
from dermnote_train.cli.notes import show_notes
from dermnote_train.cli.search import show_hits
from dermnote_train.config import TrainConfig
from dermnote_train.data.draw import draw_dataset
from dermnote_train.demo import DemoPlan, DemoResult, Services, run_demo
from dermnote_train.evaluation.tables import metric_rows
from dermnote_train.remote.notegen import NoteService
from dermnote_train.remote.retrieval import RetrievalService
from dermnote_train.report.demo import write_report
from dermnote_train.settings import read_settings

SHOWN_QUERIES = 2


def demo(
    *,
    data: Annotated[
        Path | None, typer.Option(help="Data set folder; lesions are drawn (SYNTHETIC) without it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; DERMNOTE_HOME/demo/NAME by default.")] = None,
    strategy: options.StrategyOption = "G",
    epochs: Annotated[int, typer.Option(min=1, max=1000)] = 8,
    image_size: Annotated[int, typer.Option(min=32, max=512, help="Pixels of a side.")] = 128,
    compare: Annotated[bool, typer.Option(help="Also train on images alone, with the same budget.")] = True,
    via: Annotated[Via, typer.Option(help="How notes are searched for a picture.")] = "fused",
    classes: options.Classes = "paper5",
    labels: options.Labels = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    leaky_fields: options.Leaky = False,
) -> None:
    """Data, notes, training, evaluation, index, search and an HTML report."""
    settings = read_settings()
    plan = DemoPlan(
        strategy=strategy,
        config=TrainConfig(epochs=epochs, image_size=image_size, seed=seed),
        class_set=classes,
        compare=compare,
        via=via,
    )
    with (
        NoteService(settings.notegen_url, key=settings.notegen_api_key) as notes,
        RetrievalService(settings.retrieval_url, key=settings.retrieval_api_key) as retrieval,
    ):
        notes.require_ready()
        retrieval.require_ready()
        with screen.bars() as progress:
            folder = data or draw_dataset(settings.dermnote_home / "data" / "drawn", seed=0, progress=progress)
            choice = options.DataChoice(folder, classes, labels, limit, seed, leaky_fields)
            dataset = options.read_dataset(choice, progress=progress)
            where = out or settings.dermnote_home / "demo" / dataset.name
            services = Services(notes, retrieval, settings.models_dir)
            result = run_demo(dataset, plan=plan, services=services, out=where, progress=progress, say=screen.say)
    report = write_report(result, where / "report.html")
    show_result(result)
    screen.say(f"report: {report.resolve()}")


def show_result(result: DemoResult) -> None:
    """The found notes, the figures, and the note run in tables."""
    if result.dataset.synthetic:
        screen.say("SYNTHETIC: the pictures are drawn by a program and the patients are made up")
    for found in result.found[:SHOWN_QUERIES]:
        title = f"Query {found.query.image_path.name} ({found.query.label}), notes found"
        show_hits(title, [hit.hit for hit in found.hits[:3]])
    show_notes(result.notes)
    for arm in result.arms:
        screen.show_table(
            f"{arm.name}: {arm.evaluation.n} held-out images of {result.dataset.name}, pictures alone as input",
            ("figure", "value", "95 % interval", "chance"),
            [(row.name, row.value, row.interval, row.chance) for row in metric_rows(arm.evaluation)],
        )
