"""`fakd replay`: recompute one step of a run."""

from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakd
from fakd.console import open_console
from fakd.errors import InputError, list_some
from fakd.settings import Settings, Task

if TYPE_CHECKING:
    from fakd.data.transforms import Geometry
    from fakd.training.loop import Training


def replay(
    run: str | Path, step: int | None = None, out: Path | None = None, accelerator: str = "auto"
) -> dict[str, Any]:
    """Recompute one step of a run and show its images, loss terms and gradients.

    A run whose loss, gradient or weights became infinite or NaN records the number of that step.
    Its batch is drawn again, and its weights are recomputed from the last checkpoint, on one
    device. The run is not changed, except for the picture. Your own code that its recipe names
    needs your permission (--code).

    Args:
        run: the folder of a run, finished or not.
        step: which step, counted from 1 as in curves and messages; by default the one that went
            wrong.
        out: the picture of images and labels; by default step-N.png in the folder of the run.
        accelerator: cpu, cuda, mps, or auto for the best one present.

    Returns:
        Names of the samples, loss terms, gradient norms, weights with gradients that are not
        finite.
    """
    # Imported here to keep `fakd replay --help` fast.
    from fakd.files import read_yaml
    from fakd.report.figures import colour, save_grid
    from fakd.runs.folder import LAST, RECIPE, SHOWN, WRONG, read_json, readable
    from fakd.training.memory_format import reuse_choice
    from fakd.training.rare import read_occurrence
    from fakd.training.replay import replay
    from fakd.training.start import weigh_classes

    run = Path(run)
    if not (run / RECIPE).is_file():
        raise InputError(f"expected the folder of a run, got {run}, which contains no {RECIPE}")
    with readable(run):
        recipe = read_yaml(run / RECIPE)
        settings = reuse_choice(_settings(recipe, accelerator), run)
        if step is None and (run / WRONG).is_file():
            step = read_json(run / WRONG)["step"]
    if step is None or not 1 <= step <= settings.schedule.steps:
        wrong = "the run recorded no failed step" if step is None else f"got {step}"
        raise InputError(f"expected a --step from 1 to {settings.schedule.steps}; {wrong}")
    console = open_console()
    training = _training(recipe, settings, run.name)
    if settings.schedule.rare is not None:
        training.shown = read_occurrence(run / SHOWN)
    last = run / LAST
    if not last.is_file():
        weigh_classes(
            training.fabric,
            open_console(quiet=True),
            training.objective,
            training.data,
            settings,
            None,
        )
    found = replay(training, step, last if last.is_file() else None)
    batch, data = found.batch, training.data
    names = [data.train.name(int(index)) for index in batch.indices]
    lines = [f"{run.name}: step {step} of {settings.schedule.steps}, {len(names)} images"]
    if found.since >= step:
        lines[0] += f", with the weights of the checkpoint, step {found.since}"
    views = zip(names, batch.labelled.tolist(), batch.geometries, strict=True)
    lines += [
        f"  {name}{'' if known else ' (no labels)'}: {_describe_view(g)}"
        for name, known, g in views
    ]
    lines += [_numbers("loss", found.terms), _numbers("gradient norm", found.norms)]
    if found.broken:
        count = len(found.broken)
        lines.append(f"infinite or NaN: gradients of {count} weights, {list_some(found.broken, 3)}")
    path = out or run / f"step-{step}.png"
    pictures = [
        (image, colour(labels, data.palette))
        for image, labels in zip(batch.images, batch.labels, strict=True)
    ]
    legend = dict(zip(data.class_names, data.palette, strict=True))
    save_grid(path, pictures, ("image", "labels"), legend)
    for line in (*lines, f"drawn: {path}"):
        console.print(line, soft_wrap=True, markup=False)
    return {
        "step": step,
        "samples": names,
        "terms": found.terms,
        "gradient_norms": found.norms,
        "broken": found.broken,
    }


def _settings(recipe: dict[str, Any], accelerator: str) -> Settings:
    """Read the settings of a recipe, for one device and process."""
    settings = Settings()
    for name, value in recipe.items():
        if hasattr(settings, name):
            group = getattr(settings, name)
            given = _with_defaults(group, value) if is_dataclass(group) else value
            settings = replace(settings, **{name: given})
    hardware = replace(settings.hardware, accelerator=accelerator, devices=1, workers=0)
    return replace(settings, hardware=hardware)


def _with_defaults(group: Any, values: dict[str, Any]) -> Any:
    # YAML reads tuples as lists.
    known = {key: tuple(each) if isinstance(each, list) else each for key, each in values.items()}
    return replace(group, **known)


def _training(recipe: dict[str, Any], settings: Settings, title: str) -> "Training":
    """Set up a run as its command does, without output."""
    import torch

    from fakd import specs
    from fakd.training.int8 import train_for_int8
    from fakd.training.loop import Training
    from fakd.training.objective import Distillation, Supervised
    from fakd.training.start import start
    from fakd.training.task import TaskLoss
    from fakd.training.teacher import open_teacher, teacher_of

    def built(key: str, classes: int | None = None) -> Any:
        if not specs.is_spec(recipe[key]):
            raise InputError(
                f"{title} was started from Python with your own {key} object, {recipe[key]}, which "
                "cannot be rebuilt from the recipe; call fakd replay on runs started by command"
            )
        torch.manual_seed(settings.seed)
        spec = specs.check_spec(recipe[key], key, counted=classes is not None)
        return specs.build(spec, classes=classes)

    data = built("data")
    trained = "student" if "student" in recipe else "network"
    others = {key: built(key) for key in ("teacher", "distillation") if key in recipe}
    network = fakd.models.adapt(built(trained, data.classes), data.classes)
    fabric = start(settings.hardware, settings.seed)
    labelled = data.train.labelled
    asked = _with_defaults(Task(), recipe["task"])
    kernels = network.align_corners, settings.hardware.triton
    task = TaskLoss(asked, data.classes, *kernels) if labelled else None
    console = open_console(quiet=True)
    if trained == "network":
        objective: Any = Supervised(task)  # type: ignore[arg-type]
        return Training(fabric, network, objective, data, settings, console, title)
    teacher = others["teacher"]
    if recipe.get("classes_from") is not None:
        teacher = fakd.answers.Mapped(teacher, recipe["classes_from"])
    answers = teacher_of(open_teacher(teacher, data.classes), data, fabric, settings.hardware)
    distillation = others["distillation"]
    objective = Distillation(answers.network, network, distillation, task, asked.confidence)
    if recipe.get("int8"):
        train_for_int8(network)
    return Training(fabric, network, objective, data, settings, console, title, answers)


def _describe_view(geometry: "Geometry | None") -> str:
    """Describe the crop and the geometric augmentation of an image."""
    if geometry is None:
        return "mixed with another image"
    parts = [
        f"{side} {axis.start}-{axis.start + axis.length} of {axis.after}, from {axis.before}"
        for side, axis in (("rows", geometry.rows), ("columns", geometry.columns))
    ]
    parts += ["flipped"] if geometry.flipped else []
    parts += [f"rotated by {geometry.angle:.1f} degrees"] if geometry.angle else []
    return ", ".join(parts)


def _numbers(title: str, values: dict[str, float]) -> str:
    return f"{title}: " + "  ".join(f"{name} {value:.6g}" for name, value in values.items())
