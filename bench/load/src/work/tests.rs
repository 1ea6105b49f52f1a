//! What a figure rests on: a server that stalls makes each request late that was planned meanwhile, and a wrong response is an error.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::LocalSet;

use super::*;
use crate::http1::MessageBuffer;

const STALL: Duration = Duration::from_millis(400);

/// Answers one connection: with 128 bytes at first, then with so many, and before its 20th response it stalls.
async fn serve_one(listener: TcpListener, length: usize, stalls: bool) -> Result<(), LoadError> {
    let (mut stream, _) = listener.accept().await?;
    let mut buffer = MessageBuffer::new(false);
    for number in 0.. {
        let Some(_) = buffer.read_head(&mut stream, |_| ()).await? else { break };
        if stalls && number == 20 {
            tokio::time::sleep(STALL).await;
        }
        let length = if number == 0 { 128 } else { length };
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
        stream.write_all(response.as_bytes()).await?;
    }
    Ok(())
}

/// One connection, 200 requests a second for a second.
fn run_for_a_second(length: usize, stalls: bool) -> Rc<WorkTally> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let run = async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port().to_string();
        spawn_local(serve_one(listener, length, stalls));
        let options = Options::read(["--port", &port, "--seconds", "1"].map(str::to_owned).into_iter())?;
        let (dialler, plan) = (Dialler::new(&options, false)?, RequestPlan::read(&options)?);
        let lanes = open_lanes(&dialler, &plan, 1).await?;
        let shared = Rc::new(SharedWork { dialler, plan, tally: WorkTally::open(&options)? });
        run_open_lanes(lanes, &shared, 200.0).await?;
        Ok::<_, LoadError>(Rc::clone(&shared.tally))
    };
    LocalSet::new().block_on(&runtime, run).expect("a run")
}

#[test]
fn a_stall_makes_each_request_late_that_was_planned_meanwhile() {
    let tally = run_for_a_second(128, true);
    let latencies = tally.latencies.borrow();
    // 80 were planned within the stall, and half of them at least half of it before its end.
    let late = latencies.iter().filter(|(_, micros)| u128::from(*micros) >= STALL.as_micros() / 2).count();
    assert!(late >= 39, "{late} of {} were late", latencies.len());
    assert!((100..=200).contains(&latencies.len()), "{} of 200 count", latencies.len());
}

#[test]
fn a_response_of_another_length_is_an_error_and_no_answer() {
    let tally = run_for_a_second(127, false);
    assert_eq!((tally.done.get(), tally.latencies.borrow().len()), (0, 0));
    assert!(tally.failed.get() > 0);
}
