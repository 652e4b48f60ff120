"""dermnote study: reproduce the experiment of arXiv 2511.21827 with more arms and confidence intervals."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dermnote_train.cli import options, output
from dermnote_train.config import StudyMode
from dermnote_train.settings import Settings

if TYPE_CHECKING:
    from dermnote_train.study.analysis.results import StudyResults
    from dermnote_train.study.plan import StudyPlan
    from dermnote_train.study.runner import StudyState


def study(
    data: Annotated[
        Path, typer.Argument(help="Data folder to train on, or a study plan (TOML; see docs/study/README.md).")
    ],
    *,
    away: Annotated[
        list[Path] | None, typer.Option(help="Another data folder to train and test on; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Study folder; DERMNOTE_HOME/study by default.")] = None,
    grid: Annotated[
        Literal["frozen", "trials", "tuned", "all"],
        typer.Option(help="Grid to compute now (trials: the ablations); the report covers all finished cells."),
    ] = "all",
    seeds: Annotated[
        int | None, typer.Option(min=1, max=100, help="Number of seeds per grid; overrides the plan.")
    ] = None,
    mode: Annotated[
        StudyMode | None,
        typer.Option(help="paper: split by image and also search training notes, as in the paper; strict: do neither."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Start no new cell after this many minutes; run again to continue.")
    ] = None,
    limit: options.Limit = None,
    public: Annotated[
        bool, typer.Option("--public", help="Write a report without images, rows or notes of the data.")
    ] = False,
) -> None:
    """Measure whether and by how much notes help. Run the command again to resume an interrupted study."""
    plan = _adjusted(_plan(data, tuple(away or ())), grid=grid, seeds=seeds, mode=mode, limit=limit)
    folder = out or Settings().dermnote_home / "study"
    started = time.monotonic()
    with options.note_service() as service, output.progress_bars() as progress:
        service.require_ready()
        from dermnote_train.study.cells.outputs import read_cell  # slow to load; a faulty plan is reported first
        from dermnote_train.study.runner import CELLS, PARTS, run_study
        from dermnote_train.study.samples import drawn_samples

        state = run_study(
            plan,
            service=service,
            out=folder,
            progress=progress,
            parts=PARTS if grid == "all" else (grid,),
            should_stop=lambda: minutes is not None and time.monotonic() - started > 60 * minutes,
        )
        samples = drawn_samples(
            service, state, folder=folder / "drawn", out=folder / "notes" / "drawn", progress=progress
        )
        model = service.model()
    from dermnote_train.report.study.model_cards import write_cards
    from dermnote_train.report.study.page import write_study_report
    from dermnote_train.study.analysis.export import write_results
    from dermnote_train.study.analysis.figures import compute_results

    cells = [read_cell(folder / CELLS / one.path) for one in state.cells]
    ablations = [read_cell(folder / CELLS / one.path) for one in state.ablations]
    results = compute_results(
        cells,
        pools={name: domain.records for name, domain in state.data.domains.items()},
        resamples=plan.resamples,
        ablations=ablations,
    )
    write_results(folder, results)
    write_cards(folder, state, results)
    report = write_study_report(
        folder / "report.html", state, results, cells=cells, samples=samples, model=model, public=public
    )
    print_study(state, results)
    output.print_line(f"report: {report}")
    if state.remaining:
        output.print_line(f"{state.remaining} cells are left; run the same command again to continue")


def _plan(data: Path, away: tuple[Path, ...]) -> "StudyPlan":
    from dermnote_train.data.adapters import read_folder
    from dermnote_train.study.plan import plan_of, read_plan

    if data.suffix == ".toml":
        if away:
            raise typer.BadParameter("a study plan names its own test data; remove --away")
        return read_plan(data)
    return plan_of(data, away, names={folder: read_folder(folder).name for folder in (data, *away)})


def _adjusted(
    plan: "StudyPlan", *, grid: str, seeds: int | None, mode: StudyMode | None, limit: int | None
) -> "StudyPlan":
    parts = {"frozen": plan.frozen, "tuned": plan.tuned, "trials": plan.ablations}
    if grid != "all" and parts[grid] is None:
        raise typer.BadParameter(f"the plan has no {grid} grid; choose another --grid")
    changes: dict[str, object] = {
        name: value for name, value in (("mode", mode), ("limit", limit)) if value is not None
    }
    for name, one in parts.items():
        if one is not None and seeds is not None:
            most = one.seeds if name == "trials" else seeds  # ablations: never more than planned
            changes["ablations" if name == "trials" else name] = one.model_copy(update={"seeds": min(seeds, most)})
    return plan.model_copy(update=changes)


def print_study(state: "StudyState", results: "StudyResults") -> None:
    """Print the best arm for each question and setting."""
    from dermnote_train.report.study.results import answers

    output.print_table(
        f"The best arm of each question ({len(state.cells)} cells, {results.opened} configurations evaluated)",
        ("trained on", "tested on", "question", "arm", "gain", "95 % interval", "p (Holm)"),
        [
            (f"{where.route} ({where.grid})", where.pool, one.question, one.arm, one.value, one.interval, one.p_value)
            for one in answers(results)
            for where in [one.setting]
        ],
    )
