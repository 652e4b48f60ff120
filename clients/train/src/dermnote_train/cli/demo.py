"""dermnote demo: the whole pipeline in one command, with an HTML report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermnote_contracts.retrieval import Via
from dermnote_train.cli import options, output
from dermnote_train.cli.index import print_hits
from dermnote_train.cli.notes import print_notes
from dermnote_train.config import TrainConfig
from dermnote_train.settings import Settings

if TYPE_CHECKING:
    from dermnote_train.demo import DemoResult

SHOWN_QUERIES = 2


def demo(
    *,
    data: Annotated[
        Path | None, typer.Option(help="Data set folder; without it, lesions are drawn (SYNTHETIC).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; DERMNOTE_HOME/demo/NAME by default.")] = None,
    strategy: options.StrategyOption = "G",
    epochs: Annotated[int, typer.Option(min=1, max=1000, help="Training epochs.")] = 8,
    image_size: Annotated[int, typer.Option(min=32, max=512, help="Side of the training images in pixels.")] = 128,
    compare: Annotated[bool, typer.Option(help="Also train a model without notes, with the same settings.")] = True,
    via: Annotated[Via, typer.Option(help="Search by matching note, by similar image, or both (fused).")] = "fused",
    classes: options.Classes = "paper5",
    labels: options.Labels = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    leaky_fields: options.Leaky = False,
) -> None:
    """Run the pipeline: data, notes, training, evaluation, index, search and an HTML report."""
    from dermnote_train.data.draw import draw_dataset

    settings = Settings()
    with options.note_service() as notes, options.retrieval_service() as retrieval:
        notes.require_ready()
        retrieval.require_ready()
        with output.progress_bars() as progress:
            folder = data or draw_dataset(settings.dermnote_home / "data" / "drawn", seed=0, progress=progress)
            dataset = options.read_dataset(
                folder,
                classes=classes,
                labels=labels,
                limit=limit,
                seed=seed,
                leaky_fields=leaky_fields,
                progress=progress,
            )
            run_dir = out or settings.dermnote_home / "demo" / dataset.name
            from dermnote_train.demo import DemoPlan, run_demo  # slow to load, so faults of the data are reported first
            from dermnote_train.report.demo import write_report

            plan = DemoPlan(
                strategy=strategy,
                config=TrainConfig(epochs=epochs, image_size=image_size, seed=seed),
                class_set=classes,
                compare=compare,
                via=via,
            )
            result = run_demo(
                dataset,
                plan=plan,
                note_service=notes,
                retrieval=retrieval,
                models_dir=settings.models_dir,
                out=run_dir,
                progress=progress,
                print_line=output.print_line,
            )
    report = write_report(result, run_dir / "report.html")
    print_result(result)
    output.print_line(f"report: {report.resolve()}")


def print_result(result: "DemoResult") -> None:
    """Print the hits of the first queries, the statistics of the notes, and the metrics of each arm."""
    if result.dataset.synthetic:
        output.print_line("SYNTHETIC: the images are drawn by a program and the patients are invented")
    for query in result.queries[:SHOWN_QUERIES]:
        title = f"Query {query.query.image_path.name} ({query.query.label}), notes found"
        print_hits(title, [hit.hit for hit in query.hits[:3]])
    print_notes(result.notes)
    for arm in result.arms:
        tested = f'tested on {arm.evaluation.n} held-out images of data set "{result.dataset.name}"'
        title = f"trained on {arm.name}, {tested}; classified by image alone"
        options.print_metrics(title, arm.evaluation)
