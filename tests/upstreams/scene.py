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

    def wait_for(self, what, is_true):
        began = time.monotonic()
        while not is_true():
            if PATIENCE < time.monotonic() - began:
                raise SystemExit(f"{what} did not come; see {self.folder}")
            time.sleep(0.05)

    def listening(self, port):
        def connects():
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return True
            except OSError:
                return False
        self.wait_for(f"a listener on {port}", connects)

    def start_sidecar(self, program, port, listeners, stdout):
        """A sidecar with one worker whose log is JSON; it listens on `port`, and takes commands."""
        self.write("sidekey.toml", f"""
certs = "certs"
workers = 1
[admin]
control = "control.sock"
[log]
format = "json"
{listeners}
""")
        process = self.start(program, "run", "--config", self.path("sidekey.toml"), stdout=stdout)
        self.listening(port)
        # It is made later than the listeners.
        self.wait_for("the control socket", lambda: os.path.exists(self.path("control.sock")))
        return process

    def ask_sidecar(self, program, *command):
        """What a command of the operator's ends with."""
        return subprocess.run([program, *command, "--control", self.path("control.sock")], capture_output=True, text=True)

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
