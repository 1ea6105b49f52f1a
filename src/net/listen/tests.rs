//! What must hold of sockets: when they refuse, whose they are, and what is left of their files.

use super::*;
use std::io::{Read, Write};

fn loopback_address() -> ListenAddress {
    ListenAddress::Tcp("127.0.0.1:0".parse().unwrap())
}

#[test]
fn a_bound_socket_refuses_until_it_listens() {
    let bound = BoundSocket::bind(&loopback_address()).unwrap();
    let error = std::net::TcpStream::connect(bound.local_addr().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(!bound.listen_state().is_listening());
}

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let error = BoundSocket::bind(&ListenAddress::Tcp(at)).err().expect("the port is taken");
    assert!(matches!(error, SocketError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&at.to_string()), "{error}");
}

#[tokio::test]
async fn two_workers_share_one_queue() {
    let bound = BoundSocket::bind(&loopback_address()).unwrap();
    let (one, two) = (bound.listen().unwrap(), bound.share().listen().unwrap());
    assert!(bound.share().listen_state().is_listening());
    let address = bound.local_addr().unwrap();
    let _client = std::net::TcpStream::connect(address).unwrap();
    drop(one);
    let accepted = two.accept().await.unwrap();
    assert!(accepted.from.unwrap().ip().is_loopback());
    let SocketStream::Tcp(stream) = accepted.into_stream().unwrap() else { panic!("not TCP") };
    let socket = socket2::SockRef::from(&stream);
    assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_INTERVAL);
}

#[tokio::test]
async fn every_address_is_dual_stack_and_ipv4_keeps_its_name() {
    let bound = BoundSocket::bind(&ListenAddress::AnyTcp(0)).unwrap();
    let listening = bound.listen().unwrap();
    let port = bound.local_addr().unwrap().port();
    let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert!(listening.accept().await.unwrap().from.unwrap().is_ipv4());
}

#[tokio::test]
async fn a_stale_socket_file_is_replaced_and_a_living_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let stale = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let address = ListenAddress::Unix { path: path.clone(), mode: None, group: None };
    assert!(matches!(BoundSocket::bind(&address), Err(SocketError::InUse { .. })));
    drop(stale);

    let bound = BoundSocket::bind(&address).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let listening = bound.listen().unwrap();
    let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let SocketStream::Unix(stream) = listening.accept().await.unwrap().into_stream().unwrap() else {
        panic!("not Unix")
    };
    client.write_all(b"hello").unwrap();
    let mut stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");

    drop((bound, listening));
    assert!(!path.exists(), "the socket file goes with its listener");
}

#[test]
fn a_file_in_the_way_is_never_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    fs::write(&path, "precious").unwrap();
    let address = ListenAddress::Unix { path: path.clone(), mode: None, group: None };
    assert!(matches!(BoundSocket::bind(&address), Err(SocketError::Listen { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn groups_are_found_by_name_and_by_number() {
    assert_eq!(find_group("root:x:0:\nweb:x:33:alice,bob\n", "web"), Some(33));
    assert_eq!(find_group("root:x:0:\n", "web"), None);
    assert_eq!(find_group_id("12"), Some(12));
}
