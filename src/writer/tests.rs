use tokio::sync::oneshot;

use super::state::tests::{api_contents, api_settings};
use super::*;
use crate::clock::ManualClock;
use crate::event::{EpochRecord, Event, KeyringRecord};
use crate::evidence::learned::{PeerSource, RefusalReport, SenderKind};
use crate::keyring::pool::{TEST_PAIRS, day};
use crate::keyring::{self, KeyringCommand};
use crate::log::{LogFormat, LogQueue};
use crate::metrics::Metrics;
use crate::snapshot::egress;
use crate::trust::PeerRole;

/// A writer that runs, and what a test sees of it.
struct WriterHarness {
    inputs: mpsc::Sender<WriterInput>,
    reader: Reader,
    follower: crate::event::EventFollower,
    task: tokio::task::JoinHandle<()>,
    lessons: Arc<RefusalMemory>,
    clock: Clock,
    hand: ManualClock,
}

impl WriterHarness {
    fn start(contents: FolderContents, mut memory: StateMemory) -> Self {
        let (clock, hand) = Clock::manual(day(25));
        let lines = LogQueue::channel(LogFormat::Text).0;
        let log = crate::log::LogSettings::default();
        let events = Arc::new(EventBus::new(lines, Arc::new(Metrics::new()), &log, clock.clone()).unwrap());
        let follower = events.subscribe();
        let (state, publisher, reader) =
            start_writer(api_settings(), contents, &mut memory, (&events, &clock)).unwrap();
        let (inputs, receiver) = mpsc::channel(8);
        let lessons = Arc::new(crate::evidence::RefusalMemory::new(&[], |_| {}));
        let shared = Arc::clone(&lessons);
        let around = (events, clock.clone());
        let task = tokio::task::spawn_local(run_writer(state, receiver, memory, publisher, shared, around));
        Self { inputs, reader, follower, task, lessons, clock, hand }
    }

    async fn send_command(
        &self,
        command: KeyringCommand,
    ) -> Result<(Epoch, Vec<keyring::KeyringEvent>), CommandRejection> {
        let (reply, answer) = oneshot::channel();
        self.inputs
            .send(WriterInput::Command { keyring: "api".into(), command, by: "uid 0".into(), reply })
            .await
            .unwrap();
        answer.await.unwrap()
    }

    /// Ends the writer; every event that it emitted.
    async fn finish(mut self) -> Vec<Event> {
        drop(self.inputs);
        self.task.await.unwrap();
        let mut told = Vec::new();
        while let Some(event) = self.follower.next().await {
            told.push(event);
        }
        told
    }

    fn current_epoch(&self) -> u64 {
        self.reader.latest().epoch.0
    }
}

fn block_on_local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

fn epochs_of(told: &[Event]) -> Vec<u64> {
    let epoch = |event: &Event| match event {
        Event::Epoch(EpochRecord { epoch, .. }) => Some(epoch.0),
        _ => None,
    };
    told.iter().filter_map(epoch).collect()
}

#[test]
fn a_rotation_is_one_epoch_and_its_events_name_it() {
    block_on_local(async {
        let running = WriterHarness::start(api_contents(&[1]), StateMemory::in_memory());
        assert_eq!(running.current_epoch(), 1);
        running.inputs.send(WriterInput::Folder(api_contents(&[1, 2]))).await.unwrap();
        running.inputs.send(WriterInput::Folder(api_contents(&[2, 1]))).await.unwrap();
        running.inputs.send(WriterInput::Tick).await.unwrap();
        let (reader, told) = (running.reader.clone(), running.finish().await);
        let snapshot = reader.latest();
        assert_eq!(snapshot.epoch, Epoch(2));
        assert_eq!(snapshot.ingresses["default"].candidates.0[0].key_pair, TEST_PAIRS[2].fingerprint());
        assert_eq!(epochs_of(&told), [1, 2], "the same content again and a tick start no epoch");
        let moved = told.iter().filter(|event| matches!(event, Event::Keyring(KeyringRecord { epoch: Epoch(2), .. })));
        assert_eq!(moved.count(), 2);
    });
}

