//! Connections of HTTP/2 that are never idle: the old process lets them go all the same, and what runs on them ends whole.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{TakeOverScene, ended, streaming_backend};
use crate::support::eventually;

type RequestSender = http2::SendRequest<Empty<Bytes>>;

async fn ask(sender: &mut RequestSender, path: &str) -> Result<Bytes, hyper::Error> {
    sender.ready().await?;
    let request = Request::get(format!("https://localhost{path}")).body(Empty::new()).expect("a request");
    Ok(sender.send_request(request).await?.into_body().collect().await?.to_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_http2_peer_is_told_to_leave_and_its_long_stream_ends_whole() {
    let (backend, release) = streaming_backend().await;
    let scene = Arc::new(TakeOverScene::new(backend.address, "[shutdown]\ndrain = \"1s\""));
    let first = scene.start();
    let io = TokioIo::new(scene.peer("h2").tls(scene.address()).await.expect("connected"));
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.expect("a connection");
    tokio::spawn(connection);
    let mut streaming = sender.clone();
    let stream = tokio::spawn(async move { ask(&mut streaming, "/stream").await });
    eventually("the stream runs", || backend.seen().len() == 1).await;
    // One request after the other, for as long as the connection takes any: with the stream it is never idle.
    let mut asking = sender.clone();
    let busy = tokio::spawn(async move {
        let mut answered = 0;
        loop {
            match ask(&mut asking, "/quick").await {
                Ok(_) => answered += 1,
                Err(_) => return answered,
            }
        }
    });
    drop(sender);

    let one_more = Arc::clone(&scene);
    let second = tokio::task::spawn_blocking(move || one_more.take_over()).await.expect("the second took over");
    let told = tokio::time::timeout(crate::support::PATIENCE, busy).await;
    let answered = told.expect("the old process never tells it to leave").expect("joined");
    let asked = backend.seen().iter().filter(|seen| seen.uri.path() == "/quick").count();
    assert_eq!(answered, asked, "a request that was served has no answer");
    let answer = scene.peer("h2").get(scene.address(), "/quick").await.expect("the new process serves");
    assert_eq!(&*answer.body, b"quick");
    assert!(!stream.is_finished(), "the stream ended before the backend had answered");
    release.send_replace(true);
    assert_eq!(&*stream.await.expect("joined").expect("the stream was cut"), b"first last");
    assert_eq!(ended(first).await, Some(0), "with the last stream the old process ends");
    drop(second);
}
