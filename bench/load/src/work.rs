//! Load over connections that stay open: requests, and connections that are only held; and one request to see what comes of it.
//! A connection for each request is the business of `handshakes`.

#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::{JoinSet, spawn_local};

use crate::LoadError;
use crate::dial::Dialler;
use crate::lane::{RequestLane, RequestPlan};
use crate::options::Options;
use crate::pace::{PacedLane, run_paced};
use crate::tally::WorkTally;

/// How many connections are opened at once.
const AT_ONCE: usize = 16;

/// What all lanes of a run share.
struct SharedWork {
    dialler: Dialler,
    plan: Rc<RequestPlan>,
    tally: Rc<WorkTally>,
}

/// Requests over connections that stay open.
pub(crate) async fn run_requests(options: &Options) -> Result<(), LoadError> {
    let (dialler, plan) = (Dialler::new(options, false)?, RequestPlan::read(options)?);
    let streams = options.number_or("streams", 1)?;
    let mut lanes = Vec::new();
    for lane in open_lanes(&dialler, &plan, options.number_or("connections", 1)?).await? {
        lanes.extend(lane.split(streams));
    }
    wait_at_gate(options, lanes.len()).await?;
    let shared = Rc::new(SharedWork { dialler, plan, tally: WorkTally::open(options)? });
    let cpu = spawn_local(Rc::clone(&shared.tally).watch_cpu(options.has("gate")));
    match options.number("rate")? {
        None => run_unpaced(lanes, &shared).await,
        Some(rate) => run_open_lanes(lanes, &shared, rate).await?,
    }
    print_tally(&shared.tally, cpu, options).await
}

pub(crate) async fn print_tally(
    tally: &Rc<WorkTally>,
    cpu: tokio::task::JoinHandle<Value>,
    options: &Options,
) -> Result<(), LoadError> {
    // Where a number was asked for, the time has no end that could be waited for.
    let cpu = if options.has("count") { Value::Null } else { cpu.await? };
    tally.print(cpu);
    Ok(())
}

async fn run_unpaced(lanes: Vec<RequestLane>, shared: &Rc<SharedWork>) {
    let mut tasks = JoinSet::new();
    for mut lane in lanes {
        let shared = Rc::clone(shared);
        tasks.spawn_local(async move {
            while shared.tally.take_turn() {
                if !send_request(&mut lane, &shared, Instant::now()).await {
                    return;
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// One request; whether the lane can go on.
async fn send_request(lane: &mut RequestLane, shared: &SharedWork, since: Instant) -> bool {
    let outcome = lane.exchange(&shared.plan).await;
    let (closing, failed) = (matches!(outcome, Ok(true)), outcome.is_err());
    shared.tally.record_outcome(since, outcome.map(|_| false));
    if closing {
        match RequestLane::open(&shared.dialler, &shared.plan).await {
            Ok((opened, _)) => *lane = opened,
            Err(error) => {
                shared.tally.record_outcome(since, Err(error));
                return false;
            }
        }
        shared.tally.redialled.set(shared.tally.redialled.get() + 1);
    }
    !failed
}

/// A lane over a connection that stays open.
struct OpenLane {
    lane: RequestLane,
    shared: Rc<SharedWork>,
}

impl PacedLane for OpenLane {
    async fn run_planned(&mut self, planned: Instant) -> bool {
        send_request(&mut self.lane, &self.shared, planned).await
    }
}

async fn run_open_lanes(lanes: Vec<RequestLane>, shared: &Rc<SharedWork>, rate: f64) -> Result<(), LoadError> {
    let lanes = lanes.into_iter().map(|lane| OpenLane { lane, shared: Rc::clone(shared) }).collect();
    run_paced(lanes, &shared.tally, rate).await
}

/// Connections that are held open after one request each; then one more on each tells whether it is still there.
pub(crate) async fn hold_connections(options: &Options) -> Result<(), LoadError> {
    let (dialler, plan) = (Dialler::new(options, false)?, RequestPlan::read(options)?);
    let mut held = open_lanes(&dialler, &plan, options.number_or("connections", 1)?).await?;
    println!("{}", json!({ "open": held.len() }));
    wait_for_line().await?;
    let mut lost = 0;
    for lane in &mut held {
        lost += u64::from(lane.exchange(&plan).await.is_err());
    }
    println!("{}", json!({ "held": held.len(), "lost": lost }));
    Ok(())
}

/// Connections that have carried one request each, so that what comes once does not count.
async fn open_lanes(dialler: &Dialler, plan: &Rc<RequestPlan>, count: usize) -> Result<Vec<RequestLane>, LoadError> {
    let (mut lanes, mut tasks) = (Vec::with_capacity(count), JoinSet::new());
    for _ in 0..count {
        if tasks.len() == AT_ONCE {
            lanes.extend(tasks.join_next().await.transpose()?.transpose()?);
        }
        let (dialler, plan) = (dialler.clone(), Rc::clone(plan));
        tasks.spawn_local(async move {
            let (mut lane, _) = RequestLane::open(&dialler, &plan).await?;
            lane.exchange(&plan).await?;
            Ok::<_, LoadError>(lane)
        });
    }
    while let Some(lane) = tasks.join_next().await {
        lanes.push(lane??);
    }
    Ok(lanes)
}

async fn wait_at_gate(options: &Options, open: usize) -> Result<(), LoadError> {
    if options.has("gate") {
        println!("{}", json!({ "open": open }));
        wait_for_line().await?;
    }
    Ok(())
}

async fn wait_for_line() -> Result<(), LoadError> {
    let line = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    line.await??;
    Ok(())
}

/// One request: what it was answered, or what went wrong. Either is an answer.
pub(crate) async fn try_request(options: &Options) -> Result<(), LoadError> {
    let (dialler, plan) = (Dialler::new(options, false)?, RequestPlan::read(options)?);
    let attempt = async {
        let (mut lane, facts) = RequestLane::open(&dialler, &plan).await?;
        let (status, body) = lane.ask(&plan).await?;
        Ok::<_, LoadError>(json!({ "status": status, "body": body, "negotiated": facts.negotiated }))
    };
    let line = match tokio::time::timeout(Duration::from_secs(5), attempt).await {
        Ok(Ok(line)) => line,
        Ok(Err(error)) => json!({ "error": error.to_string() }),
        Err(_) => json!({ "error": "no answer within 5 s" }),
    };
    println!("{line}");
    Ok(())
}
