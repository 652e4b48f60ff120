"""Takes a snapshot of the retrieval service and deletes all but the newest KEEP.

Environment: RETRIEVAL_URL, KEY_FILE, KEEP.
"""

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


def call(method: str, path: str) -> bytes:
    """The response body of a request; exits with the service's error message if the request fails."""
    headers = {"Authorization": f"Bearer {KEY}"} if KEY else {}
    request = urllib.request.Request(f"{URL}{path}", method=method, headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            body: bytes = answer.read()
            return body
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}")
    except OSError as error:
        sys.exit(f"{method} {path}: {error}")


if KEEP < 1:
    sys.exit("KEEP must be at least 1")
print("taken:", json.loads(call("POST", "/index/snapshots"))["id"])
newest_first = sorted(
    json.loads(call("GET", "/index/snapshots")), key=lambda snapshot: snapshot["created_at"], reverse=True
)
for old in newest_first[KEEP:]:
    call("DELETE", f"/index/snapshots/{old['id']}")
    print("deleted:", old["id"])
