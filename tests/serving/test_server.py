"""`fakd serve` as a browser's requests meet it, without a browser."""

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from fakd.cli import main
from fakd.commands.serve import _open_teachers, serve
from fakd.console import open_console
from fakd.data import read_image
from fakd.errors import InputError
from fakd.inference import predict_classes
from fakd.models import adapt, load, pspnet, save
from fakd.serving import server as serving
from fakd.serving.server import PageServer
from fakd.settings import Inference

NAMES = ("sky", "<b>road</b>", "tree", "car", "wall")


@pytest.fixture
def weights(tmp_path):
    """Two files of weights, whose networks know some classes by the same name."""
    files = []
    for seed, names in enumerate((NAMES, (*NAMES[:3], "bus", "wall"))):
        torch.manual_seed(seed)
        network = pspnet("mobilenetv3_small_050", len(names), channels=16)
        colours = [(10 * place, 50 * seed, 200) for place in range(len(names))]
        files.append(tmp_path / f"<i>{seed}.safetensors")
        save(network, files[-1], class_names=names, palette=colours)
    return files


@pytest.fixture
def serving_of(monkeypatch):
    """Serve in a thread, and tell the port."""
    started = []
    monkeypatch.delenv("FAKD_MAX_PIXELS", raising=False)
    begin = PageServer.serve

    def listed(self, files, posts):
        started.append(self)
        ready.set()
        begin(self, files, posts)

    ready = threading.Event()
    monkeypatch.setattr(PageServer, "serve", listed)

    @contextmanager
    def of(*networks, **options):
        options = {"port": 0, "accelerator": "cpu", "threads": 1} | options
        thread = threading.Thread(target=serve, args=(networks,), kwargs=options, daemon=True)
        thread.start()
        assert ready.wait(60)
        try:
            yield started[-1].server_address[1]
        finally:
            started[-1].shutdown()
            thread.join(10)

    return of


def ask(port, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    # As it is: a client would tidy dots away.
    connection.putrequest("GET" if body is None else "POST", path, skip_host="Host" in headers)
    if body is not None and "Content-Length" not in headers:
        headers["Content-Length"] = str(len(body))
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content, dict(answer.getheaders())


def picture(height=40, width=60, kind="PNG", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, kind)
    return written.getvalue()


def drawn(answer):
    values, lengths = answer["runs"][::2], answer["runs"][1::2]
    return np.repeat(values, lengths).reshape(answer["height"], answer["width"])


def facts(page):
    text = page.decode().partition('id="facts">')[2].partition("</script>")[0]
    return json.loads(text)


def test_it_says_what_predict_says_and_one_name_is_one_class(weights, serving_of, tmp_path):
    (tmp_path / "photo.png").write_bytes(picture())
    image = read_image(tmp_path / "photo.png")[None]
    with serving_of(*weights) as port:
        told = facts(ask(port, "/")[1])
        for number, file in enumerate(weights):
            status, content, _ = ask(port, f"/segment/{number}", picture())
            assert status == 200
            answer = json.loads(content)
            network = load(file).eval()
            expected = predict_classes(network, image, Inference())[0].numpy()
            found = drawn(answer)
            names = np.array([each["name"] for each in told["classes"]])
            assert (names[found] == np.array(network.class_names)[expected]).all()
            assert sum(answer["shares"].values()) == pytest.approx(1)
            for place, share in answer["shares"].items():
                assert share == pytest.approx((found == int(place)).mean())
            assert answer["milliseconds"] > 0
    assert [each["name"] for each in told["classes"]] == [*NAMES, "bus"]
    # A name has the colour of the first network that knows it.
    assert told["classes"][4]["colour"] == [40, 0, 200]
    assert told["classes"][5]["colour"] == [30, 50, 200]


def test_the_photo_is_upright_and_small_and_shares_are_of_all_pixels(weights, serving_of):
    written = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((1000, 2000, 3), np.uint8)).save(written, "JPEG", exif=exif)
    with serving_of(weights[0]) as port:
        status, content, headers = ask(port, "/photo", written.getvalue())
        assert (status, headers["Content-Type"]) == (200, "image/jpeg")
        assert Image.open(io.BytesIO(content)).size == (800, 1600)
        answer = json.loads(ask(port, "/segment/0", written.getvalue())[1])
    assert (answer["width"], answer["height"]) == (800, 1600)
    assert sum(answer["runs"][1::2]) == 800 * 1600


