"""Each label of the public data sets maps to exactly its term, never to a coarser or finer one."""

import pytest

from dermnote_contracts.metadata import LesionMetadata
from dermnote_contracts.vocabulary import diagnoses

HAM10000 = {
    "nv": "nevus",
    "bkl": "benign keratosis",
    "mel": "melanoma",
    "bcc": "basal cell carcinoma",
    "akiec": "actinic keratosis or intraepithelial carcinoma",
    "vasc": "vascular lesion",
    "df": "dermatofibroma",
}
PAD_UFES_20 = {
    "NEV": "nevus",
    "SEK": "seborrheic keratosis",
    "ACK": "actinic keratosis",
    "BCC": "basal cell carcinoma",
    "SCC": "squamous cell carcinoma",
    "MEL": "melanoma",
}
ISIC_2019 = {
    "MEL": "melanoma",
    "NV": "nevus",
    "BCC": "basal cell carcinoma",
    "AK": "actinic keratosis",
    "BKL": "benign keratosis",
    "DF": "dermatofibroma",
    "VASC": "vascular lesion",
    "SCC": "squamous cell carcinoma",
}
DERM7PT = {
    "basal cell carcinoma": "basal cell carcinoma",
    "blue nevus": "blue nevus",
    "clark nevus": "clark nevus",
    "combined nevus": "combined nevus",
    "congenital nevus": "congenital nevus",
    "dermal nevus": "dermal nevus",
    "dermatofibroma": "dermatofibroma",
    "lentigo": "lentigo",
    "melanoma": "melanoma",
    "melanoma (in situ)": "melanoma in situ",
    "melanoma (less than 0.76 mm)": "melanoma less than 0.76 mm",
    "melanoma (0.76 to 1.5 mm)": "melanoma 0.76 to 1.5 mm",
    "melanoma (more than 1.5 mm)": "melanoma more than 1.5 mm",
    "melanoma metastasis": "melanoma metastasis",
    "melanosis": "melanosis",
    "recurrent nevus": "recurrent nevus",
    "reed or spitz nevus": "reed or spitz nevus",
    "seborrheic keratosis": "seborrheic keratosis",
    "vascular lesion": "vascular lesion",
    "miscellaneous": "miscellaneous lesion",
}
BCN20000 = {
    "Basal cell carcinoma": "basal cell carcinoma",
    "Dermatofibroma": "dermatofibroma",
    "Melanoma metastasis": "melanoma metastasis",
    "Melanoma, NOS": "melanoma",
    "Nevus": "nevus",
    "Scar": "scar",
    "Seborrheic keratosis": "seborrheic keratosis",
    "Solar lentigo": "solar lentigo",
    "Solar or actinic keratosis": "actinic keratosis",
    "Squamous cell carcinoma, NOS": "squamous cell carcinoma",
}
# All 114 labels of the column `label`, by the column `three_partition_label`.
FITZPATRICK17K = {
    "benign": {
        "becker nevus": "becker nevus",
        "congenital nevus": "congenital nevus",
        "dermatofibroma": "dermatofibroma",
        "disseminated actinic porokeratosis": "disseminated superficial actinic porokeratosis",
        "epidermal nevus": "epidermal nevus",
        "fordyce spots": "fordyce spots",
        "granuloma pyogenic": "pyogenic granuloma",
        "halo nevus": "halo nevus",
        "lymphangioma": "lymphangioma",
        "milia": "milia",
        "mucous cyst": "mucous cyst",
        "naevus comedonicus": "nevus comedonicus",
        "nevocytic nevus": "nevus",
        "nevus sebaceous of jadassohn": "nevus sebaceus",
        "pilar cyst": "pilar cyst",
        "pilomatricoma": "pilomatricoma",
        "porokeratosis actinic": "actinic porokeratosis",
        "porokeratosis of mibelli": "porokeratosis of mibelli",
        "port wine stain": "port-wine stain",
        "prurigo nodularis": "prurigo nodularis",
        "pyogenic granuloma": "pyogenic granuloma",
        "seborrheic keratosis": "seborrheic keratosis",
        "syringoma": "syringoma",
        "telangiectases": "cutaneous telangiectasia",
    },
    "malignant": {
        "actinic keratosis": "actinic keratosis",
        "basal cell carcinoma": "basal cell carcinoma",
        "basal cell carcinoma morpheiform": "morpheaform basal cell carcinoma",
        "kaposi sarcoma": "kaposi sarcoma",
        "lentigo maligna": "lentigo maligna",
        "malignant melanoma": "melanoma",
        "melanoma": "melanoma",
        "mycosis fungoides": "mycosis fungoides",
        "solid cystic basal cell carcinoma": "solid cystic basal cell carcinoma",
        "squamous cell carcinoma": "squamous cell carcinoma",
        "superficial spreading melanoma ssm": "superficial spreading melanoma",
    },
    "non-neoplastic": {
        "acanthosis nigricans": "acanthosis nigricans",
        "acne": "acne vulgaris",
        "acne vulgaris": "acne vulgaris",
        "acquired autoimmune bullous diseaseherpes gestationis": "herpes gestationis",
        "acrodermatitis enteropathica": "acrodermatitis enteropathica",
        "allergic contact dermatitis": "allergic contact dermatitis",
        "aplasia cutis": "aplasia cutis",
        "behcets disease": "behcet disease",
        "calcinosis cutis": "calcinosis cutis",
        "cheilitis": "cheilitis",
        "dariers disease": "darier disease",
        "dermatomyositis": "dermatomyositis",
        "drug eruption": "drug eruption",
        "drug induced pigmentary changes": "drug-induced pigmentary changes",
        "dyshidrotic eczema": "dyshidrotic eczema",
        "eczema": "eczema",
        "ehlers danlos syndrome": "ehlers-danlos syndrome",
        "epidermolysis bullosa": "epidermolysis bullosa",
        "erythema annulare centrifigum": "erythema annulare centrifugum",
        "erythema elevatum diutinum": "erythema elevatum diutinum",
        "erythema multiforme": "erythema multiforme",
        "erythema nodosum": "erythema nodosum",
        "factitial dermatitis": "factitial dermatitis",
        "fixed eruptions": "fixed eruption",
        "folliculitis": "folliculitis",
        "granuloma annulare": "granuloma annulare",
        "hailey hailey disease": "hailey-hailey disease",
        "hidradenitis": "hidradenitis",
        "ichthyosis vulgaris": "ichthyosis vulgaris",
        "incontinentia pigmenti": "incontinentia pigmenti",
        "juvenile xanthogranuloma": "juvenile xanthogranuloma",
        "keloid": "keloid",
        "keratosis pilaris": "keratosis pilaris",
        "langerhans cell histiocytosis": "langerhans cell histiocytosis",
        "lichen amyloidosis": "lichen amyloidosis",
        "lichen planus": "lichen planus",
        "lichen simplex": "lichen simplex",
        "livedo reticularis": "livedo reticularis",
        "lupus erythematosus": "lupus erythematosus",
        "lupus subacute": "subacute lupus erythematosus",
        "lyme disease": "lyme disease",
        "mucinosis": "mucinosis",
        "myiasis": "myiasis",
        "necrobiosis lipoidica": "necrobiosis lipoidica",
        "nematode infection": "nematode infection",
        "neurodermatitis": "neurodermatitis",
        "neurofibromatosis": "neurofibromatosis",
        "neurotic excoriations": "neurotic excoriations",
        "neutrophilic dermatoses": "neutrophilic dermatosis",
        "papilomatosis confluentes and reticulate": "confluent and reticulated papillomatosis",
        "paronychia": "paronychia",
        "pediculosis lids": "pediculosis of the eyelids",
        "perioral dermatitis": "perioral dermatitis",
        "photodermatoses": "photodermatosis",
        "pityriasis lichenoides chronica": "pityriasis lichenoides chronica",
        "pityriasis rosea": "pityriasis rosea",
        "pityriasis rubra pilaris": "pityriasis rubra pilaris",
        "porphyria": "porphyria",
        "psoriasis": "psoriasis",
        "pustular psoriasis": "pustular psoriasis",
        "rhinophyma": "rhinophyma",
        "rosacea": "rosacea",
        "sarcoidosis": "sarcoidosis",
        "scabies": "scabies",
        "scleroderma": "scleroderma",
        "scleromyxedema": "scleromyxedema",
        "seborrheic dermatitis": "seborrheic dermatitis",
        "stasis edema": "stasis edema",
        "stevens johnson syndrome": "stevens-johnson syndrome",
        "striae": "striae distensae",
        "sun damaged skin": "dermatoheliosis",
        "tick bite": "tick bite",
        "tuberous sclerosis": "tuberous sclerosis",
        "tungiasis": "tungiasis",
        "urticaria": "urticaria",
        "urticaria pigmentosa": "urticaria pigmentosa",
        "vitiligo": "vitiligo",
        "xanthomas": "xanthoma",
        "xeroderma pigmentosum": "xeroderma pigmentosum",
    },
}
LABELS = [
    pytest.param(label, term, id=f"{name}-{label}")
    for name, labels in {
        "HAM10000": HAM10000,
        "PAD-UFES-20": PAD_UFES_20,
        "ISIC-2019": ISIC_2019,
        "BCN20000": BCN20000,
        "Derm7pt": DERM7PT,
        **{f"Fitzpatrick17k-{part}": labels for part, labels in FITZPATRICK17K.items()},
    }.items()
    for label, term in labels.items()
]
SITES = {
    # HAM10000
    "abdomen": "abdomen",
    "acral": "acral skin",
    "back": "back",
    "chest": "chest",
    "ear": "ear",
    "face": "face",
    "foot": "foot",
    "genital": "genital area",
    "hand": "hand",
    "lower extremity": "lower extremity",
    "neck": "neck",
    "scalp": "scalp",
    "trunk": "trunk",
    "upper extremity": "upper extremity",
    # PAD-UFES-20
    "ARM": "arm",
    "FOREARM": "forearm",
    "NOSE": "nose",
    "THIGH": "thigh",
    "LIP": "lip",
    "ABDOMEN": "abdomen",
    "BACK": "back",
    "CHEST": "chest",
    "EAR": "ear",
    "FACE": "face",
    "FOOT": "foot",
    "HAND": "hand",
    "NECK": "neck",
    "SCALP": "scalp",
    # ISIC: anatom_site_general and anatom_site_special (all of its hierarchy: test_isic.py)
    "torso": "trunk",
    "anterior torso": "anterior torso",
    "posterior torso": "posterior torso",
    "lateral torso": "lateral torso",
    "head/neck": "head and neck",
    "palms/soles": "palms and soles",
    "oral/genital": "oral or genital mucosa",
    "oral or genital": "oral or genital mucosa",
    "acral NOS": "acral skin",
    "acral palms or soles": "palms and soles",
    "nail NOS": "nail",
    "fingernail": "fingernail",
    "toenail": "toenail",
    # Derm7pt
    "lower limbs": "lower extremity",
    "upper limbs": "upper extremity",
    "head neck": "head and neck",
    "buttocks": "buttocks",
    "genital areas": "genital area",
}
# Pre-cancerous in our vocabulary; Fitzpatrick17k lists them as malignant or benign.
PRE_CANCEROUS = {
    "actinic keratosis": "malignant",
    "actinic porokeratosis": "benign",
    "disseminated superficial actinic porokeratosis": "benign",
    "porokeratosis of mibelli": "benign",
}
# Different diseases, or a term and its subtype, that are easily confused.
KEPT_APART = [
    ("akiec", "ak"),
    ("akiec", "intraepithelial carcinoma"),
    ("bkl", "seborrheic keratosis"),
    ("bkl", "pigmented benign keratosis"),
    ("reed or spitz nevus", "spitz nevus"),
    ("epidermal nevus", "nevus sebaceous of jadassohn"),
    ("lentigo maligna", "lentigo maligna melanoma"),
    ("scc", "invasive squamous cell carcinoma"),
    ("mycosis fungoides", "cutaneous t-cell lymphoma"),
    ("angioma", "cherry angioma"),
    ("porokeratosis of mibelli", "porokeratosis actinic"),
    ("porokeratosis actinic", "disseminated actinic porokeratosis"),
    ("psoriasis", "pustular psoriasis"),
    ("lupus erythematosus", "lupus subacute"),
    ("lichen simplex", "neurodermatitis"),
]