#[test]
fn a_step_of_the_clock_makes_no_refusal_of_a_sender_older_or_younger_not_even_one_that_came_before_the_writer_saw_it() {
    for (step, comes_after) in [(40, false), (40, true), (-20, false), (-20, true)] {
        block_on_local(async {
            let running = WriterHarness::start(api_contents(&[1, 2]), StateMemory::in_memory());
            let source = PeerSource::new("default".into(), std::net::Ipv4Addr::LOCALHOST.into(), None);
            let sender = SenderKind { source, offer: 7 };
            let [old, new] = [1, 2].map(|pair| TEST_PAIRS[pair].fingerprint());
            let keyring = "api".into();
            let refusal = RefusalReport {
                sender: &sender,
                keyring: &keyring,
                key_pair: new,
                reason: "unknown_ca",
                certificate: None,
                next: Some(old),
            };
            let refuse = || running.lessons.record_refusal(&refusal, running.clock.read_recording_time().now);
            assert!(comes_after || refuse());
            running.hand.step_to(day(25 + step));
            assert!(!comes_after || refuse());
            running.inputs.send(WriterInput::Tick).await.unwrap();
            let lessons = Arc::clone(&running.lessons);
            let told = running.finish().await;
            assert!(told.iter().any(|event| matches!(event, Event::ClockStep(_))), "{told:?}");
            let shown = |days: i64| lessons.recall(&sender, day(25 + step + days)).and_then(|known| known.shown);
            assert_eq!((shown(34), shown(35)), (Some(old), None), "35 days, {step}, {comes_after}");
        });
    }
}

#[test]
fn a_command_is_answered_with_the_epoch_in_which_it_is_true() {
    block_on_local(async {
        let running = WriterHarness::start(api_contents(&[1, 2]), StateMemory::in_memory());
        let (epoch, events) = running.send_command(KeyringCommand::Rollback).await.unwrap();
        assert_eq!((epoch, events.len(), running.current_epoch()), (Epoch(2), 2, 2));
        let again = running.send_command(KeyringCommand::Promote(TEST_PAIRS[1].fingerprint())).await.unwrap();
        assert_eq!(again, (Epoch(2), Vec::new()), "it was true already");
        assert!(matches!(running.send_command(KeyringCommand::Rollback).await, Err(CommandRejection::Keyring(_))));
        assert_eq!(running.current_epoch(), 2, "a refused command changes nothing");
    });
}

#[test]
fn without_a_key_pair_the_first_epoch_says_what_is_waited_for() {
    block_on_local(async {
        let running = WriterHarness::start(FolderContents::default(), StateMemory::in_memory());
        assert!(running.reader.latest().ingresses.is_empty());
        running.inputs.send(WriterInput::Folder(api_contents(&[1]))).await.unwrap();
        let (reader, told) = (running.reader.clone(), running.finish().await);
        assert_eq!(reader.latest().ingresses.len(), 1);
        let waits: Vec<_> = told
            .iter()
            .filter_map(|event| match event {
                Event::Epoch(EpochRecord { waiting, .. }) => Some(waiting.len()),
                _ => None,
            })
            .collect();
        assert_eq!(waits, [1, 0]);
    });
}

#[test]
fn what_cannot_be_saved_is_served_all_the_same_and_told() {
    block_on_local(async {
        let at = tempfile::TempDir::new().unwrap();
        let state = at.path().join("state");
        let memory = StateMemory::open(state.clone(), false).unwrap();
        let running = WriterHarness::start(api_contents(&[1]), memory);
        std::fs::remove_dir_all(state.join("retained/api")).unwrap();
        // A file where the folder for retained pairs must be: no user, not even root, can write there.
        std::fs::write(state.join("retained/api"), "in the way").unwrap();
        running.inputs.send(WriterInput::Folder(api_contents(&[2]))).await.unwrap();
        let (reader, told) = (running.reader.clone(), running.finish().await);
        assert_eq!(reader.latest().epoch, Epoch(2));
        let not_remembered = told.iter().filter(|event| matches!(event, Event::NotRemembered(_)));
        assert_eq!(not_remembered.count(), 1);
    });
}

