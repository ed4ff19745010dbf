"""All rows of the table of faults, in its order."""

import files
import hostile_input
import processes
import training
from rows import ROWS

__all__ = ["ROWS", "files", "hostile_input", "processes", "training"]
