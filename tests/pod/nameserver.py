"""A name server on 127.0.0.1:53 that knows one name: nameserver.py NAME ADDRESS FILE makes FILE when it is
ready. For tests/image."""
import pathlib, socket, struct, sys

name, address = sys.argv[1], socket.inet_aton(sys.argv[2])
question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("127.0.0.1", 53))
    pathlib.Path(sys.argv[3]).touch()
    while True:
        query, peer = server.recvfrom(512)
        asked, kind = query[12 : 12 + len(question)], query[12 + len(question) : 16 + len(question)]
        known = asked.lower() == question
        answer = known and kind[:2] == b"\0\1"
        # Authoritative; a name that it does not know does not exist (3).
        head = query[:2] + struct.pack(">HHHHH", 0x8580 if known else 0x8583, 1, int(answer), 0, 0)
        end = query.index(b"\0", 12) + 5
        record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + address if answer else b""
        server.sendto(head + query[12:end] + record, peer)
