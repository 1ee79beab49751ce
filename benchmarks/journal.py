"""The results of an experiment: one JSON object per line and run."""

import json
import os
from pathlib import Path


class Journal:
    """Appends results to a file, and knows which runs are in it.

    A line that was torn when a process ended is dropped: that run is made
    again.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = self.path.read_bytes() if self.path.exists() else b""
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.truncate(self.path, whole)

    def append(self, record):
        """Writes one record; it is on disk when this returns."""
        line = json.dumps(record, allow_nan=False) + "\n"
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def find(self, plan):
        """Returns the records of those settings of `plan` that are done."""
        done = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                done[_key(record["settings"])] = record
        return [done[_key(s)] for s in plan if _key(s) in done]


def _key(settings):
    return json.dumps(settings, sort_keys=True)
