import threading
from http.client import HTTPConnection

import pytest

from circuits.cli.run import address, server_of


@pytest.fixture
def server():
    with server_of("<p>sêv</p>") as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server, path="/", method="GET", **headers):
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_the_page_is_given_to_this_machine_only(server):
    assert server.server_address[0] == "127.0.0.1"
    assert address(server) == f"http://127.0.0.1:{server.server_port}/"
    answer, body = ask(server)
    assert (answer.status, body.decode()) == (200, "<p>sêv</p>")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"


def test_only_the_length_is_told_where_only_the_head_is_asked(server):
    answer, body = ask(server, method="HEAD")
    assert (answer.status, body) == (200, b"")
    assert answer.headers["Content-Length"] == str(len("<p>sêv</p>".encode()))


@pytest.mark.parametrize("path", ["/run.json", "/../run.json", "/explorer/explorer.json"])
def test_nothing_else_is_served(server, path):
    assert ask(server, path)[0].status == 404


def test_a_foreign_name_for_this_machine_is_refused(server):
    assert ask(server, Host=f"evil.example:{server.server_port}")[0].status == 403


def test_nothing_but_reading_is_answered(server):
    assert ask(server, method="POST")[0].status == 501
