"""Requests without a pause through a sidecar, on kept and on fresh connections, until told to stop: what was lost?

As a program (tests/image): load.py ADDRESS NAME CA CERTIFICATE KEY FILE runs until FILE exists. A line for each certificate that it
is shown first, then one of JSON.
"""
import http.client, json, pathlib, ssl, sys, threading


class Load:
    """`kept` and `fresh` threads. A fresh connection shows which certificate peers are shown now."""

    def __init__(self, address, name, context, kept=2, fresh=2, pause=0.02):
        self.address, self.name, self.context, self.pause = address, name, context, pause
        self.over, self.lock = threading.Event(), threading.Lock()
        self.answered, self.failed, self.shown = 0, [], set()
        kinds = [False] * kept + [True] * fresh
        self.threads = [threading.Thread(target=self.go_on, args=(kind,), daemon=True) for kind in kinds]

    def start(self):
        for one in self.threads:
            one.start()
        return self

    def connect(self):
        connection = http.client.HTTPSConnection(self.name, self.address[1], context=self.context, timeout=30)
        # The name is verified and sent, the address is dialled.
        connection._create_connection = lambda _, timeout, source: __import__("socket").create_connection(self.address, timeout)
        connection.connect()
        serial = connection.sock.getpeercert()["serialNumber"]
        with self.lock:
            self.shown.add(serial)
        return connection

    def go_on(self, fresh):
        connection = None
        while not self.over.wait(self.pause):
            try:
                connection = connection or self.connect()
                connection.request("GET", "/")
                answer = connection.getresponse()
                body = answer.read()
                closes = answer.will_close
                self.note(None if answer.status == 200 and body else f"{answer.status} {body[:80]!r}")
            except (OSError, http.client.HTTPException) as error:
                closes = True
                self.note(repr(error))
            if fresh or closes:
                connection.close() if connection else None
                connection = None

    def note(self, failure):
        with self.lock:
            if failure is None:
                self.answered += 1
            else:
                self.failed.append(failure)

    def stop(self):
        self.over.set()
        for one in self.threads:
            one.join()
        return self.failed


def main(address, name, authority, certificate, key, until):
    host, port = address.rsplit(":", 1)
    context = ssl.create_default_context(cafile=authority)
    context.load_cert_chain(certificate, key)
    load, told = Load((host, int(port)), name, context).start(), set()
    while not pathlib.Path(until).exists():
        for serial in sorted(load.shown - told):
            told.add(serial)
            print(f"shown {serial}", flush=True)
        threading.Event().wait(0.05)
    load.stop()
    print(json.dumps({"answered": load.answered, "failed": load.failed, "shown": sorted(load.shown)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
