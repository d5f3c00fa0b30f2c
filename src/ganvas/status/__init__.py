"""How a run is: what it learns, how far it is, how well, whether it is healthy, how to go on. Reads, never writes.

run/ ──▶ folder (files, bounded) · process (who trains in it) ──▶ summary: a Status ──▶ words, or JSON

A run may be live: nothing here takes its lock, opens a file for writing, or imports torch.
"""

from __future__ import annotations

from ganvas.status.model import Status
from ganvas.status.summary import runs_in, status
from ganvas.status.words import show, status_lines, status_table

__all__ = ["Status", "runs_in", "show", "status", "status_lines", "status_table"]
