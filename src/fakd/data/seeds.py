"""Independent seeds for every position in a run."""


def hash_seed(*numbers: int) -> int:
    """Hash integers to 64 bits so that neighbours are independent (splitmix64's finaliser).

    PyTorch's CPU generator keeps only the low 32 bits of a seed, so those must differ too.
    """
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state
