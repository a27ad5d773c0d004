"""A Python file executed as it stands: its text is compiled anew, and no compiled copy is read or left beside it.

Python takes a compiled copy for the file's own if size and second agree: a file that was written twice within a second
would be executed as it was at first, and so would what somebody else had put into `__pycache__`.
"""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from types import CodeType

__all__ = ["FromSource"]


class FromSource(SourceFileLoader):
    """Loads a module from its text."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code