def test_names_are_text_and_not_markup(weights, serving_of):
    with serving_of(*weights) as port:
        _, content, headers = ask(port, "/")
    page = content.decode()
    assert "<i>" not in page
    assert "<b>" not in page.replace("<body>", "")
    assert "&lt;i&gt;" in page
    assert facts(content)["classes"][1]["name"] == "<b>road</b>"
    assert "'unsafe" not in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/%2e%2e/etc/passwd", "//etc/passwd", "/page.js", "/segment/0"]
)
def test_only_known_addresses_are_answered(weights, serving_of, path):
    with serving_of(weights[0]) as port:
        status, content, _ = ask(port, path)
        assert (status, content.count(b"\n")) == (404, 0)
        for wrong in ("/segment/1", "/segment/-1", "/segment/0/", "/../photo"):
            assert ask(port, wrong, picture())[0] == 404
        assert ask(port, "/script.js")[0] == ask(port, "/style.css")[0] == 200


def test_files_that_are_no_image_get_a_sentence(weights, serving_of, tmp_path, monkeypatch):
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with serving_of(weights[0], megabytes=0.1) as port:
        cut = picture(200, 100)[:2000]
        for body in (b"", b"hello", b"<svg/>", cut, b"PK\3\4" + bytes(50), b"II*\0" + bytes(9)):
            status, content, _ = ask(port, "/photo", body)
            assert status == 400
            assert content.startswith(b"cannot decode the file")
            assert b"\n" not in content
        status, content, _ = ask(port, "/segment/0", bytes(200_000))
        assert status == 413
        assert content == b"the file has more than 0.1 MB; raise the limit with --megabytes."
        assert ask(port, "/photo", b"", **{"Content-Length": "many"})[0] == 411
        assert ask(port, "/photo", picture())[0] == 200
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


def test_a_small_file_of_many_pixels_is_not_decoded(weights, serving_of):
    bomb = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(bomb, "PNG")
    with serving_of(weights[0]) as port:
        assert len(bomb.getvalue()) < 10**6
        status, content, _ = ask(port, "/segment/0", bomb.getvalue())
    assert status == 400
    assert b"too many pixels" in content


def test_other_pages_and_other_names_of_the_machine_are_refused(weights, serving_of):
    with serving_of(weights[0]) as port:
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "[::"):
            for body in (None, picture()):
                status, content, _ = ask(port, "/" if body is None else "/photo", body, Host=host)
                assert status == 403
                assert f"http://127.0.0.1:{port}/".encode() in content
        for host in (f"localhost:{port}", "127.0.0.1:9000", "[::1]:9000"):
            assert ask(port, "/", Host=host)[0] == 200
        own = f"http://127.0.0.1:{port}"
        assert ask(port, "/photo", picture(), Origin=own)[0] == 200
        for origin in ("null", "http://evil.example", "http://127.0.0.1:1", own + "0"):
            assert ask(port, "/photo", picture(), Origin=origin)[0] == 403


class Narrow(nn.Module):
    """A network that takes small images only, as some do."""

    def __init__(self):
        super().__init__()
        self.layer, self.running = nn.Conv2d(3, 4, 1), 0
        self.most = 0

    def forward(self, images):
        self.running += 1
        self.most = max(self.most, self.running)
        time.sleep(0.05)
        self.running -= 1
        if images.shape[-1] > 100:
            raise ValueError("at most 100 columns\nand no more")
        return self.layer(images)