@pytest.mark.parametrize(("label", "term"), LABELS)
def test_a_diagnosis_label_maps_to_its_term(label: str, term: str) -> None:
    assert LesionMetadata(diagnosis=label).diagnosis == term
    assert LesionMetadata(diagnosis=label.upper()).diagnosis == term


def test_fitzpatrick17k_has_114_labels() -> None:
    assert sum(len(labels) for labels in FITZPATRICK17K.values()) == 114


@pytest.mark.parametrize(
    ("label", "partition"), [(label, part) for part, labels in FITZPATRICK17K.items() for label in labels]
)
def test_label_and_partition_of_fitzpatrick17k_are_consistent(label: str, partition: str) -> None:
    metadata = LesionMetadata.model_validate({"diagnosis": label, "benign_malignant": partition})
    assert metadata.benign_malignant == partition.replace("non-neoplastic", "benign")
    assert metadata.diagnosis is not None
    superclass = diagnoses()[metadata.diagnosis].superclass
    if superclass == "pre-cancerous":
        assert PRE_CANCEROUS[metadata.diagnosis] == metadata.benign_malignant
    else:
        assert superclass == metadata.benign_malignant


def test_the_unknown_class_of_isic_2019_counts_as_missing() -> None:
    assert LesionMetadata(diagnosis="UNK").given() == {}


