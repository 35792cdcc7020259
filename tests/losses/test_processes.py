"""Training steps on two and four processes against one on the whole batch.

Losses that are means over pixels or images are the same, and so are class statistics, which are
summed over the processes, as long as the student has no batch norm (or SyncBatchNorm, as on GPUs)
and the cross-entropy is averaged over all pixels: averaged over the valid ones, it is each
process's own mean. What compares the images of a batch with each other sees those of its process.
"""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fakd.losses import PRESETS
from fakd.processes import average_gradients
from fakd.settings import Task
from fakd.specs import build
from fakd.training.objective import Distillation
from fakd.training.task import TaskLoss
from fakd.types import Prediction, Segmenter
from forked import together

CLASSES, STEPS = 4, 2
MEMORY = {"pixel_slots": 40, "region_slots": 9, "contrast_pixels": 16, "contrast_regions": 8}


def spec(name, **arguments):
    return {"class_path": f"fakd.losses.{name}", "init_args": arguments}


SAME = {
    **{name: each for name, each in PRESETS.items() if build(each).image_by_image},
    "cwd-fa full": spec("ChannelKL", strength=1.0, covariance="full", momentum=0.9),
    "cwd-fa margin": spec("ChannelKL", strength=0.3, strength_unit="margin"),
    "pd-fa margin": spec(
        "PixelKL", strength=0.3, strength_unit="margin", covariance="full", momentum=0.9
    ),
    "pd weighed": spec("PixelKL", class_weights=[0.5, 2.0, 0.0, 1.0]),
    "cwd-fa weighed": spec("ChannelKL", class_weights=[0.5, 2.0, 0.0, 1.0], strength=1.0),
    "ifvd": spec("IntraClassVariation"),
    "pairs": spec("PairwiseSimilarity"),
}
# Their batch is the one of a process.
OF_A_PROCESS = {"cross-image": spec("CrossImageSimilarity"), "dist": PRESETS["dist"]}
# Their state is shared: a memory takes in every process's images, a critic averages its gradients.
SHARED = {"memory": spec("MemoryContrast", **MEMORY), "critic": spec("Adversarial", weight=0.1)}


class Small(Segmenter):
    """Two convolutions and no norm."""

    classes = CLASSES

    def __init__(self, channels):
        super().__init__()
        self.trunk = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.head = nn.Conv2d(channels, CLASSES, 1)

    @property
    def classifier(self):
        return self.head

    def forward(self, images):
        features = self.trunk(images).relu()
        return Prediction(self.head(features), features)


def batch_of(number):
    generator = torch.Generator().manual_seed(number)
    images = torch.rand(4, 3, 8, 10, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (4, 8, 10), generator=generator)
    labels[0, :5] = -1  # So that processes differ in how many pixels have a class.
    return images, labels


def trained(loss, share=slice(None), parts=1):
    """Take steps on a share of each batch, or on the mean of the losses of its parts."""
    torch.manual_seed(0)
    student, teacher = Small(6).double(), Small(8).double()
    task = TaskLoss(Task(average="all"), student.classes)
    objective = Distillation(teacher, student, build(loss), task).double()
    beside = objective.learnt_with_student()
    optimizer = torch.optim.SGD([*student.parameters(), *beside], 0.1)
    network = DistributedDataParallel(student) if dist.is_initialized() else student
    for number in range(STEPS):
        torch.manual_seed(number)
        optimizer.zero_grad()
        images, labels = (each[share] for each in batch_of(number))
        for own in zip(images.chunk(parts), labels.chunk(parts), strict=True):
            with torch.no_grad():
                answer = teacher(own[0])
            labelled = torch.ones(len(own[0]), dtype=torch.bool)
            outcome = objective(network(own[0]), own[1], labelled, 0.5, answer)
            (sum(outcome.terms.values()) / parts).backward()
        average_gradients(beside)
        optimizer.step()
        objective.after_step(outcome)
    state = {**student.state_dict(), **objective.state_dict()}
    return {name: value.clone() for name, value in state.items()}


def trained_in_process(rank, folder, world):
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=world)
    share = slice(4 // world * rank, 4 // world * (rank + 1))
    everything = {**SAME, **OF_A_PROCESS, **SHARED} if world == 2 else SAME
    found = {name: trained(loss, share) for name, loss in everything.items()}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def of_each(folder, world):
    together(trained_in_process, folder, world, processes=world)
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    return of_each(tmp_path_factory.mktemp("processes"), 2)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-8, msg=name)


@pytest.mark.parametrize("name", SAME)
def test_two_processes_equal_one_with_the_whole_batch(name, processes):
    alone = trained(SAME[name])
    for found in processes:
        assert_equal(found[name], alone)


@pytest.mark.slow
def test_four_processes_equal_one_with_the_whole_batch(tmp_path):
    found = of_each(tmp_path, 4)
    for name in SAME:
        alone = trained(SAME[name])
        for each in found:
            assert_equal(each[name], alone)


def test_presets_that_go_image_by_image_are_compared():
    assert {"pd", "cwd", "pd-fa", "cwd-fa", "cwd-fa-logits", "cwd-td", "hard"} <= SAME.keys()


@pytest.mark.parametrize("name", OF_A_PROCESS)
def test_what_compares_images_takes_the_mean_over_the_processes(name, processes):
    apart, whole = trained(OF_A_PROCESS[name], parts=2), trained(OF_A_PROCESS[name])
    for found in processes:
        assert_equal(found[name], apart)
    assert not torch.allclose(whole["trunk.weight"], apart["trunk.weight"], rtol=1e-5)


def test_a_memory_is_the_same_everywhere_and_holds_the_whole_batch(processes):
    """Its loss is a mean over a process's labelled pixels, its head norms by a process's batch."""
    first, second = (found["memory"] for found in processes)
    assert_equal(first, second)
    alone = trained(SHARED["memory"])
    queues = [name for name in alone if ".memory." in name]
    assert queues
    for name in queues:
        torch.testing.assert_close(first[name], alone[name], rtol=1e-5, atol=1e-8)


def test_a_critic_has_the_same_weights_everywhere(processes):
    """Its batch statistics are those of a process, so that it is not that of the whole batch."""
    first, second = (found["critic"] for found in processes)
    own = {name for name in first if "running_" in name}
    assert len(own) == 2
    for name in first.keys() - own:
        torch.testing.assert_close(first[name], second[name], rtol=1e-9, atol=1e-12, msg=name)
    assert all(not torch.equal(first[name], second[name]) for name in own)
