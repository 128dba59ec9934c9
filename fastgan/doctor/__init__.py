"""What a machine has, which backends can run on it, and what is wrong with its setup."""

from fastgan.doctor.report import paste_ready, report
from fastgan.doctor.troubles import Trouble, find_troubles

__all__ = ["Trouble", "find_troubles", "paste_ready", "report"]