@pytest.mark.parametrize(("one", "other"), KEPT_APART)
def test_similar_diagnoses_stay_separate_terms(one: str, other: str) -> None:
    assert LesionMetadata(diagnosis=one) != LesionMetadata(diagnosis=other)


@pytest.mark.parametrize(("label", "term"), SITES.items())
def test_a_site_label_maps_to_its_term(label: str, term: str) -> None:
    assert LesionMetadata(site=label).site == term


@pytest.mark.parametrize(
    ("one", "other"),
    [("arm", "upper arm"), ("back", "lower back"), ("head", "head/neck"), ("chest", "anterior chest"), ("leg", "calf")],
)
def test_similar_sites_stay_separate_terms(one: str, other: str) -> None:
    assert LesionMetadata(site=one) != LesionMetadata(site=other)


@pytest.mark.parametrize(
    ("british", "american"),
    [
        ("melanocytic naevus", "melanocytic nevus"),
        ("seborrhoeic keratosis", "seborrheic keratosis"),
        ("seborrhoeic dermatitis", "seborrheic dermatitis"),
        ("haemangioma", "hemangioma"),
        ("stasis oedema", "stasis edema"),
        ("scleromyxoedema", "scleromyxedema"),
        ("morphoeic basal cell carcinoma", "morpheaform basal cell carcinoma"),
    ],
)
def test_british_and_american_spellings_are_the_same_term(british: str, american: str) -> None:
    assert LesionMetadata(diagnosis=british) == LesionMetadata(diagnosis=american)


def test_naevus_and_nevus_are_interchangeable() -> None:
    for name in diagnoses():
        assert LesionMetadata(diagnosis=name.replace("nevus", "naevus")).diagnosis == name
