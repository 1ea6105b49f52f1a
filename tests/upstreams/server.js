// An upstream on Node: HTTP/1.1 or HTTP/2, a client certificate demanded in the handshake. Echoes bodies and tells, line by
// line on its standard output, which request came with which certificate. Each SIGHUP reads the accepted CAs anew.
const fs = require("fs");
const [port, folder, http2, version] = process.argv.slice(2);
const secure = () => ({
  cert: fs.readFileSync(`${folder}/server.crt`), key: fs.readFileSync(`${folder}/server.key`),
  ca: fs.readFileSync(`${folder}/accepted.pem`), minVersion: version, maxVersion: version,
});
const options = { ...secure(), requestCert: true, rejectUnauthorized: true, ALPNProtocols: [http2 === "h2" ? "h2" : "http/1.1"] };
const answer = (request, response) => {
  const socket = request.stream?.session?.socket ?? request.socket;
  process.stdout.write(`${request.headers["id"]} ${socket.getPeerCertificate().fingerprint.replaceAll(":", "")}\n`);
  const body = [];
  request.on("data", (part) => body.push(part));
  request.on("end", () => response.end(Buffer.concat(body)));
  request.on("error", () => {});
};
const server = http2 === "h2" ? require("http2").createSecureServer(options, answer)
  : require("https").createServer({ ...options, keepAliveTimeout: 600000 }, answer);
server.on("sessionError", () => {});
process.on("SIGHUP", () => server.setSecureContext(secure()));
server.listen(Number(port), "127.0.0.1");