def test_a_network_that_fails_says_so_and_others_go_on(serving_of, capsys):
    with serving_of(adapt(Narrow())) as port:
        status, content, _ = ask(port, "/segment/0", picture(20, 120))
        assert (status, content) == (500, b"the network failed: ValueError: at most 100 columns.")
        assert ask(port, "/segment/0", picture(20, 60))[0] == 200
    assert "fakd: failed: ValueError: at most 100 columns" in capsys.readouterr().err


def test_one_image_at_a_time_goes_through_a_network(serving_of):
    network = Narrow()
    with serving_of(adapt(network)) as port:
        calls = [
            threading.Thread(target=ask, args=(port, "/segment/0", picture())) for _ in range(6)
        ]
        for each in calls:
            each.start()
        # Whoever waits does not keep the page from others.
        assert ask(port, "/")[0] == 200
        for each in calls:
            each.join()
    assert network.most == 1


def test_who_says_nothing_is_left_after_a_while(weights, serving_of, monkeypatch):
    monkeypatch.setattr(serving._Handler, "timeout", 0.2)
    with serving_of(weights[0]) as port:
        with socket.create_connection(("127.0.0.1", port)) as idle:
            idle.settimeout(10)
            idle.sendall(b"POST /photo HTTP/1.0\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nab")
            assert idle.recv(100) == b""
        assert ask(port, "/")[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "::", "example.com", ""])
def test_addresses_that_others_reach_are_refused(host):
    with pytest.raises(InputError, match="--host must be a loopback address"):
        PageServer(host, 0, 1)


def test_a_port_that_is_taken_is_one_line(weights, capsys):
    with PageServer("127.0.0.1", 0, 1) as taken:
        port = taken.server_address[1]
        assert main(["serve", str(weights[0]), "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"port {port} of 127.0.0.1 is not available" in error
    assert main(["serve", str(weights[0]), "--port", "70000"]) == 2
    assert main(["serve", str(weights[0].with_name("gone")), "--port", "0"]) == 2
    assert main(["serve", "--port", "0"]) == 2


def test_the_teacher_of_a_run_is_shown_once_and_before_it(made_up, weights, tmp_path):
    spec = {"class_path": "fakd.models.load", "init_args": {"path": str(weights[0])}}
    runs = [made_up.run(tmp_path / f"run-{seed}", "cwd", seed, 0.6) for seed in range(2)]
    for run in runs:
        recipe = run / "recipe.yaml"
        text = recipe.read_text()
        content = yaml.safe_load(text) | {"teacher": spec}
        recipe.write_text(yaml.safe_dump(content))
    found = [*_open_teachers([str(each) for each in runs], open_console())]
    assert [title for title, _ in found] == [str(weights[0])]
    assert [*_open_teachers([str(runs[0]), str(weights[0])], open_console())] == []


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_control_c_ends_it_in_order(weights):
    command = [sys.executable, "-m", "fakd", "serve", str(weights[0]), "--port", "0"]
    environment = {key: value for key, value in os.environ.items() if "JAXTYPING" not in key}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        line = process.stdout.readline()
        assert " at http://127.0.0.1:" in line
        port = int(line.partition("127.0.0.1:")[2].partition("/")[0])
        assert ask(port, "/segment/0", picture())[0] == 200
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error == "fakd: stopped\n"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's numbers")
def test_images_one_after_the_other_do_not_add_up(weights, serving_of):
    def held():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    with serving_of(*weights) as port:
        sizes = [(400, 600), (600, 400), (500, 500)]
        bodies = [picture(*size, seed=place) for place, size in enumerate(sizes)]
        memory = []
        for _ in range(3):
            for body in bodies * 4:
                for path in ("/photo", "/segment/0", "/segment/1"):
                    assert ask(port, path, body)[0] == 200
            memory.append(held())
    assert memory[2] - memory[1] < 15
