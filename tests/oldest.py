"""Print the lowest version of each dependency that pyproject.toml allows, as pip's constraints."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
for requirement in project["dependencies"]:
    name, extra, bound = re.match(r"([\w-]+)(\[\w+\])?>=([\w.]+)", requirement).groups()
    print(f"{name}=={bound}")
