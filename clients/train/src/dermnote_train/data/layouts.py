"""The CSV layouts that Dermnote reads: which column holds which fact. Tables of names, no reading."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dermnote_contracts.metadata import Findings, LesionMetadata, Symptoms
from dermnote_train.errors import UserError


@dataclass(frozen=True)
class Layout:
    """Where a CSV keeps things. `facts`: metadata path -> column. `leaky` and `leaky_sizes`: facts that are filled
    by diagnosis, so that their mere presence tells it; left out unless asked for.

    `image`, `group`: candidates, the first that the header has is used. `needs`: columns that must be there.
    """

    name: str
    title: str
    licence: str
    image: tuple[str, ...]
    group: tuple[str, ...]
    facts: Mapping[str, str]
    needs: tuple[str, ...] = ()
    leaky: Mapping[str, str] = field(default_factory=dict)
    leaky_sizes: tuple[str, ...] = ()

    @property
    def diagnosis(self) -> str:
        """The column of the diagnosis."""
        return self.facts["diagnosis"]


SYMPTOMS = tuple(Symptoms.model_fields)

HAM10000 = Layout(
    name="ham10000",
    title="HAM10000 (dermoscopy)",
    licence="CC BY-NC 4.0",
    image=("image", "image_id"),
    group=("lesion_id",),
    needs=("lesion_id", "dx", "age", "sex", "localization"),
    facts={"diagnosis": "dx", "age": "age", "sex": "sex", "site": "localization"},
)

PAD_UFES_20 = Layout(
    name="pad_ufes_20",
    title="PAD-UFES-20 (smartphone photographs)",
    licence="CC BY 4.0",
    image=("image", "img_id"),
    group=("patient_id",),
    needs=("patient_id", "diagnostic", "age", "region", *SYMPTOMS),
    facts={"diagnosis": "diagnostic", "age": "age", "site": "region"} | {f"symptoms.{name}": name for name in SYMPTOMS},
    leaky={"sex": "gender", "fitzpatrick_skin_type": "fitspatrick"},
    leaky_sizes=("diameter_1", "diameter_2"),
)


def layout_of(table: Path, columns: tuple[str, ...]) -> Layout:
    """The layout of a header. Raises UserError that names the columns that lack."""
    if "dx" in columns:
        layout = HAM10000
    elif "diagnostic" in columns:
        layout = PAD_UFES_20
    else:
        layout = _plain(table, columns)
    lacking = [name for name in layout.needs if name not in columns]
    if not any(name in columns for name in layout.image):
        lacking.insert(0, " or ".join(layout.image))
    if lacking:
        raise UserError(
            f"{table}: no column {', '.join(lacking)}; read as {layout.title}, it needs "
            f"{', '.join([' or '.join(layout.image), *layout.needs])}"
        )
    return layout


def _plain(table: Path, columns: tuple[str, ...]) -> Layout:
    diagnosis = "label" if "label" in columns and "diagnosis" not in columns else "diagnosis"
    flat = {name: name for name in LesionMetadata.model_fields if name not in ("diagnosis", "symptoms", "findings")}
    grouped = {f"symptoms.{name}": name for name in SYMPTOMS} | {
        f"findings.{name}": name for name in Findings.model_fields
    }
    dotted = {path: path for path in grouped if path in columns}
    facts = {path: column for path, column in (flat | grouped | dotted).items() if column in columns}
    return Layout(
        name=table.resolve().parent.name,
        title="plain CSV and image folder",
        licence="as stated by its owner",
        image=("image", "image_id", "img_id", "filename"),
        group=("group", "patient_id", "lesion_id"),
        needs=(diagnosis,),
        facts=facts | {"diagnosis": diagnosis},
    )
