from sidecar.exits import Exit
from tests.sidecar.cli.world import FakeDaemon

ID = "a" * 26
STREAM = {
    "stream": ID,
    "session": "b" * 26,
    "agent": "researcher",
    "service": "wiki",
    "peer": "tools-1",
    "open": True,
    "bytes_in": 3,
    "bytes_out": 4,
}


def test_streams_are_listed_in_words(daemon: FakeDaemon) -> None:
    """A line each, or that there are none."""
    daemon.says("GET /v1/streams", streams=[])
    assert daemon.run("stream", "ls").out == "no live streams\n"
    daemon.says("GET /v1/streams", streams=[STREAM])
    line = daemon.run("stream", "ls").out
    assert line == f"{ID}  researcher -> wiki  session {'b' * 26}  3 bytes in, 4 out\n"
    assert daemon.run("stream", "ls", "--json").json["streams"] == [STREAM]


def test_a_stream_is_cut_by_its_id(daemon: FakeDaemon) -> None:
    """One that is not live is a refusal."""
    daemon.says(f"POST /v1/streams/{ID}/cut", stream=ID)
    assert daemon.run("stream", "cut", ID).out == f"cut {ID}\n"
    daemon.refuses(f"POST /v1/streams/{ID}/cut", "not live here")
    done = daemon.run("stream", "cut", ID)
    assert (done.code, done.err) == (Exit.NO, "lockgate: not live here\n")
