"""Print the lowest version of each dependency that pyproject.toml allows, as pip's constraints.

Extras count whose libraries the tests use: those that the extra `dev` takes in.
"""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
[tested] = (requirement for requirement in extras["dev"] if requirement.startswith("fakd["))
requirements = [
    *project["dependencies"],
    *(each for name in re.findall(r"[\w-]+", tested)[1:] for each in extras[name]),
]
for requirement in dict.fromkeys(requirements):
    name, extra, bound = re.match(r"([\w-]+)(\[\w+\])?>=([\w.]+)", requirement).groups()
    print(f"{name}=={bound}")
