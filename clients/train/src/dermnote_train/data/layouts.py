"""The CSV layouts that Dermnote reads: which column holds which fact. Tables of names, no reading."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dermnote_contracts.metadata import Findings, LesionMetadata, Symptoms
from dermnote_train.data.tables import ONE_HOT_DIAGNOSIS
from dermnote_train.errors import UserError

SIZE = "clin_size_long_diam_mm"


@dataclass(frozen=True)
class Layout:
    """Where a CSV keeps things. `facts`: metadata path -> column. `leaky` and `leaky_sizes`: facts that are filled
    by diagnosis, so that their mere presence tells it; left out unless asked for.

    `image`: candidates, the first that the header has is used. `group`: candidates, the first that a row has filled;
    a row without any is its own group where `loose_groups`. `needs`: columns that must be there.

    `diagnoses`: columns of the diagnosis, the most exact first; the first whose term is known counts. `spelled`: terms
    of a fact that the data set spells in its own way. `passes_over`: cells, by column, whose rows are not read;
    `partly_labelled`: neither are rows without a diagnosis, or with one that is no skin lesion's.
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
    diagnoses: tuple[str, ...] = ()
    spelled: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    passes_over: Mapping[str, frozenset[str]] = field(default_factory=dict)
    partly_labelled: bool = False
    loose_groups: bool = False
    recognised_by: tuple[str, ...] = ()
    """Columns that no other layout has all of."""

    @property
    def diagnosis(self) -> str:
        """The column of the diagnosis."""
        return self.facts["diagnosis"]

    def leaky_paths(self, columns: tuple[str, ...]) -> tuple[str, ...]:
        """The facts that a header has and that are known to be filled by diagnosis."""
        sizes = (SIZE,) if any(name in columns for name in self.leaky_sizes) else ()
        return (*(path for path, column in self.leaky.items() if column in columns), *sizes)


SYMPTOMS = tuple(Symptoms.model_fields)

HAM10000 = Layout(
    name="ham10000",
    title="HAM10000 (dermoscopy)",
    licence="CC BY-NC 4.0",
    image=("image", "image_id"),
    group=("lesion_id",),
    needs=("lesion_id", "dx", "age", "sex", "localization"),
    facts={"diagnosis": "dx", "age": "age", "sex": "sex", "site": "localization"},
    recognised_by=("dx",),
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
    recognised_by=("diagnostic",),
)

BCN20000 = Layout(
    name="bcn20000",
    title="BCN20000 (dermoscopy, Barcelona)",
    licence="CC BY-NC 4.0",
    image=("bcn_filename",),
    group=("lesion_id",),
    needs=("lesion_id", "diagnosis"),
    facts={"diagnosis": "diagnosis", "age": "age_approx", "sex": "sex", "site": "anatom_site_general"},
    partly_labelled=True,  # its test part comes without diagnoses
    loose_groups=True,
    recognised_by=("bcn_filename",),
)

ISIC_ARCHIVE = Layout(
    name="isic",
    title="ISIC Archive (metadata.csv of isic-cli)",
    licence="as each image's copyright_license says",
    image=("isic_id",),
    group=("patient_id", "lesion_id"),
    facts={
        "diagnosis": "diagnosis",
        "age": "age_approx",
        "sex": "sex",
        "site": "anatom_site_general",
        "benign_malignant": "benign_malignant",
        "image_type": "image_type",
        "fitzpatrick_skin_type": "fitzpatrick_skin_type",
        "clin_size_long_diam_mm": "clin_size_long_diam_mm",
        "personal_hx_mm": "personal_hx_mm",
        "family_hx_mm": "family_hx_mm",
    },
    diagnoses=("diagnosis_5", "diagnosis_4", "diagnosis_3", "diagnosis_2", "diagnosis"),
    spelled={"diagnosis": {"Melanoma Invasive": "melanoma", "Nevus, NOS": "nevus"}},
    partly_labelled=True,
    loose_groups=True,
    recognised_by=("isic_id",),
)

ISIC_2019 = Layout(
    name="isic2019",
    title="ISIC 2019 challenge (ground truth and metadata)",
    licence="CC BY-NC 4.0",
    image=("image",),
    group=("lesion_id",),
    facts={
        "diagnosis": ONE_HOT_DIAGNOSIS,
        "age": "age_approx",
        "sex": "sex",
        "site": "anatom_site_general",
    },
    partly_labelled=True,  # UNK
    loose_groups=True,
    recognised_by=(ONE_HOT_DIAGNOSIS,),
)

DERM7PT = Layout(
    name="derm7pt",
    title="Derm7pt (seven-point checklist, dermoscopy)",
    licence="as its authors' terms say",
    image=("derm",),
    group=("case_num",),
    needs=("case_num", "diagnosis"),
    facts={"diagnosis": "diagnosis", "sex": "sex", "site": "location"},
    recognised_by=("derm", "seven_point_score"),
)

FITZPATRICK17K = Layout(
    name="fitzpatrick17k",
    title="Fitzpatrick17k (photographs)",
    licence="CC BY-NC-SA 3.0",
    image=("md5hash",),
    group=(),
    needs=("label", "fitzpatrick_scale"),
    facts={"diagnosis": "label", "fitzpatrick_skin_type": "fitzpatrick_scale"},
    passes_over={"qc": frozenset({"3 Wrongly labelled"})},
    partly_labelled=True,  # most of its conditions are no lesions
    recognised_by=("md5hash",),
)

LAYOUTS = (HAM10000, PAD_UFES_20, BCN20000, ISIC_ARCHIVE, ISIC_2019, DERM7PT, FITZPATRICK17K)


def layout_of(table: Path, columns: tuple[str, ...]) -> Layout:
    """The layout of a header. Raises UserError that names the columns that lack."""
    plain = {"image", "diagnosis"} <= set(columns)  # and isic_id or the like beside them is a column of its owner's
    known = (layout for layout in LAYOUTS if all(name in columns for name in layout.recognised_by))
    layout = next((one for one in known if not (plain and one.diagnosis == "diagnosis")), None)
    layout = layout or _plain(table, columns)
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
        group=tuple(name for name in ("group", "patient_id", "lesion_id") if name in columns)[:1],
        needs=(diagnosis,),
        facts=facts | {"diagnosis": diagnosis},
    )
