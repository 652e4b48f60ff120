"""The verifier: checks that a note states its facts and claims nothing else. Deterministic and pure."""

from dermnote_notegen.verify.verdict import Verdict, Verifier

__all__ = ["Verdict", "Verifier"]
