//! The kinds of load: requests over open connections, a connection for each request, and connections that are only held.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::{JoinSet, spawn_local};

use crate::LoadError;
use crate::dial::Dialler;
use crate::lane::{RequestLane, RequestPlan};
use crate::options::Options;
use crate::pace::RequestPace;
use crate::pki::PairSigner;
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
        Some(rate) => run_paced(lanes, &shared, rate).await?,
    }
    print_tally(&shared.tally, cpu, options).await
}

async fn print_tally(
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

/// Requests that are due, and lanes that are free: each lane in its turn, so that thousands of connections are all used.
#[derive(Default)]
struct DueQueue {
    due: VecDeque<Instant>,
    free: VecDeque<usize>,
}

async fn run_paced(lanes: Vec<RequestLane>, shared: &Rc<SharedWork>, rate: f64) -> Result<(), LoadError> {
    let queue = Rc::new(RefCell::new(DueQueue::default()));
    let (mut tasks, mut senders) = (JoinSet::new(), Vec::<Sender<Instant>>::new());
    for (index, lane) in lanes.into_iter().enumerate() {
        let (sender, given) = channel(1);
        senders.push(sender);
        tasks.spawn_local(run_paced_lane(lane, index, given, Rc::clone(&queue), Rc::clone(shared)));
    }
    tokio::task::yield_now().await;
    let mut pace = RequestPace::start(rate)?;
    while Instant::now() < shared.tally.end && !tasks.is_empty() {
        for planned in pace.wait_due().await?.filter(|planned| *planned < shared.tally.end) {
            let mut queue = queue.borrow_mut();
            let free =
                std::iter::from_fn(|| queue.free.pop_front()).find(|index| senders[*index].try_send(planned).is_ok());
            if free.is_none() {
                queue.due.push_back(planned);
            }
        }
        while tasks.try_join_next().is_some() {}
    }
    // Lanes that wait end; those that work go on with what is still due.
    drop(senders);
    let all = async { while tasks.join_next().await.is_some() {} };
    let in_time = tokio::time::timeout(Duration::from_secs(20), all).await;
    let left = queue.borrow_mut().due.drain(..).collect::<Vec<_>>();
    for planned in left {
        shared.tally.record_outcome(planned, Err("a planned request was never sent".into()));
    }
    in_time.map_err(|_| "requests were not answered 20 s after the end".into())
}

async fn run_paced_lane(
    mut lane: RequestLane,
    index: usize,
    mut given: Receiver<Instant>,
    queue: Rc<RefCell<DueQueue>>,
    shared: Rc<SharedWork>,
) {
    loop {
        let due = queue.borrow_mut().due.pop_front();
        let planned = match due {
            Some(planned) => planned,
            None => {
                queue.borrow_mut().free.push_back(index);
                let Some(planned) = given.recv().await else { return };
                shared.tally.record_lateness(planned);
                planned
            }
        };
        if !send_request(&mut lane, &shared, planned).await {
            return;
        }
    }
}

/// Each request over a connection of its own.
pub(crate) async fn run_handshakes(options: &Options) -> Result<(), LoadError> {
    let (plan, resume) = (RequestPlan::read(options)?, options.has("resume"));
    let signer = match options.has("distinct") {
        true => Some(Rc::new(PairSigner::open(&options.folder("certs")?)?)),
        false => None,
    };
    let (mut diallers, lanes) = (Vec::new(), options.number_or("connections", 1)?);
    for _ in 0..lanes {
        let dialler = Dialler::new(options, resume)?;
        if resume {
            // The first session of each lane, which brings its first ticket: it does not count.
            connect_once(&dialler, &plan).await?;
        }
        diallers.push(dialler);
    }
    let tally = WorkTally::open(options)?;
    let cpu = spawn_local(Rc::clone(&tally).watch_cpu(options.has("gate")));
    let mut tasks = JoinSet::new();
    for (index, dialler) in (0..).zip(diallers) {
        let shared = SharedWork { dialler, plan: Rc::clone(&plan), tally: Rc::clone(&tally) };
        let signer = signer.clone();
        tasks.spawn_local(async move {
            // No two runs have the same clients.
            let mut number = index + u64::from(std::process::id()) * 1_000_000;
            while shared.tally.take_turn() {
                let dialler = match &signer {
                    None => Ok(shared.dialler.clone()),
                    Some(signer) => shared.dialler.with_client(signer, number),
                };
                number += lanes;
                let since = Instant::now();
                let outcome = match dialler {
                    Ok(dialler) => connect_once(&dialler, &shared.plan).await,
                    Err(error) => Err(error),
                };
                shared.tally.record_outcome(since, outcome);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    print_tally(&tally, cpu, options).await
}

/// A connection, a request, the end; whether the session was resumed.
async fn connect_once(dialler: &Dialler, plan: &RequestPlan) -> Result<bool, LoadError> {
    let (mut lane, facts) = RequestLane::open(dialler, plan).await?;
    lane.exchange(plan).await?;
    lane.close().await;
    Ok(facts.resumed)
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
