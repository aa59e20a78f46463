"""The module with a PEFT method of one's own in docs/extending.md."""

import re

from mtlora.base.paths import REPOSITORY

_TEXT = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
SOURCE = re.findall(r"```python\n(# doubled_method\.py\n.*?)```", _TEXT, re.DOTALL)[0]
