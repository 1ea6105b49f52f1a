//! Content over an established connection, as the server sees it: pieces of any size, ends, new keys, and bytes that form no record.

use std::io::ErrorKind;

use super::*;

/// Bytes in which a piece that is lost or comes twice is seen.
fn numbered_bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

/// A server and a client that trust each other.
fn build_ends(version: TlsVersion) -> (IngressAcceptor, EgressConnector) {
    let HandshakeFixture { server, client, trust, .. } = handshake_fixture();
    let settings = settings_for_version(version);
    (build_acceptor(&server, &trust, &settings), build_connector(&client.pair(), &trust, &settings))
}

/// An established connection: the server's end, and the client's.
async fn establish(version: TlsVersion) -> (ServerStream<DuplexStream>, ClientStream<DuplexStream>) {
    let (acceptor, connector) = build_ends(version);
    let (at_server, at_client) = run_handshake(&acceptor, &connector).await;
    (at_server.ok().unwrap().stream, at_client.ok().unwrap().stream)
}

#[tokio::test]
async fn content_passes_both_ways_in_pieces_of_any_size_and_nothing_is_kept_of_it() {
    let all = numbered_bytes(700_000);
    for version in TLS_VERSIONS {
        for piece in [7_000, 16_384, 100_000] {
            let (mut server, client) = establish(version).await;
            let (mut from_server, mut to_server) = tokio::io::split(client);
            let send = async {
                for part in all.chunks(piece) {
                    to_server.write_all(part).await.unwrap();
                }
                to_server.flush().await.unwrap();
            };
            let echo = async {
                let (mut buffer, mut left) = (vec![0; piece / 3], all.len());
                while left > 0 {
                    let count = server.read(&mut buffer).await.unwrap();
                    left -= count;
                    server.write_all(&buffer[..count]).await.unwrap();
                    server.flush().await.unwrap();
                }
            };
            let mut received = vec![0; all.len()];
            let (.., read) = tokio::join!(send, echo, from_server.read_exact(&mut received));
            read.unwrap();
            assert!(received == all, "{version:?} in pieces of {piece}");
            assert_eq!(server.kept_bytes(), 0, "an idle connection keeps no buffer");
        }
    }
}

#[tokio::test]
async fn many_small_pieces_are_one_record_and_large_ones_are_sealed_where_they_lie() {
    let all = numbered_bytes(150_000);
    for pieces in
        [vec![10, 100, 10], vec![200, 40_000], vec![6, 20_000, 2, 6, 5_000, 2], vec![90_000, 3], vec![0, 50, 0]]
    {
        let (mut server, mut client) = establish(TlsVersion::Tls13).await;
        let mut given = Vec::new();
        let mut begin = 0;
        for length in &pieces {
            given.push(io::IoSlice::new(&all[begin..begin + length]));
            begin += length;
        }
        let mut slices = &mut given[..];
        let (mut received, mut expected) = (vec![0; begin], Vec::new());
        expected.extend_from_slice(&all[..begin]);
        let send = async {
            while !slices.iter().all(|slice| slice.is_empty()) {
                let count = server.write_vectored(slices).await.unwrap();
                assert!(count > 0);
                io::IoSlice::advance_slices(&mut slices, count);
            }
            server.flush().await.unwrap();
        };
        let (_, read) = tokio::join!(send, client.read_exact(&mut received));
        read.unwrap();
        assert!(received == expected, "{pieces:?}");
    }
}

#[tokio::test]
async fn content_that_comes_with_the_last_message_of_the_handshake_is_read() {
    for version in TLS_VERSIONS {
        let (acceptor, connector) = build_ends(version);
        let (near, far) = tokio::io::duplex(64 * 1024);
        let serve = async {
            let hello = read_client_hello(near, test_deadline()).await.ok().unwrap();
            let mut established = hello.finish(&acceptor, test_deadline()).await.ok().unwrap();
            // On HTTP/2 the server writes before it reads.
            established.stream.write_all(b"answer").await.unwrap();
            established.stream.flush().await.unwrap();
            let mut content = [0; 5];
            established.stream.read_exact(&mut content).await.unwrap();
            content
        };
        let ask = async {
            let mut established = connect(far, &connector, test_deadline()).await.ok().unwrap();
            established.stream.write_all(b"early").await.unwrap();
            established.stream.flush().await.unwrap();
            let mut answer = [0; 6];
            established.stream.read_exact(&mut answer).await.unwrap();
            answer
        };
        let (content, answer) = Box::pin(async { tokio::join!(serve, ask) }).await;
        assert_eq!((&content, &answer), (b"early", b"answer"), "the tickets before it are not lost");
    }
}

