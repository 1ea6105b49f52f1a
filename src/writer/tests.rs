use super::state::tests::{folder, settings};
use super::*;
use crate::event::Event;
use crate::keyring::pool::{PAIRS, day};
use crate::log::{Format, Lines};
use crate::metrics::Metrics;

/// A writer that runs, and what a test sees of it.
struct Running {
    inputs: mpsc::Sender<Input>,
    reader: Reader,
    follower: crate::event::Follower,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(contents: Contents, mut memory: Memory) -> Self {
        let (clock, _) = Clock::manual(day(25));
        let lines = Lines::channel(Format::Text).0;
        let log = crate::log::Settings::default();
        let events = Arc::new(Events::new(lines, Arc::new(Metrics::new()), &log, clock.clone()).unwrap());
        let follower = events.subscribe();
        let (state, publisher, reader) = begin(settings(), contents, &mut memory, (&events, &clock)).unwrap();
        let (inputs, receiver) = mpsc::channel(8);
        let task = tokio::task::spawn_local(run(state, receiver, memory, publisher, (events, clock)));
        Self { inputs, reader, follower, task }
    }

    async fn ask(&self, command: Command) -> Result<(Epoch, Vec<keyring::Event>), NotDone> {
        let (reply, answer) = oneshot::channel();
        self.inputs.send(Input::Command { keyring: "api".into(), command, by: "uid 0".into(), reply }).await.unwrap();
        answer.await.unwrap()
    }

    /// Ends the writer; every event that it emitted.
    async fn end(mut self) -> Vec<Event> {
        drop(self.inputs);
        self.task.await.unwrap();
        let mut told = Vec::new();
        while let Some(event) = self.follower.next().await {
            told.push(event);
        }
        told
    }

    fn epoch(&self) -> u64 {
        self.reader.take().epoch.0
    }
}

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

fn epochs(told: &[Event]) -> Vec<u64> {
    let epoch = |event: &Event| match event {
        Event::Epoch { epoch, .. } => Some(epoch.0),
        _ => None,
    };
    told.iter().filter_map(epoch).collect()
}

#[test]
fn a_rotation_is_one_epoch_and_its_events_name_it() {
    block_on(async {
        let running = Running::start(folder(&[1]), Memory::none());
        assert_eq!(running.epoch(), 1);
        running.inputs.send(Input::Folder(folder(&[1, 2]))).await.unwrap();
        running.inputs.send(Input::Folder(folder(&[2, 1]))).await.unwrap();
        running.inputs.send(Input::Tick).await.unwrap();
        let (reader, told) = (running.reader.clone(), running.end().await);
        let snapshot = reader.take();
        assert_eq!(snapshot.epoch, Epoch(2));
        assert_eq!(snapshot.ingresses["default"].candidates.0[0].key_pair, PAIRS[2].fingerprint());
        assert_eq!(epochs(&told), [1, 2], "the same content again and a tick start no epoch");
        let moved = told.iter().filter(|event| matches!(event, Event::Keyring { epoch: Epoch(2), .. }));
        assert_eq!(moved.count(), 2);
    });
}

#[test]
fn a_command_is_answered_with_the_epoch_in_which_it_is_true() {
    block_on(async {
        let running = Running::start(folder(&[1, 2]), Memory::none());
        let (epoch, events) = running.ask(Command::Rollback).await.unwrap();
        assert_eq!((epoch, events.len(), running.epoch()), (Epoch(2), 2, 2));
        let again = running.ask(Command::Promote(PAIRS[1].fingerprint())).await.unwrap();
        assert_eq!(again, (Epoch(2), Vec::new()), "it was true already");
        assert!(matches!(running.ask(Command::Rollback).await, Err(NotDone::Keyring(_))));
        assert_eq!(running.epoch(), 2, "a refused command changes nothing");
    });
}

#[test]
fn without_a_key_pair_the_first_epoch_says_what_is_waited_for() {
    block_on(async {
        let running = Running::start(Contents::default(), Memory::none());
        assert!(running.reader.take().ingresses.is_empty());
        running.inputs.send(Input::Folder(folder(&[1]))).await.unwrap();
        let (reader, told) = (running.reader.clone(), running.end().await);
        assert_eq!(reader.take().ingresses.len(), 1);
        let waits: Vec<_> = told
            .iter()
            .filter_map(|event| match event {
                Event::Epoch { waiting, .. } => Some(waiting.len()),
                _ => None,
            })
            .collect();
        assert_eq!(waits, [1, 0]);
    });
}

#[test]
fn what_cannot_be_saved_is_served_all_the_same_and_told() {
    block_on(async {
        let at = tempfile::TempDir::new().unwrap();
        let state = at.path().join("state");
        let memory = Memory::open(state.clone()).unwrap();
        let running = Running::start(folder(&[1]), memory);
        std::fs::remove_dir_all(state.join("retained/api")).unwrap();
        // A file where the folder for retained pairs must be: no user, not even root, can write there.
        std::fs::write(state.join("retained/api"), "in the way").unwrap();
        running.inputs.send(Input::Folder(folder(&[2]))).await.unwrap();
        let (reader, told) = (running.reader.clone(), running.end().await);
        assert_eq!(reader.take().epoch, Epoch(2));
        let not_remembered = told.iter().filter(|event| matches!(event, Event::NotRemembered { .. }));
        assert_eq!(not_remembered.count(), 1);
    });
}
