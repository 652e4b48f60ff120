"""CSV layouts: which column holds which fact, for the known data sets and for a folder's own columns.toml."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from dermnote_contracts.metadata import Findings, LesionMetadata, Symptoms
from dermnote_train.data.tables import ONE_HOT_DIAGNOSIS, Table
from dermnote_train.errors import UserError

SIZE = "clin_size_long_diam_mm"
COLUMNS_FILE = "columns.toml"


@dataclass(frozen=True)
class Layout:
    """The columns of a CSV. `facts`: metadata path -> column; `required`: columns that must exist.

    `image`: possible image columns; the first that the header contains is used. `group`: possible group columns; each
    row uses the first that it fills. With `optional_groups`, a row that fills none forms its own group.

    `leaky`: metadata path -> column, of facts that the data set fills in depending on the diagnosis; `leaky_sizes`:
    such columns with diameters, of which the largest is used. Both are dropped by default. `diagnoses`: diagnosis
    columns, most specific first; the first known term is used. `spelled`: metadata path -> the data set's term ->
    Dermnote's. `passes_over`: column -> cells whose rows are skipped. `partly_labelled`: rows without a diagnosis, or
    with one that is not a known skin lesion, are skipped too.
    """

    name: str
    title: str
    licence: str
    image: tuple[str, ...]
    group: tuple[str, ...]
    facts: Mapping[str, str]
    required: tuple[str, ...] = ()
    leaky: Mapping[str, str] = field(default_factory=dict)
    leaky_sizes: tuple[str, ...] = ()
    diagnoses: tuple[str, ...] = ()
    spelled: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    passes_over: Mapping[str, frozenset[str]] = field(default_factory=dict)
    partly_labelled: bool = False
    optional_groups: bool = False
    recognised_by: tuple[str, ...] = ()
    """Columns that, together, only this layout has."""

    @property
    def diagnosis(self) -> str:
        """The diagnosis column."""
        return self.facts["diagnosis"]

    def leaky_paths(self, columns: tuple[str, ...]) -> tuple[str, ...]:
        """The leaky facts that a header contains."""
        sizes = (SIZE,) if any(name in columns for name in self.leaky_sizes) else ()
        return (*(path for path, column in self.leaky.items() if column in columns), *sizes)


SYMPTOMS = tuple(Symptoms.model_fields)
FIELDS = tuple(name for name in LesionMetadata.model_fields if name not in ("symptoms", "findings"))
FACTS = (
    *FIELDS,
    *(f"symptoms.{name}" for name in SYMPTOMS),
    *(f"findings.{name}" for name in Findings.model_fields),
)

ISIC_FACTS = {"age": "age_approx", "sex": "sex", "site": "anatom_site_general"}

HAM10000 = Layout(
    name="ham10000",
    title="HAM10000 (dermoscopy)",
    licence="CC BY-NC 4.0",
    image=("image", "image_id"),
    group=("lesion_id",),
    required=("lesion_id", "dx", "age", "sex", "localization"),
    facts={"diagnosis": "dx", "age": "age", "sex": "sex", "site": "localization"},
    recognised_by=("dx",),
)

PAD_UFES_20 = Layout(
    name="pad_ufes_20",
    title="PAD-UFES-20 (smartphone photographs)",
    licence="CC BY 4.0",
    image=("image", "img_id"),
    group=("patient_id",),
    required=("patient_id", "diagnostic", "age", "region", *SYMPTOMS),
    facts={"diagnosis": "diagnostic", "age": "age", "site": "region"} | {f"symptoms.{name}": name for name in SYMPTOMS},
    leaky={"sex": "gender", "fitzpatrick_skin_type": "fitspatrick"},
    leaky_sizes=("diameter_1", "diameter_2"),
    recognised_by=("diagnostic",),
)

BCN20000 = Layout(
    name="bcn20000",
    title="BCN20000 (dermoscopy, Barcelona)",
    licence="CC BY-NC 4.0",
    image=("bcn_filename",),
    group=("lesion_id",),
    required=("lesion_id", "diagnosis"),
    facts={"diagnosis": "diagnosis", **ISIC_FACTS},
    partly_labelled=True,  # its test part has no diagnoses
    optional_groups=True,
    recognised_by=("bcn_filename",),
)

ISIC_ARCHIVE = Layout(
    name="isic",
    title="ISIC Archive (metadata.csv of isic-cli)",
    licence="per image (copyright_license)",
    image=("isic_id",),
    group=("patient_id", "lesion_id"),
    facts={name: name for name in FIELDS} | ISIC_FACTS,
    diagnoses=("diagnosis_5", "diagnosis_4", "diagnosis_3", "diagnosis_2", "diagnosis"),
    spelled={"diagnosis": {"Melanoma Invasive": "melanoma", "Nevus, NOS": "nevus"}},
    partly_labelled=True,
    optional_groups=True,
    recognised_by=("isic_id",),
)

ISIC_2019 = Layout(
    name="isic2019",
    title="ISIC 2019 challenge (ground truth and metadata)",
    licence="CC BY-NC 4.0",
    image=("image",),
    group=("lesion_id",),
    facts={"diagnosis": ONE_HOT_DIAGNOSIS, **ISIC_FACTS},
    partly_labelled=True,  # images of the class UNK have no diagnosis
    optional_groups=True,
    recognised_by=(ONE_HOT_DIAGNOSIS,),
)

DERM7PT = Layout(
    name="derm7pt",
    title="Derm7pt (seven-point checklist, dermoscopy)",
    licence="its authors' terms",
    image=("derm",),
    group=("case_num",),
    required=("case_num", "diagnosis"),
    facts={"diagnosis": "diagnosis", "sex": "sex", "site": "location"},
    recognised_by=("derm", "seven_point_score"),
)

FITZPATRICK17K = Layout(
    name="fitzpatrick17k",
    title="Fitzpatrick17k (photographs)",
    licence="CC BY-NC-SA 3.0",
    image=("md5hash",),
    group=(),
    required=("label", "fitzpatrick_scale"),
    facts={"diagnosis": "label", "fitzpatrick_skin_type": "fitzpatrick_scale"},
    passes_over={"qc": frozenset({"3 Wrongly labelled"})},
    partly_labelled=True,  # most of its conditions are not lesions
    recognised_by=("md5hash",),
)

LAYOUTS = (HAM10000, PAD_UFES_20, BCN20000, ISIC_ARCHIVE, ISIC_2019, DERM7PT, FITZPATRICK17K)


def layout_of(table: Path, columns: tuple[str, ...]) -> Layout:
    """The layout of a header. Raises UserError that names the missing columns."""
    plain = {"image", "diagnosis"} <= set(columns)  # a CSV with both is plain, even with isic_id
    known = (layout for layout in LAYOUTS if all(name in columns for name in layout.recognised_by))
    layout = next((one for one in known if not (plain and one.diagnosis == "diagnosis")), None)
    layout = layout or _plain(table, columns)
    missing = [name for name in layout.required if name not in columns]
    if not any(name in columns for name in layout.image):
        missing.insert(0, " or ".join(layout.image))
    if missing:
        raise UserError(
            f"{table}: no column {', '.join(missing)}; read as {layout.title}, it needs "
            f"{', '.join([' or '.join(layout.image), *layout.required])}"
        )
    return layout


def _plain(table: Path, columns: tuple[str, ...]) -> Layout:
    diagnosis = "label" if "label" in columns and "diagnosis" not in columns else "diagnosis"
    names = {path: path if path in columns else path.rpartition(".")[2] for path in FACTS}
    facts = {path: column for path, column in names.items() if column in columns}
    return Layout(
        name=table.resolve().parent.name,
        title="plain CSV and image folder",
        licence="as stated by its owner",
        image=("image", "image_id", "img_id", "filename"),
        group=tuple(name for name in ("group", "patient_id", "lesion_id") if name in columns)[:1],
        required=(diagnosis,),
        facts=facts | {"diagnosis": diagnosis},
    )


Name = Annotated[str, Field(min_length=1)]


class Columns(BaseModel):
    """The content of columns.toml; its fields mean the same as in Layout."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name | None = None
    title: Name = f"CSV and image folder, mapped by {COLUMNS_FILE}"
    licence: Name = "as stated by its owner"
    image: Annotated[tuple[Name], BeforeValidator(lambda column: (column,))]
    group: tuple[Name, ...] = ()
    facts: dict[str, Name]
    spelled: dict[str, dict[str, str]] = {}
    passes_over: dict[str, frozenset[str]] = {}
    partly_labelled: bool = False

    @model_validator(mode="after")
    def _known_facts(self) -> "Columns":
        unknown = [path for path in (*self.facts, *self.spelled) if path not in FACTS]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: unknown fact; use one of {', '.join(FACTS)}")
        if "diagnosis" not in self.facts:
            raise ValueError("facts must name the diagnosis column")
        return self


def folder_layout(folder: Path, table: Table) -> Layout:
    """The layout that columns.toml defines, or without that file the layout of the header. Raises UserError."""
    path = folder / COLUMNS_FILE
    if not path.is_file():
        return layout_of(table.path, table.columns)
    try:
        columns = Columns.model_validate(tomllib.loads(path.read_text("utf-8")))
    except ValidationError as error:
        details = error.errors()[0]
        location = ".".join(map(str, details["loc"]))
        raise UserError(f"{path}: {location + ': ' if location else ''}{details['msg']}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: not valid TOML ({error}); correct it as described in docs/data.md") from error
    layout = Layout(name=columns.name or folder.resolve().name, **columns.model_dump(exclude={"name"}))
    named = [*layout.image, *layout.group, *layout.facts.values(), *layout.passes_over]
    if missing := [name for name in dict.fromkeys(named) if name not in table.columns]:
        raise UserError(f"{path}: {table.path.name} has no column {', '.join(missing)}; correct the name")
    return layout
