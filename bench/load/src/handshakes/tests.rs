//! What a figure of handshakes rests on: they are planned ahead, of many clients in turns, and as many are resumed as were asked for.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::*;
use crate::http1::MessageBuffer;
use crate::serve::serve_listener;

const STALL: Duration = Duration::from_millis(400);

/// Runs handshakes with these options at a server.
fn run_against<S: Future<Output = Result<(), LoadError>> + 'static>(
    serve: impl FnOnce(TcpListener) -> S,
    options: &str,
) -> Rc<WorkTally> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let run = async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        spawn_local(serve(listener));
        let options = format!("--port {port} {options}");
        let options = Options::read(options.split_whitespace().map(str::to_owned))?;
        let clients = open_clients(&options).await?;
        let tally = WorkTally::open(&options)?;
        run_lanes(&options, &clients, &tally).await?;
        Ok::<_, LoadError>(tally)
    };
    LocalSet::new().block_on(&runtime, run).expect("a run")
}

/// Answers one request on each connection, one connection after the other, and stalls before the 20th.
async fn serve_with_stall(listener: TcpListener) -> Result<(), LoadError> {
    for number in 0.. {
        let (mut stream, _) = listener.accept().await?;
        if number == 20 {
            tokio::time::sleep(STALL).await;
        }
        MessageBuffer::new(false).read_head(&mut stream, |_| ()).await?;
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: 128\r\n\r\n{}", "x".repeat(128));
        stream.write_all(response.as_bytes()).await?;
    }
    Ok(())
}

#[test]
fn a_stall_makes_each_connection_late_that_was_planned_meanwhile() {
    let tally = run_against(serve_with_stall, "--seconds 1 --rate 200 --connections 4");
    let latencies = tally.latencies.borrow();
    let late = latencies.iter().filter(|(_, micros)| u128::from(*micros) >= STALL.as_micros() / 2).count();
    assert!(late >= 39, "{late} of {} were late", latencies.len());
    assert!((100..=200).contains(&latencies.len()), "{} of 200 count", latencies.len());
}

#[test]
fn as_many_are_resumed_as_were_asked_for_and_every_client_comes_in_its_turn() {
    let folder = std::env::temp_dir().join(format!("sidekey-load-{}", std::process::id()));
    crate::pki::write_certificates(&folder).expect("certificates");
    for number in 0..3 {
        std::fs::copy(folder.join("client-both.pem"), folder.join(format!("{number}.pem"))).expect("a copy");
    }
    let certs = folder.display().to_string();
    let serving = Options::read(["--certs", &certs].map(str::to_owned).into_iter()).expect("options");
    let serve = |listener| async move { serve_listener(listener, &serving).await };
    let options = format!("--certs {certs} --pairs {certs} --names localhost,other.test --resumed 40 --count 20");
    let tally = run_against(serve, &format!("{options} --connections 2"));
    std::fs::remove_dir_all(&folder).expect("it is removed");
    assert_eq!((tally.done.get(), tally.failed.get(), tally.resumed.get()), (20, 0, 8));
}

#[test]
fn resumed_connections_are_spread_evenly() {
    let count = |percent, numbers: std::ops::Range<u64>| numbers.filter(|number| is_resumed(*number, percent)).count();
    assert_eq!((count(0, 0..1_000), count(100, 0..1_000), count(30, 0..1_000)), (0, 1_000, 300));
    assert!((0..990).all(|from| count(30, from..from + 10) == 3));
}
