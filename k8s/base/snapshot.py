"""Take a snapshot of the retrieval service and delete the oldest ones. Environment: RETRIEVAL_URL, KEY_FILE, KEEP."""

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

URL = os.environ["RETRIEVAL_URL"].rstrip("/")
KEEP = int(os.environ["KEEP"])
KEY = Path(os.environ["KEY_FILE"]).read_text().strip() if os.environ.get("KEY_FILE") else None
TIMEOUT_S = 3600


def ask(method: str, path: str) -> bytes:
    """The body of an answer; ends the program with the service's own words where it refuses."""
    headers = {"Authorization": f"Bearer {KEY}"} if KEY else {}
    request = urllib.request.Request(f"{URL}{path}", method=method, headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            body: bytes = answer.read()
            return body
    except urllib.error.HTTPError as refused:
        sys.exit(f"{method} {path}: {refused.code} {refused.read().decode(errors='replace')}")
    except OSError as away:
        sys.exit(f"{method} {path}: {away}")


if KEEP < 1:
    sys.exit("KEEP must be at least 1")
print("taken:", json.loads(ask("POST", "/index/snapshots"))["id"])
newest_first = sorted(json.loads(ask("GET", "/index/snapshots")), key=lambda one: one["created_at"], reverse=True)
for old in newest_first[KEEP:]:
    ask("DELETE", f"/index/snapshots/{old['id']}")
    print("deleted:", old["id"])
