"""The verifier: does a note say what the facts say, and nothing else? Deterministic and pure."""

from dermnote_notegen.verify.verdict import Verdict, verify

__all__ = ["Verdict", "verify"]
