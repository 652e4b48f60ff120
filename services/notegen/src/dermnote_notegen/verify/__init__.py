"""The verifier: does a note say what the facts say, and nothing else? Deterministic and pure."""

from dermnote_notegen.verify.verdict import Verdict, Verifier

__all__ = ["Verdict", "Verifier"]
