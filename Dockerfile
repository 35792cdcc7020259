# For GPU and CPU:
#   docker build -t fakd .
#   docker run --rm --gpus all --shm-size 8g --user "$(id -u):$(id -g)" -v "$PWD:/work" \
#     fakd distill --teacher ... --run runs/student
# PyTorch's wheels for Linux hold CUDA and run without a GPU, too. Where there never is one, an
# image of a third of the size, with the address of PyTorch's wheels for the CPU from its own
# installation page:
#   docker build -t fakd:cpu --build-arg TORCH_INDEX=ADDRESS .
FROM python:3.12-slim

ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install '.[efficientnet-lite,export,hub,video]' && rm -rf /src/*

# Nothing runs as root. --user "$(id -u):$(id -g)" makes the files of runs yours; such an id has no
# user name in the image, and PyTorch's cache of compiled code needs one: hence USER.
ENV HOME=/tmp USER=fakd
RUN mkdir /work && chown 1000:1000 /work
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["fakd"]
CMD ["--help"]
