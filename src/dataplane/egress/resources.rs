//! What one worker's egress connections share: its memory of each upstream, and the verdicts and tokens of all workers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use jiff::Timestamp;

use super::token::store::TokenStore;
use super::upstream::{UpstreamSelection, UpstreamState};
use super::verdicts::{VerdictKey, VerdictTable};
use crate::dataplane::context::WorkerContext;
use crate::event::Event;
use crate::http::error::RequestError as Error;
use crate::snapshot::{EgressSnapshot, Epoch};

/// What all workers know of upstreams.
#[derive(Clone, Default)]
pub(crate) struct UpstreamKnowledge {
    verdicts: Arc<VerdictTable>,
    tokens: Arc<TokenStore>,
}

/// The egress side of one worker.
pub(crate) struct EgressResources {
    pub(super) context: Rc<WorkerContext>,
    /// Whether upstreams accept our key pairs.
    pub(super) verdicts: Arc<VerdictTable>,
    /// Tokens that were fetched.
    pub(super) tokens: Arc<TokenStore>,
    upstreams: RefCell<BTreeMap<Arc<str>, Rc<UpstreamState>>>,
}

impl EgressResources {
    pub(crate) fn new(context: &Rc<WorkerContext>, known: UpstreamKnowledge) -> Self {
        let UpstreamKnowledge { verdicts, tokens } = known;
        Self { context: Rc::clone(context), verdicts, tokens, upstreams: RefCell::default() }
    }

    /// This worker's memory of the upstream of an egress.
    pub(super) fn upstream(&self, egress: &Arc<str>) -> Rc<UpstreamState> {
        Rc::clone(self.upstreams.borrow_mut().entry(Arc::clone(egress)).or_default())
    }

    /// For a new epoch: the next request to each upstream chooses again.
    pub(crate) fn forget_selections(&self) {
        for upstream in self.upstreams.borrow().values() {
            upstream.forget_selection();
        }
    }

    /// Removes connections to upstreams that have ended.
    pub(crate) fn sweep(&self) {
        let upstreams: Vec<_> = self.upstreams.borrow().values().cloned().collect();
        for upstream in upstreams {
            upstream.sweep();
        }
    }
}

/// An upstream, as the destination of one request.
#[derive(Clone, Copy)]
pub(super) struct UpstreamRef<'a> {
    pub(super) resources: &'a EgressResources,
    pub(super) egress: &'a EgressSnapshot,
    pub(super) epoch: Epoch,
    pub(super) upstream: &'a UpstreamState,
}

impl<'a> UpstreamRef<'a> {
    /// Which pairs may be shown to it.
    pub(super) fn select(self) -> Result<Rc<UpstreamSelection>, Error> {
        self.upstream.select((self.egress, self.epoch), self.context().clock(), self.context().waits())
    }

    /// The entry that facts of this upstream belong to, and when.
    pub(super) fn verdict_key(self) -> VerdictKey<'a> {
        VerdictKey { egress: self.egress, epoch: self.epoch, clock: self.context().clock() }
    }

    /// What the worker's connections need of it.
    pub(super) fn context(self) -> &'a WorkerContext {
        &self.resources.context
    }

    /// Emits an Event.
    pub(super) fn emit_event(self, event: Event) {
        self.context().events().emit(event);
    }

    /// The present time.
    pub(super) fn now(self) -> Timestamp {
        self.context().clock().now()
    }
}
