"""Video is segmented as its frames are, one at a time."""

import json
import struct
import tracemalloc
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

import fakd
from fakd.data.video import Frames
from fakd.inference import predict_classes
from stand_ins import message

av = pytest.importorskip("av")


def made(path, frames, size=(48, 66)):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            pixels = np.full((*size, 3), number * 9 % 256, np.uint8)
            pixels[: size[0] // 2] = (200, 30, 30)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    return path


def decoded(path):
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def test_every_frame_gets_its_mask_its_colours_and_its_shares(tiny_network, tmp_path):
    video, out = made(tmp_path / "drive.mp4", 5), tmp_path / "out"
    network = tiny_network.eval()
    assert fakd.predict(network, video, out, accelerator="cpu") == 5
    frames = decoded(video)
    lines = (out / "shares/drive.jsonl").read_text().splitlines()
    for number, (frame, line) in enumerate(zip(frames, lines, strict=True), start=1):
        image = torch.from_numpy(frame).permute(2, 0, 1)[None]
        expected = predict_classes(network, image, fakd.Inference())[0].numpy()
        mask = np.array(Image.open(out / f"masks/drive/{number:06d}.png"))
        assert np.array_equal(mask, expected)
        told = json.loads(line)
        assert told["time"] == pytest.approx((number - 1) / 10)
        assert sum(told["shares"].values()) == pytest.approx(1, abs=1e-3)
    painted = decoded(out / "coloured/drive.mp4")
    assert len(painted) == len(decoded(out / "overlays/drive.mp4")) == 5
    assert painted[0].shape == (48, 66, 3)
    assert "--overwrite true" in message(lambda: fakd.predict(network, video, out))
    fakd.predict(network, video, out, accelerator="cpu", overwrite=True, overlays=False)


@pytest.mark.parametrize("turns", range(4))
def test_a_video_is_turned_as_phones_say(tiny_network, tmp_path, turns):
    video, out = made(tmp_path / "phone.mp4", 1), tmp_path / "out"
    stored = decoded(video)[0]
    content = bytearray(video.read_bytes())
    # p' = a p + c q and q' = b p + d q, from column p and row q (ISO/IEC 14496-12, 6.2.2).
    a, b, c, d = ((1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0))[turns]
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    at = content.index(b"tkhd") + 44
    content[at : at + 36] = struct.pack(">9i", *matrix)
    video.write_bytes(content)
    fakd.predict(tiny_network.eval(), video, out, accelerator="cpu")
    (shown,) = (np.array(Image.open(each)) for each in (out / "masks/phone").iterdir())
    height, width = stored.shape[:2]
    upright = np.empty_like(stored) if turns % 2 == 0 else np.empty((width, height, 3), np.uint8)
    for row, column in product(range(height), range(width)):
        # Where a side is turned round, the first becomes the last, that is -1.
        place = b * column + d * row - (b + d < 0), a * column + c * row - (a + c < 0)
        upright[place] = stored[row, column]
    image = torch.from_numpy(upright).permute(2, 0, 1)[None]
    expected = predict_classes(tiny_network, image, fakd.Inference())[0].numpy()
    assert np.array_equal(shown, expected)
    assert decoded(out / "coloured/phone.mp4")[0].shape == upright.shape
    trained = Frames(video, 1).image(0)
    assert np.array_equal(np.array(Image.open(trained.open())), upright)


def test_what_is_no_video_is_refused_and_leaves_nothing(tiny_network, tmp_path):
    video, out = tmp_path / "a.mp4", tmp_path / "out"
    video.write_bytes(b"no video at all")
    said = message(lambda: fakd.predict(tiny_network, video, out, accelerator="cpu"))
    assert "cannot be decoded as a video" in said
    assert not out.exists()


def test_memory_does_not_grow_with_the_video(tiny_network, tmp_path):
    peaks = []
    for frames in (10, 10, 60):
        video = made(tmp_path / f"{frames}.mp4", frames)
        tracemalloc.start()
        out = tmp_path / f"out{len(peaks)}"
        fakd.predict(tiny_network, video, out, accelerator="cpu", overlays=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.5 * peaks[1]
