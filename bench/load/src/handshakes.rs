//! Load by handshakes: each request over a connection of its own, by one client or by many, as fast as they are answered or planned
//! ahead, full or resumed.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use tokio::task::{JoinSet, spawn_local};

use crate::LoadError;
use crate::dial::Dialler;
use crate::lane::{RequestLane, RequestPlan};
use crate::options::Options;
use crate::pace::{PacedLane, run_paced};
use crate::pki::PairSigner;
use crate::tally::WorkTally;
use crate::work::print_tally;

/// Each request over a connection of its own.
pub(crate) async fn run_handshakes(options: &Options) -> Result<(), LoadError> {
    let clients = open_clients(options).await?;
    let tally = WorkTally::open(options)?;
    let cpu = spawn_local(Rc::clone(&tally).watch_cpu(options.has("gate")));
    run_lanes(options, &clients, &tally).await?;
    print_tally(&tally, cpu, options).await
}

/// The clients, ready to begin.
async fn open_clients(options: &Options) -> Result<Rc<HandshakeClients>, LoadError> {
    let lanes = options.number_or("connections", 1)?;
    Ok(Rc::new(match options.has("distinct") {
        true => HandshakeClients::Distinct(Box::new(DistinctClients::open(options, lanes)?)),
        false => HandshakeClients::Known(KnownClients::open(options, lanes).await?),
    }))
}

