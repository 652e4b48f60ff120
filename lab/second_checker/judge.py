"""Checks each claim against the metadata, and determines which facts it states.

A term that is true but broader than the fact ("trunk" for "chest") is allowed, but does not state the fact.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from dermnote_contracts.metadata import walk
from dermnote_contracts.vocabulary import diagnoses, sites, vocabularies
from lab.second_checker.strike import Claim

Stated = set[tuple[str, str]]
_ADULT_YEARS = 18
_TRUNK = {"anterior torso", "posterior torso", "lateral torso"}
_FACE = {"forehead", "cheek", "nose", "lip", "eyelid"}
# Image type -> (alternative sets of words, one of which must occur completely; all words that may occur).
_IMAGES: dict[str, tuple[tuple[set[str], ...], set[str]]] = {
    "dermoscopic": (({"dermoscopic"},), {"dermoscopic"}),
    "clinical: overview": (({"overview"},), {"clinical", "overview"}),
    "clinical: close-up": (({"close up"}, {"clinical"}), {"clinical", "close up"}),
    "TBP tile: close-up": (({"tbp", "close up"},), {"tbp", "tile", "close up"}),
    "TBP tile: overview": (({"tbp", "overview"},), {"tbp", "tile", "overview"}),
    "RCM: macroscopic": (({"rcm", "macroscopic"},), {"rcm", "macroscopic"}),
    "RCM: tile": (({"rcm", "tile"},), {"rcm", "tile"}),
    "RCM: mosaic": (({"rcm", "mosaic"},), {"rcm", "mosaic"}),
}


def verdict(claim: Claim, allowed: Mapping[str, Any], *, typical: bool) -> tuple[str | None, Stated]:
    """The problem with a claim, if any, and the facts that it states."""
    given = dict(walk(allowed)).get(claim.path)
    value = _value(claim)
    description = f"{claim.path} {_text(value)}"
    if typical and not claim.path.startswith(("findings.", "diagnosis")):
        return f"never worded as typical: {description}", set()
    if not claim.positive and claim.path not in _TWO_SIDED and not _is_flag(claim.path):
        return f"unsupported denial: {description}", set()
    if _is_same(claim.path, value, given):
        return None, {(claim.path, _text(given if claim.path == "image_type" else value))}
    if _is_broader(claim.path, value, allowed):
        return None, set()
    return (f"unsupported: {description}" if given is None else f"contradicted: {description}"), set()


def missing(facts: Mapping[str, Any], stated: Stated) -> list[str]:
    """The facts that no claim states."""
    facts_listed = [
        (path, one) for path, value in walk(facts) for one in (value if isinstance(value, list) else [value])
    ]
    return [f"missing: {path} {_text(one)}" for path, one in facts_listed if (path, _text(one)) not in stated]


_TWO_SIDED = {"findings.asymmetry": {"symmetric": "asymmetric", "asymmetric": "symmetric"}}


def _is_flag(path: str) -> bool:
    return path.startswith("symptoms.") or path.endswith("_hx_mm")


def _value(claim: Claim) -> object:
    if claim.path.startswith("symptoms."):
        return "yes" if claim.positive else "no"
    if _is_flag(claim.path):
        return claim.positive
    if claim.path in _TWO_SIDED and not claim.positive:
        return _TWO_SIDED[claim.path][str(claim.value)]
    return claim.value


def _text(value: object) -> str:
    if isinstance(value, frozenset):
        return " ".join(sorted(value))
    return f"{float(value):g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _is_same(path: str, value: object, given: Any) -> bool:
    if given is None:
        return False
    if path == "image_type" and isinstance(value, frozenset):
        required, allowed = _IMAGES[given]
        return value <= allowed and any(keys <= value for keys in required)
    if isinstance(given, list):
        return value in given
    return bool(value == given)


def _is_broader(path: str, value: object, allowed: Mapping[str, Any]) -> bool:
    given = dict(walk(allowed)).get(path)
    if path == "life stage":
        age = allowed.get("age")
        return age is not None and (age < _ADULT_YEARS) == (value == "minor")
    if path == "benign_malignant":
        diagnosis = allowed.get("diagnosis")
        superclass = diagnoses()[diagnosis].superclass if diagnosis else None
        return value == superclass or (value == "indeterminate" and str(given).startswith("indeterminate"))
    if given is None:
        return False
    if path == "image_type" and isinstance(value, frozenset):
        return value <= _IMAGES[given][1]
    if path == "findings.colours":
        return value == "brown" and any(colour.endswith("brown") for colour in given)
    broader = _regions(given) if path == "site" else {diagnoses()[given].class_name} if path == "diagnosis" else set()
    return value in broader


@cache
def _regions(site: str) -> frozenset[str]:
    """The regions that include a site: ISIC's general site, the trunk for torso sites, the face for its parts."""
    general = sites()[site].general
    regions = {vocabularies()["site"].normalise(general)} if general else set()
    regions |= {"trunk"} if regions & _TRUNK else set()
    regions |= {"face"} if site in _FACE else set()
    regions |= {"oral or genital mucosa"} if general == "oral/genital" else set()
    return frozenset(regions)
