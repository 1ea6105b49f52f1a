// An upstream on Go's net/http: a client certificate of the accepted CAs demanded in the handshake, one version of TLS.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
)

func main() {
	port, folder, version := os.Args[1], os.Args[2], os.Args[3]
	accepted := x509.NewCertPool()
	pem, err := os.ReadFile(folder + "/accepted.pem")
	if err != nil || !accepted.AppendCertsFromPEM(pem) {
		panic("no accepted.pem")
	}
	speaks := map[string]uint16{"TLSv1.2": tls.VersionTLS12, "TLSv1.3": tls.VersionTLS13}[version]
	config := &tls.Config{ClientCAs: accepted, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: speaks, MaxVersion: speaks}
	echo := http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) { io.Copy(answer, request.Body) })
	server := &http.Server{Addr: "127.0.0.1:" + port, Handler: echo, TLSConfig: config}
	panic(server.ListenAndServeTLS(folder+"/server.crt", folder+"/server.key"))
}