async fn run_lanes(options: &Options, clients: &Rc<HandshakeClients>, tally: &Rc<WorkTally>) -> Result<(), LoadError> {
    let lanes = 0..options.number_or("connections", 1)?;
    let lanes = lanes.map(|lane| HandshakeLane { lane, clients: Rc::clone(clients), tally: Rc::clone(tally) });
    if let Some(rate) = options.number("rate")? {
        return run_paced(lanes.collect(), tally, rate).await;
    }
    let mut tasks = JoinSet::new();
    for mut lane in lanes {
        tasks.spawn_local(async move {
            while lane.tally.take_turn() {
                lane.run_planned(Instant::now()).await;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Opens one connection after the other.
struct HandshakeLane {
    lane: usize,
    clients: Rc<HandshakeClients>,
    tally: Rc<WorkTally>,
}

impl PacedLane for HandshakeLane {
    /// A failed connection is recorded as such; the next one is a new one.
    async fn run_planned(&mut self, planned: Instant) -> bool {
        let outcome = match self.clients.take_client(self.lane) {
            Ok((dialler, plan)) => connect_once(&dialler, &plan).await,
            Err(error) => Err(error),
        };
        self.tally.record_outcome(planned, outcome);
        true
    }
}

/// A connection, a request, the end; whether the session was resumed.
async fn connect_once(dialler: &Dialler, plan: &RequestPlan) -> Result<bool, LoadError> {
    let (mut lane, facts) = RequestLane::open(dialler, plan).await?;
    lane.exchange(plan).await?;
    lane.close().await;
    Ok(facts.resumed)
}

/// Who comes.
enum HandshakeClients {
    /// Each connection of a client that has never come before.
    Distinct(Box<DistinctClients>),
    /// Clients that come again.
    Known(KnownClients),
}

impl HandshakeClients {
    /// Whose turn it is in this lane: how it connects, and what it asks for.
    fn take_client(&self, lane: usize) -> Result<(Dialler, Rc<RequestPlan>), LoadError> {
        match self {
            Self::Distinct(clients) => clients.sign_next(lane),
            Self::Known(clients) => Ok(clients.take_next(lane)),
        }
    }
}

struct DistinctClients {
    signer: PairSigner,
    dialler: Dialler,
    plan: Rc<RequestPlan>,
    /// The number of each lane's next client.
    next: Vec<Cell<u64>>,
}

impl DistinctClients {
    fn open(options: &Options, lanes: usize) -> Result<Self, LoadError> {
        // No two runs have the same clients.
        let first = u64::from(std::process::id()) * 1_000_000;
        Ok(Self {
            signer: PairSigner::open(&options.folder("certs")?)?,
            dialler: Dialler::new(options, false)?,
            plan: RequestPlan::read(options)?,
            next: (first..).take(lanes).map(Cell::new).collect(),
        })
    }

    fn sign_next(&self, lane: usize) -> Result<(Dialler, Rc<RequestPlan>), LoadError> {
        let number = self.next[lane].get();
        self.next[lane].set(number + self.next.len() as u64);
        Ok((self.dialler.with_client(&self.signer, number)?, Rc::clone(&self.plan)))
    }
}

/// One client: full handshakes, resumed ones, and what it asks for.
struct KnownClient {
    full: Dialler,
    resuming: Dialler,
    plan: Rc<RequestPlan>,
}

struct KnownClients {
    clients: Vec<KnownClient>,
    /// In turns, whichever lane is free; otherwise each lane is a client of its own, so that its last ticket is there.
    in_turns: bool,
    /// So many of a hundred connections are resumed.
    resumed: u64,
    taken: Cell<u64>,
}

impl KnownClients {
    /// Those of `--pairs`, or the one of `--pair`. Each has its first ticket, where sessions are to be resumed.
    async fn open(options: &Options, lanes: usize) -> Result<Self, LoadError> {
        let resumed = if options.has("resume") { 100 } else { options.number_or("resumed", 0)? };
        let clients = match options.text("pairs") {
            None => (0..lanes).map(|_| KnownClient::open(options)).collect::<Result<Vec<_>, _>>()?,
            Some(folder) => read_clients(options, PathBuf::from(folder))?,
        };
        if resumed > 0 {
            for client in &clients {
                // It does not count.
                connect_once(&client.resuming, &client.plan).await?;
            }
        }
        Ok(Self { clients, in_turns: options.has("pairs"), resumed, taken: Cell::default() })
    }

    fn take_next(&self, lane: usize) -> (Dialler, Rc<RequestPlan>) {
        let number = self.taken.get();
        self.taken.set(number + 1);
        let index = if self.in_turns { number as usize % self.clients.len() } else { lane };
        let client = &self.clients[index];
        let dialler = if is_resumed(number, self.resumed) { &client.resuming } else { &client.full };
        (dialler.clone(), Rc::clone(&client.plan))
    }
}

impl KnownClient {
    fn open(options: &Options) -> Result<Self, LoadError> {
        let plan = RequestPlan::read(options)?;
        Ok(Self { full: Dialler::new(options, false)?, resuming: Dialler::new(options, true)?, plan })
    }
}

/// The clients of a folder, `0.pem`, `1.pem` and so on, each a key and a chain in one file, in this order; with the server names of
/// `--names` in turns.
fn read_clients(options: &Options, folder: PathBuf) -> Result<Vec<KnownClient>, LoadError> {
    let names: Vec<&str> = options.text("names").unwrap_or("localhost").split(',').collect();
    let mut plans = Vec::new();
    for name in &names {
        plans.push(RequestPlan::for_host(options, name)?);
    }
    let (full, resuming) = (Dialler::new(options, false)?, Dialler::new(options, true)?);
    let mut clients = Vec::new();
    while let path = folder.join(format!("{}.pem", clients.len()))
        && path.exists()
    {
        let turn = clients.len() % names.len();
        clients.push(KnownClient {
            full: full.with_pair(&path, names[turn], false)?,
            resuming: resuming.with_pair(&path, names[turn], true)?,
            plan: Rc::clone(&plans[turn]),
        });
    }
    match clients.is_empty() {
        true => Err(format!("{} has no 0.pem", folder.display()).into()),
        false => Ok(clients),
    }
}

/// Whether the connection of this number is one of those `percent` of a hundred, which are spread evenly.
fn is_resumed(number: u64, percent: u64) -> bool {
    (number + 1) * percent / 100 > number * percent / 100
}
