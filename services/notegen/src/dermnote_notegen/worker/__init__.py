"""The worker program: one supervisor, its engine process, and RQ workers that write notes.

`write_note` is re-exported because queued jobs name it as `dermnote_notegen.worker.write_note`.
"""

from dermnote_notegen.worker.writer import write_note

__all__ = ["write_note"]
