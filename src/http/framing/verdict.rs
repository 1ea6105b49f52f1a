//! What the guard of a connection's requests has found, for the task that serves it, and the answer to an upgrade back.
//!
//! Made by that task and given to the guard: nothing else reads it. `Sync`, as hyper wants a stream that may be sent; both
//! ends are on one thread.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Waker};

use http::{Method, Request, Uri};

use super::FramingFault;
use crate::http::error::RequestError as Error;

const NO_UPGRADE: u8 = 0;
const UPGRADE_ASKED: u8 = 1;
const UPGRADE_DECLINED: u8 = 2;
const UPGRADE_GRANTED: u8 = 3;

/// The findings of one connection's guard.
#[derive(Debug, Default)]
pub(crate) struct GuardVerdict {
    refused: OnceLock<RefusedRequest>,
    reported: AtomicBool,
    upgrade: AtomicU8,
    /// hyper has received bytes beyond the end of a whole request, or the stream is being closed.
    within: AtomicBool,
    /// The task that waits for the answer to an upgrade: hyper does not read again by itself where a read was pending.
    waiting: Mutex<Option<Waker>>,
}

/// A request that was not passed on.
#[derive(Debug)]
struct RefusedRequest {
    fault: FramingFault,
    /// Its beginning had been passed on.
    cut: bool,
    /// For the access line: its method and target, where they can be read.
    asked: Option<(Method, Uri)>,
}

/// The answer to a request with `Upgrade`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpgradeAnswer {
    /// It was granted: what follows is not judged.
    Granted,
    /// It was not: more requests follow.
    Declined,
}

/// The guard's end.
impl GuardVerdict {
    /// Records whether the stream stands where a request may begin.
    pub(super) fn record_boundary(&self, between: bool) {
        self.within.store(!between, Ordering::Relaxed);
    }

    /// Whether all that hyper has received are whole requests, and the stream is not being closed.
    pub(crate) fn is_between_requests(&self) -> bool {
        !self.within.load(Ordering::Relaxed) && self.fault().is_none()
    }

    /// A request is replaced by a stand-in; `asked` is what it looks like in the access line.
    pub(super) fn refuse_request(&self, fault: FramingFault, asked: Option<(Method, Uri)>) {
        let _ = self.refused.set(RefusedRequest { fault, cut: false, asked });
    }

    /// A request that was passed on in part breaks off.
    pub(super) fn cut_request(&self, fault: FramingFault) {
        let _ = self.refused.set(RefusedRequest { fault, cut: true, asked: None });
    }

    /// What is wrong with the request that was not passed on, if one was not.
    pub(super) fn fault(&self) -> Option<FramingFault> {
        self.refused.get().map(|refused| refused.fault)
    }

    /// A request with `Upgrade` is passed on.
    pub(super) fn record_upgrade_request(&self) {
        if self.upgrade.load(Ordering::Relaxed) == NO_UPGRADE {
            self.upgrade.store(UPGRADE_ASKED, Ordering::Relaxed);
        }
    }

    /// Wakes this task once the upgrade is answered.
    pub(super) fn await_upgrade_answer(&self, cx: &Context<'_>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
    }

    /// What became of the upgrade, if that is known. One that was declined may be followed by another.
    pub(super) fn take_upgrade_answer(&self) -> Option<UpgradeAnswer> {
        match self.upgrade.load(Ordering::Relaxed) {
            UPGRADE_GRANTED => Some(UpgradeAnswer::Granted),
            UPGRADE_DECLINED => {
                self.upgrade.store(NO_UPGRADE, Ordering::Relaxed);
                Some(UpgradeAnswer::Declined)
            }
            _ => None,
        }
    }
}

/// The end of the task that serves the connection.
impl GuardVerdict {
    /// Called with each request from hyper: what stands in for a refused one becomes recognisable, and looks for the
    /// access line like the original. True where the server has to record whether an upgrade was granted.
    pub(crate) fn prepare_request<B>(&self, request: &mut Request<B>) -> bool {
        if request.uri().path() == "*"
            && let Some(refused) = self.refused.get()
        {
            request.extensions_mut().insert(refused.fault);
            if let Some((method, uri)) = &refused.asked {
                *request.method_mut() = method.clone();
                *request.uri_mut() = uri.clone();
            }
        }
        self.upgrade.load(Ordering::Relaxed) == UPGRADE_ASKED && request.headers().contains_key(http::header::UPGRADE)
    }

    /// Records the answer to the request with `Upgrade`.
    pub(crate) fn record_upgrade_answer(&self, granted: bool) {
        self.upgrade.store(if granted { UPGRADE_GRANTED } else { UPGRADE_DECLINED }, Ordering::Release);
        if let Some(waiting) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waiting.wake();
        }
    }

    /// What an error of an exchange really was: a request that broke off looks like a failure of the backend.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match (self.refused.get(), &error) {
            (_, Error::Framing(_)) => self.reported.store(true, Ordering::Relaxed),
            (Some(RefusedRequest { fault, cut: true, .. }), Error::Exchange(_)) => {
                self.reported.store(true, Ordering::Relaxed);
                return Error::Framing(*fault);
            }
            _ => {}
        }
        error
    }

    /// A refusal that no response has reported, at the end of the connection.
    pub(crate) fn unreported_fault(&self) -> Option<FramingFault> {
        self.fault().filter(|_| !self.reported.load(Ordering::Relaxed))
    }
}
