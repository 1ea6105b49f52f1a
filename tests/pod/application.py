"""Stands in for an application: HTTP/1.1 on loopback, which ends as it should: at SIGTERM it listens no longer, finishes what runs.

    application.py                 serves on $LISTEN until SIGTERM; GET /slow/SECONDS takes that long
    application.py work CODE       a Job's work: asks $PARTNER_URL five times, then exits with CODE (or 9, when one failed)
    application.py stop CODE       the same, in a pod of plain containers: `sidekey stop` at the end, as docs/jobs.md says
"""
import asyncio, os, re, signal, subprocess, sys, urllib.request


class Application:
    def __init__(self):
        self.ending, self.open, self.busy = False, set(), set()

    async def connection(self, reader, writer):
        self.open.add(writer)
        try:
            while not self.ending:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.busy.add(writer)
                length = re.search(r"(?i)^content-length: *(\d+)", head, re.M)
                await reader.readexactly(int(length.group(1)) if length else 0)
                slow = re.match(r"GET /slow/(\d+) ", head)
                if slow:
                    print("slow request", flush=True)
                    await asyncio.sleep(int(slow.group(1)))
                peer = re.search(r"(?i)^x-sidekey-peer: *(\S+)", head, re.M)
                body = f"hello {peer.group(1) if peer else 'stranger'}\n".encode()
                last = b"connection: close\r\n" if self.ending else b""
                writer.write(b"HTTP/1.1 200 OK\r\n" + last + b"content-length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
                self.busy.discard(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open.discard(writer)
            self.busy.discard(writer)
            writer.close()

    async def serve(self, host, port):
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        server = await asyncio.start_server(self.connection, host, port, backlog=1024)
        await ended.wait()
        self.ending = True
        server.close()
        for writer in self.open - self.busy:
            writer.close()
        while self.busy:
            await asyncio.sleep(0.01)


def work(code):
    for _ in range(5):
        try:
            with urllib.request.urlopen(os.environ["PARTNER_URL"] + "/orders", timeout=10) as answer:
                print(answer.status, answer.read(), flush=True)
        except OSError as error:
            print(error, flush=True)
            return 9
    return code


def main():
    match sys.argv[1:]:
        case ["work", code]:
            return work(int(code))
        case ["stop", code]:
            subprocess.run(["/usr/local/bin/sidekey", "wait", "--timeout", "30"], check=True)
            result = work(int(code))
            subprocess.run(["/usr/local/bin/sidekey", "stop"], check=True)
            return result
    host, port = os.environ["LISTEN"].rsplit(":", 1)
    return asyncio.run(Application().serve(host, int(port)))


sys.exit(main())