#[tokio::test]
async fn a_client_that_leaves_right_after_its_last_message_has_finished_the_handshake() {
    for version in TLS_VERSIONS {
        let (acceptor, connector) = build_ends(version);
        let (near, far) = tokio::io::duplex(64 * 1024);
        let serve = async {
            let hello = read_client_hello(near, test_deadline()).await.ok().unwrap();
            let mut established = hello.finish(&acceptor, test_deadline()).await.ok().unwrap();
            established.stream.read(&mut [0; 8]).await
        };
        let leave = async {
            let mut established = connect(far, &connector, test_deadline()).await.ok().unwrap();
            established.stream.shutdown().await.unwrap();
            established
        };
        let (read, _client) = Box::pin(async { tokio::join!(serve, leave) }).await;
        assert_eq!(read.unwrap(), 0, "{version:?}: an end, and no error");
    }
}

#[tokio::test]
async fn an_end_with_close_notify_is_an_end_and_one_without_is_an_error() {
    for version in TLS_VERSIONS {
        let (mut server, mut client) = establish(version).await;
        client.write_all(b"last").await.unwrap();
        client.shutdown().await.unwrap();
        let mut content = Vec::new();
        server.read_to_end(&mut content).await.unwrap();
        assert_eq!(content, b"last");
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0, "with close_notify of ours");
        assert_eq!(server.write_all(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);

        let (mut server, mut client) = establish(version).await;
        client.write_all(b"last").await.unwrap();
        client.flush().await.unwrap();
        drop(client);
        let mut content = Vec::new();
        assert_eq!(server.read_to_end(&mut content).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(content, b"last");
    }
}

#[tokio::test]
async fn new_keys_of_the_client_are_taken_and_answered() {
    let (mut server, mut client) = establish(TlsVersion::Tls13).await;
    for round in 0..3_u8 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_all(&[round]).await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), round);
        server.write_all(&[round, 9]).await.unwrap();
        server.flush().await.unwrap();
        assert_eq!((client.read_u8().await.unwrap(), client.read_u8().await.unwrap()), (round, 9));
    }
    assert_eq!(server.kept_bytes(), 0);
}

#[tokio::test]
async fn bytes_that_form_no_record_of_the_client_end_the_connection_with_an_alert() {
    for version in TLS_VERSIONS {
        let (mut server, mut client) = establish(version).await;
        let mut forged = vec![23, 3, 3, 0, 40];
        forged.extend_from_slice(&[7; 40]);
        forged.extend_from_slice(&[23, 3, 3, 0, 40]);
        client.get_mut().0.write_all(&forged).await.unwrap();
        let failed = classify_error(server.read_u8().await.unwrap_err(), false);
        assert!(matches!(failed, HandshakeFailureCause::Tls(rustls::Error::DecryptError)), "{failed:?}");
        assert!(server.read_u8().await.is_err() && server.write_all(b"more").await.is_err());
        server.shutdown().await.unwrap();
        let told = client.read_u8().await.unwrap_err();
        assert_eq!(received_alert(&told), Some("bad_record_mac"), "{told}");
    }
}

#[tokio::test]
async fn a_handshake_takes_little_room_in_the_task_that_waits_for_it() {
    let (acceptor, connector) = build_ends(TlsVersion::Tls13);
    let (near, far) = tokio::io::duplex(64 * 1024);
    let reading = read_client_hello(near, test_deadline());
    assert!(size_of_val(&reading) < 3072, "{} bytes until the ClientHello", size_of_val(&reading));
    let serve = async {
        let hello = reading.await.ok().unwrap();
        let finishing = hello.finish(&acceptor, test_deadline());
        assert!(size_of_val(&finishing) < 3072, "{} bytes from then on", size_of_val(&finishing));
        finishing.await.ok().unwrap()
    };
    let (established, _client) =
        Box::pin(async { tokio::join!(serve, connect(far, &connector, test_deadline())) }).await;
    assert!(size_of_val(&established) < 512, "the TLS of a connection is in a box of its own");
}