#[test]
fn settings_are_answered_with_the_epoch_in_which_they_are_in_use() {
    block_on_local(async {
        let running = WriterHarness::start(api_contents(&[1]), StateMemory::in_memory());
        let mut other = api_settings();
        other.ingresses[0].log_access = false;
        for _ in 0..2 {
            let (reply, answer) = oneshot::channel();
            running.inputs.send(WriterInput::Settings(Box::new(other.clone()), reply)).await.unwrap();
            assert_eq!(answer.await.unwrap(), Ok(Epoch(2)), "the same again starts no epoch");
        }
        let (reply, answer) = oneshot::channel();
        running.inputs.send(WriterInput::Forget { source: "192.0.2.1".to_owned(), reply }).await.unwrap();
        assert_eq!(answer.await.unwrap(), (Epoch(2), 0));
    });
}

#[test]
fn what_was_forgotten_does_not_come_back_with_a_report_that_was_queued_before() {
    block_on_local(async {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let running = WriterHarness::start(api_contents(&[1]), StateMemory::open(state.clone(), false).unwrap());
        let (reply, answer) = oneshot::channel();
        running.inputs.send(WriterInput::Forget { source: "192.0.2.1".to_owned(), reply }).await.unwrap();
        // Made while it was still known.
        let stale = serde_json::from_value(serde_json::json!({
            "source": { "listener": "api", "address": "192.0.2.1", "server_name": null }, "keyring": "api",
            "refused": [TEST_PAIRS[1].fingerprint()], "shown": TEST_PAIRS[2].fingerprint(), "reason": "unknown_ca",
            "since": day(24), "peer": null, "peer_fingerprint": null, "offer": 0,
        }));
        running.inputs.send(WriterInput::Learned(vec![stale.unwrap()])).await.unwrap();
        answer.await.unwrap();
        running.finish().await;
        let saved = std::fs::read_to_string(state.join("decisions.json")).unwrap();
        assert!(!saved.contains("192.0.2.1"), "{saved}");
    });
}

/// An egress with keyring "out", whose upstream must have this name.
fn settings_with_egress(server_name: &str) -> WriterSettings {
    let egress = egress::EgressSettings {
        expects: PeerRole::ServerName(server_name.into()),
        ..egress::EgressSettings::for_keyring("out", "out")
    };
    WriterSettings { egresses: vec![egress], ..api_settings() }
}

#[test]
fn contents_that_could_not_be_served_are_tried_again_with_the_next_settings() {
    block_on_local(async {
        let running = WriterHarness::start(api_contents(&[1]), StateMemory::in_memory());
        let not_served = async || {
            let (reply, answer) = oneshot::channel();
            running.inputs.send(WriterInput::Look { reply }).await.unwrap();
            answer.await.unwrap().not_served
        };
        let use_settings = async |server_name: &str| {
            let (reply, answer) = oneshot::channel();
            let settings = Box::new(settings_with_egress(server_name));
            running.inputs.send(WriterInput::Settings(settings, reply)).await.unwrap();
            answer.await.unwrap()
        };
        assert_eq!(use_settings("not a name").await, Ok(Epoch(2)), "without a key pair it only waits");
        let mut contents = api_contents(&[1]);
        let pair = api_contents(&[2]).keyrings.remove("api").unwrap();
        contents.keyrings.insert("out".into(), pair);
        running.inputs.send(WriterInput::Folder(contents)).await.unwrap();
        assert!(not_served().await.unwrap().contains("\"not a name\""));
        assert_eq!(use_settings("not a name either").await, Ok(Epoch(3)));
        assert!(not_served().await.unwrap().contains("\"not a name either\""), "it was tried, and says why today");
        assert_eq!(use_settings("a.example").await, Ok(Epoch(5)), "the answer is true of settings and folder");
        assert_eq!(not_served().await, None);
        let snapshot = running.reader.latest();
        assert_eq!(snapshot.epoch, Epoch(5));
        assert_eq!(snapshot.egresses["out"].candidates.0[0].key_pair, TEST_PAIRS[2].fingerprint());
        drop(snapshot);
        let told = running.finish().await;
        let told =
            told.iter().filter(|event| matches!(event, Event::Folder(record) if record.problem.reason == "not_served"));
        let over: Vec<bool> = told.map(|event| matches!(event, Event::Folder(record) if record.over)).collect();
        assert_eq!(over, [false, false, true]);
    });
}
