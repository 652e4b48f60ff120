"""dermnote study: the experiment of arXiv 2511.21827, and whether it holds."""

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from dermnote_train.cli import options, screen
from dermnote_train.data.adapters import read_folder
from dermnote_train.remote.notegen import NoteService
from dermnote_train.report.study.page import write_study_report
from dermnote_train.report.study.results import answers
from dermnote_train.settings import read_settings
from dermnote_train.study.analysis.export import write_results
from dermnote_train.study.analysis.figures import compute_results
from dermnote_train.study.analysis.results import StudyResults
from dermnote_train.study.cells.cell import cell_paths
from dermnote_train.study.cells.outputs import read_cell
from dermnote_train.study.model_cards import write_cards
from dermnote_train.study.plan import Mode, StudyPlan, plan_of, read_plan
from dermnote_train.study.runner import CELLS, PARTS, StudyState, run_study
from dermnote_train.study.samples import drawn_samples


def study(
    data: Annotated[Path, typer.Argument(help="A data folder to train on, or a plan (TOML; docs/study/README.md).")],
    *,
    away: Annotated[list[Path] | None, typer.Option(help="Another data folder: tested on, and trained on too.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the study; DERMNOTE_HOME/study by default.")] = None,
    grid: Annotated[
        Literal["frozen", "trials", "tuned", "all"],
        typer.Option(help="Whose cells to make now; the report is of all that there are."),
    ] = "all",
    seeds: Annotated[
        int | None, typer.Option(min=1, max=100, help="Seeds of the grids, instead of the plan's.")
    ] = None,
    mode: Annotated[
        Mode | None, typer.Option(help="paper: splits by image and pools with the training notes, as the authors did.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Begin no cell after so long; run it again and it goes on.")
    ] = None,
    limit: options.Limit = None,
    public: Annotated[
        bool, typer.Option("--public", help="A report without any picture, row or note of the data.")
    ] = False,
) -> None:
    """Do notes help, by how much, and is it true? All arms, cell by cell; run it again and it goes on."""
    settings = read_settings()
    plan = _adjusted(_plan(data, tuple(away or ())), grid=grid, seeds=seeds, mode=mode, limit=limit)
    where = out or settings.dermnote_home / "study"
    begun = time.monotonic()
    with NoteService(settings.notegen_url, key=settings.notegen_api_key) as service, screen.bars() as progress:
        service.require_ready()
        state = run_study(
            plan,
            service=service,
            out=where,
            progress=progress,
            parts=PARTS if grid == "all" else (grid,),
            should_stop=lambda: minutes is not None and time.monotonic() - begun > 60 * minutes,
        )
        samples = drawn_samples(
            service, state, folder=where / "drawn", out=where / "notes" / "drawn", progress=progress
        )
        model = service.model()
    cells = [read_cell(where / CELLS / path) for path in cell_paths(state.cells)]
    ablations = [read_cell(where / CELLS / path) for path in cell_paths(state.ablations)]
    results = compute_results(
        cells,
        pools={name: domain.records for name, domain in state.data.domains.items()},
        resamples=plan.resamples,
        ablations=ablations,
    )
    write_results(where, results)
    write_cards(where, state, results)
    report = write_study_report(
        where / "report.html", state, results, cells=cells, samples=samples, model=model, public=public
    )
    show_study(state, results)
    screen.say(f"report: {report}")
    if state.remaining:
        screen.say(f"{state.remaining} cells are still to be made; run the same command again to go on")


def _plan(data: Path, away: tuple[Path, ...]) -> StudyPlan:
    if data.suffix == ".toml":
        if away:
            raise typer.BadParameter("a plan says itself what is tested on; leave --away out")
        return read_plan(data)
    return plan_of(data, away, names={folder: read_folder(folder).name for folder in (data, *away)})


def _adjusted(plan: StudyPlan, *, grid: str, seeds: int | None, mode: Mode | None, limit: int | None) -> StudyPlan:
    parts = {"frozen": plan.frozen, "tuned": plan.tuned, "trials": plan.ablations}
    if grid != "all" and parts[grid] is None:
        raise typer.BadParameter(f"the plan has no {grid}")
    changes: dict[str, object] = {
        name: value for name, value in (("mode", mode), ("limit", limit)) if value is not None
    }
    for name, one in parts.items():
        if one is not None and seeds is not None:
            most = one.seeds if name == "trials" else seeds  # no more than there are in the frozen grid
            changes["ablations" if name == "trials" else name] = one.model_copy(update={"seeds": min(seeds, most)})
    return plan.model_copy(update=changes)


def show_study(state: StudyState, results: StudyResults) -> None:
    """Of each question at each place, the arm of notes that gained most."""
    screen.show_table(
        f"The best arm of each question ({len(state.cells)} cells, {results.opened} configurations opened)",
        ("trained on", "tested on", "question", "arm", "gain", "95 % interval", "p (Holm)"),
        [
            (
                f"{one.setting.route} ({one.setting.grid})",
                one.setting.pool,
                one.question,
                one.arm,
                one.value,
                one.interval,
                one.p_value,
            )
            for one in answers(results)
        ],
    )
