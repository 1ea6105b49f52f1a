"""What the scripts beside this file have in common: a temporary folder, processes that end with it, ports that are waited for."""
import os, shutil, signal, socket, subprocess, tempfile, time

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

PATIENCE = 60   # seconds


class Folder:
    """Files and processes of one scene. `keep`: the folder stays, also where all went well."""

    def __init__(self, prefix, keep):
        self.folder, self.keep, self.processes = tempfile.mkdtemp(prefix=prefix), keep, []

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def write(self, name, data):
        """Renamed into place, as a watched folder wants it."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + "~", "wb") as file:
            file.write(data if isinstance(data, bytes) else data.encode())
        os.chmod(path + "~", 0o600)
        os.replace(path + "~", path)

    def write_server(self, certificate, key):
        """A server's pair in every form that a server wants."""
        self.write("server.crt", certificate)
        self.write("server.key", key)
        self.write("server.pem", certificate + key)
        self.write("server.p12", pkcs12.serialize_key_and_certificates(
            b"x", serialization.load_pem_private_key(key, None), x509.load_pem_x509_certificate(certificate), None,
            serialization.BestAvailableEncryption(b"x")))

    def start(self, *command, **more):
        process = subprocess.Popen(command, **{"stdout": subprocess.DEVNULL, "stderr": open(self.path("errors"), "ab"), **more})
        self.processes.append(process)
        return process

    def listening(self, port):
        began = time.monotonic()
        while time.monotonic() - began < PATIENCE:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return
            except OSError:
                time.sleep(0.05)
        raise SystemExit(f"nothing listens on {port}; see {self.folder}")

    def end(self, good):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        if good and not self.keep:
            shutil.rmtree(self.folder)
        else:
            print(f"    kept: {self.folder}")
