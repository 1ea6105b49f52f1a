import com.sun.net.httpserver.*;
import java.io.*;
import java.net.InetSocketAddress;
import java.nio.file.*;
import java.security.*;
import java.security.cert.*;
import java.util.HexFormat;
import java.util.concurrent.Executors;
import javax.net.ssl.*;

/**
 * An upstream on the JDK's own TLS: HTTP/1.1, a client certificate demanded in the handshake. Echoes bodies and tells, line
 * by line on its standard output, which request came with which certificate. It reads the accepted CAs at each handshake.
 */
public class Server {
    static X509TrustManager accepted(Path folder) throws Exception {
        var store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        int count = 0;
        try (var in = Files.newInputStream(folder.resolve("accepted.pem"))) {
            for (var one : CertificateFactory.getInstance("X.509").generateCertificates(in)) {
                store.setCertificateEntry("ca" + count++, one);
            }
        }
        var factory = TrustManagerFactory.getInstance("PKIX");
        factory.init(store);
        return (X509TrustManager) factory.getTrustManagers()[0];
    }

    public static void main(String[] arguments) throws Exception {
        var folder = Path.of(arguments[1]);
        var keys = KeyStore.getInstance("PKCS12");
        try (var in = Files.newInputStream(folder.resolve("server.p12"))) {
            keys.load(in, "x".toCharArray());
        }
        var factory = KeyManagerFactory.getInstance("PKIX");
        factory.init(keys, "x".toCharArray());
        // Asks anew whom to trust, and names no CA unless it is told to.
        var trust = new X509ExtendedTrustManager() {
            void check(X509Certificate[] chain, String type) throws CertificateException {
                try {
                    accepted(folder).checkClientTrusted(chain, type);
                } catch (CertificateException error) {
                    throw error;
                } catch (Exception error) {
                    throw new CertificateException(error);
                }
            }
            public void checkClientTrusted(X509Certificate[] c, String t) throws CertificateException { check(c, t); }
            public void checkClientTrusted(X509Certificate[] c, String t, java.net.Socket s) throws CertificateException { check(c, t); }
            public void checkClientTrusted(X509Certificate[] c, String t, SSLEngine e) throws CertificateException { check(c, t); }
            public void checkServerTrusted(X509Certificate[] c, String t) { throw new IllegalStateException(); }
            public void checkServerTrusted(X509Certificate[] c, String t, java.net.Socket s) { throw new IllegalStateException(); }
            public void checkServerTrusted(X509Certificate[] c, String t, SSLEngine e) { throw new IllegalStateException(); }
            public X509Certificate[] getAcceptedIssuers() {
                try {
                    return arguments.length > 3 ? accepted(folder).getAcceptedIssuers() : new X509Certificate[0];
                } catch (Exception error) {
                    throw new IllegalStateException(error);
                }
            }
        };
        var context = SSLContext.getInstance("TLS");
        context.init(factory.getKeyManagers(), new TrustManager[] {trust}, null);
        var server = HttpsServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])), 256);
        server.setHttpsConfigurator(new HttpsConfigurator(context) {
            public void configure(HttpsParameters parameters) {
                var wanted = context.getDefaultSSLParameters();
                wanted.setNeedClientAuth(true);
                wanted.setProtocols(new String[] {arguments[2]});
                parameters.setSSLParameters(wanted);
            }
        });
        server.createContext("/", exchange -> {
            var body = exchange.getRequestBody().readAllBytes();
            try {
                var session = ((HttpsExchange) exchange).getSSLSession();
                var digest = MessageDigest.getInstance("SHA-1").digest(session.getPeerCertificates()[0].getEncoded());
                var id = exchange.getRequestHeaders().getFirst("id");
                synchronized (System.out) {
                    System.out.println(id + " " + HexFormat.of().withUpperCase().formatHex(digest));
                }
            } catch (GeneralSecurityException error) {
                throw new IOException(error);
            }
            boolean head = exchange.getRequestMethod().equals("HEAD");
            exchange.sendResponseHeaders(200, head || body.length == 0 ? -1 : body.length);
            if (body.length > 0) exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.setExecutor(Executors.newFixedThreadPool(16));
        server.start();
    }
}
