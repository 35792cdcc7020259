"""What fakd needs may be used by anybody: no AGPL, and nothing without a licence."""

import re
from importlib.metadata import PackageNotFoundError, distribution, requires

import pytest
from packaging.requirements import Requirement

# Their metadata do not say, their own repositories do.
SAID_ELSEWHERE = {"cuda-toolkit": "NVIDIA's, a list of what the GPU build of torch needs"}
COPYLEFT = re.compile(r"Affero|\bA?GPL|GNU General Public", re.IGNORECASE)


def tree(extras=("", "ray", "slurm")):
    """Every distribution that an installation of fakd brings, where it is installed."""
    found, waiting = {}, [("fakd", frozenset(extras))]
    while waiting:
        name, wanted = waiting.pop()
        for line in requires(name) or []:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in wanted or {""}):
                continue
            key = re.sub(r"[-_.]+", "-", requirement.name).lower()
            if key in found:
                continue
            try:
                found[key] = distribution(key)
            except PackageNotFoundError:
                continue
            waiting.append((key, frozenset(requirement.extras)))
    return found


def licence(package):
    said = package.metadata
    classifiers = [each for each in said.get_all("Classifier", []) if each.startswith("License")]
    text = said.get("License-Expression") or " ".join(classifiers) or said.get("License") or ""
    # Some put the whole text into the field.
    return text[:200]


TREE = tree()


@pytest.mark.parametrize("name", sorted(TREE))
def test_every_dependency_has_a_licence_that_asks_nothing_of_users(name):
    said = licence(TREE[name]) or SAID_ELSEWHERE.get(name, "")
    assert said, f"{name} does not say its licence"
    assert not COPYLEFT.search(said), said


def test_the_tree_is_the_whole_tree():
    assert {"torch", "timm", "numpy", "typing-extensions"} <= TREE.keys()
