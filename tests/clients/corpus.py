"""Another server's corpus of requests through a running sidecar: what both refuse, what both take, and where they differ.

    corpus.py --sidekey target/debug/sidekey FOLDER

FOLDER is `tests/requests` of gunicorn's source package: `valid` and `invalid`, files of text with escapes. By hand; the
differences and their reasons are in docs/conformance.md. Run it with the interpreter that `tests/clients/run --install` prints.
"""
import argparse, glob, os, re, socket, threading

import clients


def request(path):
    data = open(path, "rb").read().replace(b"\n", b"")
    for text, byte in ((b"\\r\\n", b"\r\n"), (b"\\0", b"\0"), (b"\\n", b"\n"), (b"\\t", b"\t")):
        data = data.replace(text, byte)
    if b"host:" not in data.lower():
        # Most name no Host, which alone is refused here: given one, they are judged by what they are about.
        data = re.sub(rb"(?m)^(\S+ \S.* HTTP/1\.[01]\r\n)", rb"\1Host: localhost\r\n", data)
    return data


class Recorder:
    """Takes the place of the HTTP backend: answers whatever comes, and counts it."""

    def __init__(self, port):
        self.heads = []
        listening = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self.accept, args=(listening,), daemon=True).start()

    def accept(self, listening):
        while True:
            stream, _ = listening.accept()
            threading.Thread(target=self.serve, args=(stream,), daemon=True).start()

    def serve(self, stream):
        with stream:
            stream.settimeout(2)
            seen = b""
            try:
                while b"\r\n\r\n" not in seen:
                    part = stream.recv(65536)
                    if not part:
                        return
                    seen += part
                self.heads.append(seen)
                stream.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                while stream.recv(65536):
                    pass
            except OSError:
                pass


def ask(stand, data):
    """The statuses of all answers until the sidecar closes or falls silent."""
    stream = stand.tls(["http/1.1"]).wrap_socket(socket.create_connection(("127.0.0.1", stand.ports["api"])), server_hostname="localhost")
    stream.settimeout(1.5)
    got = b""
    try:
        stream.sendall(data)
        while part := stream.recv(65536):
            got += part
    except OSError:
        pass
    stream.close()
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3})", got) if status != b"100"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sidekey", required=True)
    parser.add_argument("folder")
    arguments = parser.parse_args()
    recorder = []
    clients.http_backend = lambda port: recorder.append(Recorder(port))
    stand = clients.Stand(os.path.abspath(arguments.sidekey))
    count = {"same": 0, "different": 0}
    for kind in ("valid", "invalid"):
        for path in sorted(glob.glob(os.path.join(arguments.folder, kind, "*.http"))):
            before = len(recorder[0].heads)
            data = request(path)
            statuses = ask(stand, data)
            reached = len(recorder[0].heads) - before
            taken = reached > 0 and all(status == 200 for status in statuses)
            agrees = taken == (kind == "valid")
            count["same" if agrees else "different"] += 1
            if not agrees:
                print(f"{kind}/{os.path.basename(path)}: answered {statuses}, reached the backend {reached} times: {data[:200]!r}")
    stand.stop()
    print(f"{count['same']} judged alike, {count['different']} not")


if __name__ == "__main__":
    main()
