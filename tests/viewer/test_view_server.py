"""`jaxnerf view`: who is served, and what."""

import http.client
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from viewer_factory import quick_run

from jaxnerf.viewer.page import page
from jaxnerf.viewer.server import PageServer

PAGE = "<!DOCTYPE html><title>käse</title>"
VOXELS = Path(__file__).parents[1] / "runs" / "old_runs" / "voxels"


@pytest.fixture
def server():
    with PageServer(PAGE, 0) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def answer(server, path: str = "/", method: str = "GET", **headers: str):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def test_the_page_is_served_to_this_machine(server):
    status, body, headers = answer(server)
    assert (status, body.decode()) == (200, PAGE)
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert server.server_address[0] == "127.0.0.1"
    assert answer(server, method="HEAD")[:2] == (200, b"")
    port = server.server_port
    assert answer(server, Host=f"localhost:{port}", Origin=f"http://localhost:{port}")[0] == 200
    assert answer(server, "/?from=a#b")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1"]
)
def test_a_foreign_host_is_refused(server, host):
    status, body, _ = answer(server, Host=host.format(port=server.server_port))
    assert status == 403
    assert PAGE.encode() not in body


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:1",
        "file://",
        "http://[",
        "",
        "https://127.0.0.1:{port}",
    ],
)
def test_a_foreign_origin_is_refused(server, origin, capfd):
    status, body, _ = answer(server, Origin=origin.format(port=server.server_port))
    assert not capfd.readouterr().err
    assert status == 403
    assert PAGE.encode() not in body


@pytest.mark.parametrize("path", ["/etc/passwd", "/../setup.py", "/%2e%2e/setup.py", "/index.html"])
def test_nothing_else_is_there(server, path):
    assert answer(server, path)[0] == 404


def test_nothing_is_taken_but_get(server):
    assert answer(server, method="POST")[0] == 501


def test_a_browser_shows_what_is_served(visit):
    with PageServer(page(quick_run()), 0) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        shown = visit(serving.url)
        assert shown.evaluate("jaxnerf.photographs.length") == 7
        serving.shutdown()
        thread.join()


def test_a_port_that_is_taken_leaves_the_next(server):
    with PageServer(PAGE, server.server_port) as second:
        assert server.server_port < second.server_port < server.server_port + 20


def test_the_command_says_where_and_that_a_port_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "jaxnerf",
            "view",
            str(VOXELS),
            "--noopen",
            f"--port={port}",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            try:
                assert running.stdout is not None
                assert running.stdout.readline() == f"port {port} is taken\n"
                line = running.stdout.readline()
                assert line.startswith(f"{VOXELS} at http://127.0.0.1:")
                found = int(line.partition("127.0.0.1:")[2].partition("/")[0])
                connection = http.client.HTTPConnection("127.0.0.1", found, timeout=10)
                connection.request("GET", "/")
                assert b"jaxnerf" in connection.getresponse().read()
                connection.close()
            finally:
                running.kill()
